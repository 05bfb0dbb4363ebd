; test: pass recompose_rms_norm
module "t" {
  const c0 "norm.weight" : f32[4] = [1.0, 0.5, 2.0, 1.0]
  graph f(%0: f32[2, 4], %1: f32[2, 4]) {
    %2 = aten::mul.Tensor(%0, %1) @"of two tensors"
    %3 = aten::mean.dim(%2, [-1], true)
    %4 = aten::add.Scalar(%3, 1e-5)
    %5 = aten::rsqrt(%4)
    %6 = aten::mul.Tensor(%0, %5)
    %7 = aten::mul.Tensor(%6, c0)
    %8 = aten::mul.Tensor(%0, %0) @"over the wrong dimension"
    %9 = aten::mean.dim(%8, [0], true)
    %10 = aten::add.Scalar(%9, 1e-5)
    %11 = aten::rsqrt(%10)
    %12 = aten::mul.Tensor(%0, %11)
    %13 = aten::mul.Tensor(%12, c0)
    return %7, %13
  }
}
; ---
module "t" {
  const c0 "norm.weight" : f32[4] = [1.0, 0.5, 2.0, 1.0]
  graph f(%0: f32[2, 4], %1: f32[2, 4]) {
    %2 = aten::mul.Tensor(%0, %1) : f32[2, 4] @"of two tensors" #0
    %3 = aten::mean.dim(%2, [-1], true) : f32[2, 1] #1
    %4 = aten::add.Scalar(%3, 1e-5) : f32[2, 1] #2
    %5 = aten::rsqrt(%4) : f32[2, 1] #3
    %6 = aten::mul.Tensor(%0, %5) : f32[2, 4] #4
    %7 = aten::mul.Tensor(%6, c0) : f32[2, 4] #5
    %8 = aten::mul.Tensor(%0, %0) : f32[2, 4] @"over the wrong dimension" #6
    %9 = aten::mean.dim(%8, [0], true) : f32[1, 4] #7
    %10 = aten::add.Scalar(%9, 1e-5) : f32[1, 4] #8
    %11 = aten::rsqrt(%10) : f32[1, 4] #9
    %12 = aten::mul.Tensor(%0, %11) : f32[2, 4] #10
    %13 = aten::mul.Tensor(%12, c0) : f32[2, 4] #11
    return %7, %13
  }
}
