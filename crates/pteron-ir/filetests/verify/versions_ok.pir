; test: verify
module "t" {
  buffer b0 "state" : f32[4]
  graph f(%0: f32[4], %1: bool) {
    %2 = aten::relu(b0) : f32[4] #0
    %3 = aten::copy_(b0, %2) : f32[4] #1
    %4 = aten::copy_(%3, %0) : f32[4] #2
    %5 = aten::clone(%0) : f32[4] #3
    %6 = cond(%1) : f32[4] #4 then {
      %7 = aten::copy_(%5, %2) : f32[4] #5
      yield %7
    } else {
      %8 = aten::copy_(%5, %4) : f32[4] #6
      %9 = aten::relu(%8) : f32[4] #7
      yield %9
    }
    %10 = loop(%0) : f32[4] #8 body(%11: f32[4]) {
      %12 = aten::copy_(%11, %6) : f32[4] #9
      yield %1, %12
    }
    mutate b0 = %4
    return %6, %10
  }
}
