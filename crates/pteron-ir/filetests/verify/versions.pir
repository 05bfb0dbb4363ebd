; test: verify
module "t" {
  const c0 "w" : f32[4]
  buffer b0 "state" : f32[4]
  graph f(%0: f32[4]) {
    %1 = aten::copy_(%0, c0) : f32[4] #0
    ; error: versions: %0 is written, and is an input of the graph
    %2 = aten::copy_(c0, %0) : f32[4] #1
    ; error: versions: %0 is read after it was written: its memory holds a newer version
    ; error: versions: c0 is written, and is constant c0
    %3 = aten::copy_(b0, %0) : f32[4] #2
    ; error: versions: %0 is read after it was written: its memory holds a newer version
    %4 = aten::copy_(b0, %0) : f32[4] #3
    ; error: versions: %0 is read after it was written: its memory holds a newer version
    ; error: versions: b0 is written a second time: its newest version is another
    %5 = aten::copy_(%4, %4) : f32[4] #4
    ; error: versions: %4 is read by the node that writes it
    %6 = aten::relu(b0) : f32[4] #5
    ; error: versions: b0 is read after it was written: its memory holds a newer version
    mutate b0 = %4
    ; error: versions: %4 is read after it was written: its memory holds a newer version
    return b0
    ; error: versions: b0 is read after it was written: its memory holds a newer version
  }
}
