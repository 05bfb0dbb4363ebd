; test: pass decompose
; target: executorch-portable
module "t" {
  graph f(%0: f32[1, s0, 16]) where s0 in 1..=9 {
    %1, %2 = torchao::choose_qparams_affine(%0, "ASYMMETRIC", [1, 1, 16], i8, -128, 127, 0.00001, f32, i8) @"x"
    %3 = torchao::quantize_affine(%0, [1, 1, 16], %1, %2, i8, -128, 127) @"x"
    %4 = torchao::dequantize_affine(%3, [1, 1, 16], %1, %2, i8, -128, 127) @"x"
    return %4
  }
}
; ---
module "t" {
  const c0 "_scalar_f32_0.0" : f32[] = [0.0]
  const c1 "_scalar_f32_255.0" : f32[] = [255.0]
  const c2 "_scalar_f32_-128.0" : f32[] = [-128.0]
  graph f(%0: f32[1, s0, 16]) where s0 in 1..=9 {
    %1 = aten::view_copy(%0, [-1, 16]) : f32[s0, 16] @"x" #3
    %2 = aten::amin(%1, [1]) : f32[s0] @"x" #4
    %3 = aten::minimum(%2, c0) : f32[s0] @"x" #5
    %4 = aten::amax(%1, [1]) : f32[s0] @"x" #6
    %5 = aten::maximum(%4, c0) : f32[s0] @"x" #7
    %6 = aten::sub.Tensor(%5, %3) : f32[s0] @"x" #8
    %7 = aten::div.Tensor(%6, c1) : f32[s0] @"x" #9
    %8 = aten::clamp(%7, 1e-5) : f32[s0] @"x" #10
    %9 = aten::div.Tensor(%3, %8) : f32[s0] @"x" #11
    %10 = aten::round(%9) : f32[s0] @"x" #12
    %11 = aten::sub.Tensor(c2, %10) : f32[s0] @"x" #13
    %12 = aten::clamp(%11, -128, 127) : f32[s0] @"x" #14
    %13 = aten::view_copy(%8, [1, -1]) : f32[1, s0] @"x" #15
    %14 = aten::_to_copy(%12, i8) : i8[s0] @"x" #16
    %15 = aten::view_copy(%14, [1, -1]) : i8[1, s0] @"x" #17
    %16 = aten::clone(%13) : f32[1, s0] @"x" #18
    %17 = aten::clone(%15) : i8[1, s0] @"x" #19
    %18 = aten::view_copy(%16, [-1]) : f32[s0] @"x" #20
    %19 = aten::_to_copy(%18, f64) : f64[s0] @"x" #21
    %20 = aten::view_copy(%17, [-1]) : i8[s0] @"x" #22
    %21 = aten::_to_copy(%20, i64) : i64[s0] @"x" #23
    %22 = aten::view_copy(%0, [-1, 16]) : f32[s0, 16] @"x" #24
    %23 = quantized_decomposed::quantize_per_channel(%22, %19, %21, 0, -128, 127, i8) : i8[s0, 16] @"x" #25
    %24 = aten::view_copy(%23, [1, -1, 16]) : i8[1, s0, 16] @"x" #26
    %25 = aten::view_copy(%16, [-1]) : f32[s0] @"x" #27
    %26 = aten::view_copy(%17, [-1]) : i8[s0] @"x" #28
    %27 = aten::_to_copy(%26, i64) : i64[s0] @"x" #29
    %28 = aten::view_copy(%24, [-1, 16]) : i8[s0, 16] @"x" #30
    %29 = quantized_decomposed::dequantize_per_channel(%28, %25, %27, 0, -128, 127, i8) : f32[s0, 16] @"x" #31
    %30 = aten::view_copy(%29, [1, -1, 16]) : f32[1, s0, 16] @"x" #32
    return %30
  }
}
