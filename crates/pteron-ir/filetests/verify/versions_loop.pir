; test: verify
module "t" {
  buffer b0 "state" : f32[4]
  graph f(%0: f32[4], %1: bool) {
    %2 = aten::clone(%0) : f32[4] #0
    %3 = loop(%0) : f32[4] #1 body(%4: f32[4]) {
      %5 = aten::copy_(%2, %4) : f32[4] #2
      ; error: versions: %2 is written in every round of a loop it is not made in
      %6 = aten::copy_(b0, %4) : f32[4] #3
      ; error: versions: b0 is written in every round of a loop it is not made in
      yield %1, %6
    }
    return %3
  }
}
