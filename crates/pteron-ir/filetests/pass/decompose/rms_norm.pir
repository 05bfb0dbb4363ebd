; test: pass decompose
module "t" {
  const c0 "norm.weight" : f32[64]
  const c1 "norm16.weight" : f16[64]
  graph f(%0: f32[1, s0, 64], %1: f16[1, s0, 64]) where s0 in 1..=31 {
    %2 = aten::rms_norm(%0, [64], c0, 1e-5) @"layers.0.norm" #7
    %3 = aten::rms_norm(%2, [64], None, 1e-5) @"layers.1.norm"
    %4 = aten::rms_norm(%1, [64], c1, 1e-6)
    return %3, %4
  }
}
; ---
module "t" {
  const c0 "norm.weight" : f32[64]
  const c1 "norm16.weight" : f16[64]
  const c2 "_scalar_f32_1e-5" : f32[] = [1e-5]
  const c3 "_scalar_f32_1e-6" : f32[] = [1e-6]
  graph f(%0: f32[1, s0, 64], %1: f16[1, s0, 64]) where s0 in 1..=31 {
    %2 = aten::mul.Tensor(%0, %0) : f32[1, s0, 64] @"layers.0.norm" #10
    %3 = aten::mean.dim(%2, [-1], true) : f32[1, s0, 1] @"layers.0.norm" #11
    %4 = aten::add.Tensor(%3, c2) : f32[1, s0, 1] @"layers.0.norm" #12
    %5 = aten::rsqrt(%4) : f32[1, s0, 1] @"layers.0.norm" #13
    %6 = aten::mul.Tensor(%0, %5) : f32[1, s0, 64] @"layers.0.norm" #14
    %7 = aten::mul.Tensor(%6, c0) : f32[1, s0, 64] @"layers.0.norm" #15
    %8 = aten::mul.Tensor(%7, %7) : f32[1, s0, 64] @"layers.1.norm" #16
    %9 = aten::mean.dim(%8, [-1], true) : f32[1, s0, 1] @"layers.1.norm" #17
    %10 = aten::add.Tensor(%9, c2) : f32[1, s0, 1] @"layers.1.norm" #18
    %11 = aten::rsqrt(%10) : f32[1, s0, 1] @"layers.1.norm" #19
    %12 = aten::mul.Tensor(%7, %11) : f32[1, s0, 64] @"layers.1.norm" #20
    %13 = aten::_to_copy(%1, f32) : f32[1, s0, 64] #21
    %14 = aten::mul.Tensor(%13, %13) : f32[1, s0, 64] #22
    %15 = aten::mean.dim(%14, [-1], true) : f32[1, s0, 1] #23
    %16 = aten::add.Tensor(%15, c3) : f32[1, s0, 1] #24
    %17 = aten::rsqrt(%16) : f32[1, s0, 1] #25
    %18 = aten::mul.Tensor(%13, %17) : f32[1, s0, 64] #26
    %19 = aten::_to_copy(%18, f16) : f16[1, s0, 64] #27
    %20 = aten::mul.Tensor(%19, c1) : f16[1, s0, 64] #28
    return %12, %20
  }
}
