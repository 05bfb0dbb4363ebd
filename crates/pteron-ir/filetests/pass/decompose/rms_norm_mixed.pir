; test: pass decompose
module "t" {
  const c0 "norm.weight" : f32[64]
  graph f(%0: bf16[1, 64]) {
    %1 = aten::rms_norm(%0, [64], c0, 1e-5)
    return %1
  }
}
; ---
module "t" {
  const c0 "norm.weight" : f32[64]
  const c1 "_scalar_f32_1e-5" : f32[] = [1e-5]
  graph f(%0: bf16[1, 64]) {
    %1 = aten::_to_copy(%0, f32) : f32[1, 64] #1
    %2 = aten::mul.Tensor(%1, %1) : f32[1, 64] #2
    %3 = aten::mean.dim(%2, [-1], true) : f32[1, 1] #3
    %4 = aten::add.Tensor(%3, c1) : f32[1, 1] #4
    %5 = aten::rsqrt(%4) : f32[1, 1] #5
    %6 = aten::mul.Tensor(%1, %5) : f32[1, 64] #6
    %7 = aten::_to_copy(%6, bf16) : bf16[1, 64] #7
    %8 = aten::mul.Tensor(%7, c0) : f32[1, 64] #8
    %9 = aten::_to_copy(%8, bf16) : bf16[1, 64] #9
    return %9
  }
}
