; test: pass dce
module "t" {
  buffer b0 "state" : f32[4]
  buffer b1 "other" : f32[4]
  graph f(%0: f32[4]) {
    %1 = aten::relu(%0)
    %2 = aten::neg(%1)
    %3 = aten::abs(%1)
    %4 = aten::copy_(b0, %0)
    %5 = aten::copy_(b1, %3)
    custom "my::log"(%3)
    mutate b0 = %4
    return %0
  }
}
; ---
module "t" {
  buffer b0 "state" : f32[4]
  buffer b1 "other" : f32[4]
  graph f(%0: f32[4]) {
    %1 = aten::relu(%0) : f32[4] #0
    %2 = aten::abs(%1) : f32[4] #2
    %3 = aten::copy_(b0, %0) : f32[4] #3
    custom "my::log"(%2) #5
    mutate b0 = %3
    return %0
  }
}
