; test: cat
; test: verify
module "arguments" {
  graph f(%0: f32[1, 3, 8, 8], %1: f32[4], %2: i64[2], %3: int(s0), %4: f32[4, s0], %5: float, %6: bool) where s0 in 1..=9 {
    %7 = aten::upsample_nearest2d.vec(%0, None, [2.0, 2.0]) : f32[1, 3, 16, 16] #0
    %8 = aten::gelu(%1) : f32[4] #1
    %9 = aten::gelu(%1, "tanh") : f32[4] #2
    %10 = aten::clamp(%1, max=1.5) : f32[4] #3
    %11 = aten::clamp(%1, -inf, inf) : f32[4] #4
    %12 = aten::index.Tensor(%4, [None, %2]) : f32[4, 2] #5
    %13 = aten::view_copy(%4, [%3, 4]) : f32[s0, 4] #6
    %14 = aten::_to_copy(%1, f16) : f16[4] #7
    %15 = aten::_to_copy(%1, memory_format=0) : f32[4] #8
    %16 = aten::mul.Scalar(%1, 2) : f32[4] #9
    %17 = aten::mul.Scalar(%1, 2.0) : f32[4] #10
    %18 = aten::mul.Scalar(%1, nan) : f32[4] #11
    %19 = aten::full([2], true) : bool[2] #12
    %20 = aten::sum.dim_IntList(%1, 0) : f32[] #13
    %21, %22, %23 = aten::split_with_sizes_copy(%1, [1, 1, 2]) : f32[1], f32[1], f32[2] #14
    %24 = aten::cat([%1, %21]) : f32[5] #15
    return %7
  }
}
; ---
module "arguments" {
  graph f(%0: f32[1, 3, 8, 8], %1: f32[4], %2: i64[2], %3: int(s0), %4: f32[4, s0], %5: float, %6: bool) where s0 in 1..=9 {
    %7 = aten::upsample_nearest2d.vec(%0, scale_factors=[2.0, 2.0]) : f32[1, 3, 16, 16] #0
    %8 = aten::gelu(%1) : f32[4] #1
    %9 = aten::gelu(%1, "tanh") : f32[4] #2
    %10 = aten::clamp(%1, max=1.5) : f32[4] #3
    %11 = aten::clamp(%1, -inf, inf) : f32[4] #4
    %12 = aten::index.Tensor(%4, [None, %2]) : f32[4, 2] #5
    %13 = aten::view_copy(%4, [%3, 4]) : f32[s0, 4] #6
    %14 = aten::_to_copy(%1, f16) : f16[4] #7
    %15 = aten::_to_copy(%1, memory_format=0) : f32[4] #8
    %16 = aten::mul.Scalar(%1, 2) : f32[4] #9
    %17 = aten::mul.Scalar(%1, 2.0) : f32[4] #10
    %18 = aten::mul.Scalar(%1, nan) : f32[4] #11
    %19 = aten::full([2], true) : bool[2] #12
    %20 = aten::sum.dim_IntList(%1, 0) : f32[] #13
    %21, %22, %23 = aten::split_with_sizes_copy(%1, [1, 1, 2]) : f32[1], f32[1], f32[2] #14
    %24 = aten::cat([%1, %21]) : f32[5] #15
    return %7
  }
}
