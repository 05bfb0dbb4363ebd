; test: pass canonicalize, dce
module "t" {
  buffer b0 "state" : f32[4, 3]
  graph f(%0: f32[2, 6], %1: f32[3, s0], %2: int(s0)) where s0 in 1..=9 {
    %3 = aten::view_copy(%0, [3, 4])
    %4 = aten::view_copy(%3, [4, -1])
    %5 = aten::view_copy(%4, [12])
    %6 = aten::view_copy(%1, [%2, 3])
    %7 = aten::view_copy(%6, [-1])
    %8 = aten::view_copy(b0, [12])
    %9 = aten::view_copy(%8, [2, 6])
    %10 = aten::copy_(b0, %4)
    mutate b0 = %10
    return %5, %7, %9
  }
}
; ---
module "t" {
  buffer b0 "state" : f32[4, 3]
  graph f(%0: f32[2, 6], %1: f32[3, s0], %2: int(s0)) where s0 in 1..=9 {
    %3 = aten::view_copy(%0, [4, -1]) : f32[4, 3] #1
    %4 = aten::view_copy(%0, [12]) : f32[12] #2
    %5 = aten::view_copy(%1, [-1]) : f32[3*s0] #4
    %6 = aten::view_copy(b0, [12]) : f32[12] #5
    %7 = aten::view_copy(%6, [2, 6]) : f32[2, 6] #6
    %8 = aten::copy_(b0, %3) : f32[4, 3] #7
    mutate b0 = %8
    return %4, %5, %7
  }
}
