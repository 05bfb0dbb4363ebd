; test: pass decompose
module "t" {
  graph f(%0: bf16[1, 4, s0, 16], %1: bf16[1, 4, 32, 16], %2: bf16[1, 4, 32, 8], %3: bool[1, 1, s0, 32]) where s0 in 1..=31 {
    %4 = aten::scaled_dot_product_attention(%0, %1, %2, %3, scale=-0.25)
    return %4
  }
}
; ---
module "t" {
  const c0 "_scalar_f32_0.0" : f32[] = [0.0]
  const c1 "_scalar_f32_-inf" : f32[] = [-inf]
  graph f(%0: bf16[1, 4, s0, 16], %1: bf16[1, 4, 32, 16], %2: bf16[1, 4, 32, 8], %3: bool[1, 1, s0, 32]) where s0 in 1..=31 {
    %4 = aten::_to_copy(%0, f32) : f32[1, 4, s0, 16] #1
    %5 = aten::_to_copy(%1, f32) : f32[1, 4, 32, 16] #2
    %6 = aten::_to_copy(%2, f32) : f32[1, 4, 32, 8] #3
    %7 = aten::mul.Scalar(%4, -0.5) : f32[1, 4, s0, 16] #4
    %8 = aten::mul.Scalar(%5, 0.5) : f32[1, 4, 32, 16] #5
    %9 = aten::view_copy(%7, [4, -1, 16]) : f32[4, s0, 16] #6
    %10 = aten::view_copy(%8, [4, 32, 16]) : f32[4, 32, 16] #7
    %11 = aten::view_copy(%6, [4, 32, 8]) : f32[4, 32, 8] #8
    %12 = aten::permute_copy(%10, [0, 2, 1]) : f32[4, 16, 32] #9
    %13 = aten::bmm(%9, %12) : f32[4, s0, 32] #10
    %14 = aten::squeeze_copy.dims(%3, [0, 1]) : bool[s0, 32] #11
    %15 = aten::where.self(%14, c0, c1) : f32[s0, 32] #12
    %16 = aten::add.Tensor(%13, %15) : f32[4, s0, 32] #13
    %17 = aten::_softmax(%16, -1, false) : f32[4, s0, 32] #14
    %18 = aten::eq.Scalar(%16, -inf) : bool[4, s0, 32] #15
    %19 = aten::logical_not(%18) : bool[4, s0, 32] #16
    %20 = aten::any.dim(%19, -1, true) : bool[4, s0, 1] #17
    %21 = aten::logical_not(%20) : bool[4, s0, 1] #18
    %22 = aten::full_like(%17, 0) : f32[4, s0, 32] #19
    %23 = aten::where.self(%21, %22, %17) : f32[4, s0, 32] #20
    %24 = aten::bmm(%23, %11) : f32[4, s0, 8] #21
    %25 = aten::view_copy(%24, [1, 4, -1, 8]) : f32[1, 4, s0, 8] #22
    %26 = aten::_to_copy(%25, bf16) : bf16[1, 4, s0, 8] #23
    return %26
  }
}
