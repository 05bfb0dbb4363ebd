; test: pass canonicalize
module "t" {
  buffer b0 "state" : f32[2]
  buffer b1 "read" : f32[2]
  graph f(%0: f32[2], %1: f32[1, 2, 3, 3]{0,2,3,1}) {
    %2 = aten::relu(%0)
    %3 = aten::clone(%2)
    %4 = aten::_to_copy(%0, f32)
    %5 = aten::neg(%4)
    %6 = aten::_to_copy(%0, f16)
    %7 = aten::clone(b0)
    %8 = aten::copy_(b0, %5)
    %9 = aten::abs(%7)
    %10 = aten::clone(b1)
    %11 = aten::abs(%10)
    %12 = aten::clone(%0)
    %13 = dim_order_ops::_clone_dim_order(%1, dim_order=[0, 1, 2, 3])
    %14 = aten::relu(%13)
    %15 = aten::clone(%9)
    %16 = aten::copy_(%15, %11)
    %17 = aten::view_copy(%16, [2])
    mutate b0 = %8
    return %3, %6, %12, %14, %17
  }
}
; ---
module "t" {
  buffer b0 "state" : f32[2]
  buffer b1 "read" : f32[2]
  graph f(%0: f32[2], %1: f32[1, 2, 3, 3]{0,2,3,1}) {
    %2 = aten::relu(%0) : f32[2] #0
    %3 = aten::neg(%0) : f32[2] #3
    %4 = aten::_to_copy(%0, f16) : f16[2] #4
    %5 = aten::clone(b0) : f32[2] #5
    %6 = aten::copy_(b0, %3) : f32[2] #6
    %7 = aten::abs(%5) : f32[2] #7
    %8 = aten::abs(b1) : f32[2] #9
    %9 = aten::clone(%0) : f32[2] #10
    %10 = dim_order_ops::_clone_dim_order(%1, dim_order=[0, 1, 2, 3]) : f32[1, 2, 3, 3] #11
    %11 = aten::relu(%10) : f32[1, 2, 3, 3] #12
    %12 = aten::copy_(%7, %8) : f32[2] #14
    %13 = aten::view_copy(%12, [2]) : f32[2] #15
    mutate b0 = %6
    return %2, %4, %9, %11, %13
  }
}
