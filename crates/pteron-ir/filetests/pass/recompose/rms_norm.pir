; test: pass recompose_rms_norm, dce
module "t" {
  const c0 "norm.weight" : f32[4] = [1.0, 0.5, 2.0, 1.0]
  const c1 "eps" : f32[] = [1e-5]
  graph f(%0: f32[1, s0, 4]) where s0 in 1..=8 {
    %1 = aten::mul.Tensor(%0, %0) @"norm"
    %2 = aten::mean.dim(%1, [-1], true) @"norm"
    %3 = aten::add.Tensor(%2, c1) @"norm"
    %4 = aten::rsqrt(%3) @"norm"
    %5 = aten::mul.Tensor(%0, %4) @"norm"
    %6 = aten::mul.Tensor(%5, c0) @"norm"
    %7 = aten::pow.Tensor_Scalar(%6, 2) @"other"
    %8 = aten::mean.dim(%7, [2], true) @"other"
    %9 = aten::add.Scalar(%8, 1e-6) @"other"
    %10 = aten::rsqrt(%9) @"other"
    %11 = aten::mul.Tensor(%10, %6) @"other"
    %12 = aten::mul.Tensor(c0, %11) @"other"
    return %12
  }
}
; ---
module "t" {
  const c0 "norm.weight" : f32[4] = [1.0, 0.5, 2.0, 1.0]
  const c1 "eps" : f32[] = [1e-5]
  graph f(%0: f32[1, s0, 4]) where s0 in 1..=8 {
    %1 = aten::rms_norm(%0, [4], c0, 1e-5) : f32[1, s0, 4] @"norm" #5
    %2 = aten::rms_norm(%1, [4], c0, 1e-6) : f32[1, s0, 4] @"other" #11
    return %2
  }
}
