; test: pass decompose
; target: executorch-portable without aten::add.Scalar, aten::sub.Scalar, aten::mul.Scalar, aten::div.Scalar
module "t" {
  graph f(%0: f32[2, 3], %1: i64[3]) {
    %2 = aten::add.Scalar(%0, 1e-5) @"norm"
    %3 = aten::sub.Scalar(%2, 2, 3) @"norm"
    %4 = aten::mul.Scalar(%3, 0.5) @"a"
    %5 = aten::mul.Scalar(%4, 0.5) @"b"
    %6 = aten::div.Scalar(%5, 4) @"b"
    %7 = aten::add.Scalar(%1, 2)
    %8 = aten::mul.Scalar(%7, 0.5)
    return %6, %7, %8
  }
}
; ---
module "t" {
  const c0 "_scalar_f32_1e-5" : f32[] = [1e-5]
  const c1 "_scalar_f32_6.0" : f32[] = [6.0]
  const c2 "_scalar_f32_0.5" : f32[] = [0.5]
  const c3 "_scalar_f32_4.0" : f32[] = [4.0]
  const c4 "_scalar_i64_2.0" : i64[] = [2]
  graph f(%0: f32[2, 3], %1: i64[3]) {
    %2 = aten::add.Tensor(%0, c0) : f32[2, 3] @"norm" #7
    %3 = aten::sub.Tensor(%2, c1) : f32[2, 3] @"norm" #8
    %4 = aten::mul.Tensor(%3, c2) : f32[2, 3] @"a" #9
    %5 = aten::mul.Tensor(%4, c2) : f32[2, 3] @"b" #10
    %6 = aten::div.Tensor(%5, c3) : f32[2, 3] @"b" #11
    %7 = aten::add.Tensor(%1, c4) : i64[3] #12
    %8 = aten::mul.Tensor(%7, c2) : f32[3] #13
    return %6, %7, %8
  }
}
