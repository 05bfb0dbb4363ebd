; test: quantize xnnpack
module "t" {
  const c0 "model.a.weight" : f32[2, 4] = [0.5, -0.25, 0.125, 1.0, -1.0, 0.5, 0.25, 0.75]
  const c1 "model.a.bias" : f32[2] = [0.1, -0.1]
  const c2 "model.b.weight" : f32[4, 2] = [0.5, -0.25, 0.125, 1.0, -1.0, 0.5, 0.25, 0.75]
  graph forward(%0: f32[3, 4]) {
    %1 = aten::linear(%0, c0, c1) @"model.a"
    %2 = aten::relu(%1) @"model.a"
    %3 = aten::linear(%2, c2) @"model.b"
    %4 = aten::view_copy(%3, [1, 3, 4]) @"model.b"
    %5 = aten::view_copy(%0, [1, 3, 4]) @"model"
    %6 = aten::add.Tensor(%4, %5) @"model"
    %7 = aten::mul.Scalar(%6, 0.5) @"model"
    %8 = aten::cat([%7, %4], 2) @"model"
    %9 = aten::exp(%8) @"model"
    return %9
  }
}
; ---
module "t" {
  const c0 "model.a.weight" : f32[2, 4] = [0.5, -0.25, 0.125, 1.0, -1.0, 0.5, 0.25, 0.75]
  const c1 "model.a.bias" : f32[2] = [0.1, -0.1]
  const c2 "model.b.weight" : f32[4, 2] = [0.5, -0.25, 0.125, 1.0, -1.0, 0.5, 0.25, 0.75]
  const c3 "_scalar_f32_0.5" : f32[] = [0.5]
  const c4 "model.a.weight_quantized" : i8[2, 4]
  const c5 "model.a.weight_scale" : f32[2] = [0.007874016, 0.007874016]
  const c6 "model.a.weight_zero_point" : i64[2] = [0, 0]
  const c7 "model.b.weight_quantized" : i8[4, 2]
  const c8 "model.b.weight_scale" : f32[4] = [0.003937008, 0.007874016, 0.007874016, 0.005905512]
  const c9 "model.b.weight_zero_point" : i64[4] = [0, 0, 0, 0]
  const c10 "_scalar_f32_0.5_quantized" : i8[]
  graph forward(%0: f32[3, 4]) {
    %1 = quantized_decomposed::quantize_per_tensor(%0, 0.014083689078688622, -28, -128, 127, i8) : i8[3, 4] @"model.a" #10
    %2 = quantized_decomposed::dequantize_per_tensor(%1, 0.014083689078688622, -28, -128, 127, i8) : f32[3, 4] @"model.a" #11
    %3 = quantized_decomposed::dequantize_per_channel(c4, c5, c6, 0, -127, 127, i8) : f32[2, 4] @"model.a" #12
    %4 = aten::linear(%2, %3, c1) : f32[3, 2] @"model.a" #0
    %5 = aten::relu(%4) : f32[3, 2] @"model.a" #1
    %6 = quantized_decomposed::quantize_per_tensor(%5, 0.008443566970527172, -128, -128, 127, i8) : i8[3, 2] @"model.b" #13
    %7 = quantized_decomposed::dequantize_per_tensor(%6, 0.008443566970527172, -128, -128, 127, i8) : f32[3, 2] @"model.b" #14
    %8 = quantized_decomposed::dequantize_per_channel(c7, c8, c9, 0, -127, 127, i8) : f32[4, 2] @"model.b" #15
    %9 = aten::linear(%7, %8) : f32[3, 4] @"model.b" #2
    %10 = quantized_decomposed::quantize_per_tensor(%9, 0.0171371940523386, -8, -128, 127, i8) : i8[3, 4] @"model.b" #16
    %11 = quantized_decomposed::dequantize_per_tensor(%10, 0.0171371940523386, -8, -128, 127, i8) : f32[3, 4] @"model.b" #17
    %12 = aten::view_copy(%11, [1, 3, 4]) : f32[1, 3, 4] @"model.b" #3
    %13 = aten::view_copy(%0, [1, 3, 4]) : f32[1, 3, 4] @"model" #4
    %14 = quantized_decomposed::quantize_per_tensor(%12, 0.0171371940523386, -8, -128, 127, i8) : i8[1, 3, 4] @"model" #18
    %15 = quantized_decomposed::dequantize_per_tensor(%14, 0.0171371940523386, -8, -128, 127, i8) : f32[1, 3, 4] @"model" #19
    %16 = quantized_decomposed::quantize_per_tensor(%13, 0.014083689078688622, -28, -128, 127, i8) : i8[1, 3, 4] @"model" #20
    %17 = quantized_decomposed::dequantize_per_tensor(%16, 0.014083689078688622, -28, -128, 127, i8) : f32[1, 3, 4] @"model" #21
    %18 = aten::add.Tensor(%15, %17) : f32[1, 3, 4] @"model" #5
    %19 = quantized_decomposed::quantize_per_tensor(%18, 0.021413076668977737, -63, -128, 127, i8) : i8[1, 3, 4] @"model" #22
    %20 = quantized_decomposed::dequantize_per_tensor(%19, 0.021413076668977737, -63, -128, 127, i8) : f32[1, 3, 4] @"model" #23
    %21 = quantized_decomposed::dequantize_per_tensor(c10, 0.0019607844296842813, -128, -128, 127, i8) : f32[] @"model" #24
    %22 = aten::mul.Tensor(%20, %21) : f32[1, 3, 4] @"model" #9
    %23 = quantized_decomposed::quantize_per_tensor(%22, 0.0171371940523386, -8, -128, 127, i8) : i8[1, 3, 4] @"model" #25
    %24 = quantized_decomposed::dequantize_per_tensor(%23, 0.0171371940523386, -8, -128, 127, i8) : f32[1, 3, 4] @"model" #26
    %25 = quantized_decomposed::dequantize_per_tensor(%14, 0.0171371940523386, -8, -128, 127, i8) : f32[1, 3, 4] @"model" #27
    %26 = aten::cat([%24, %25], 2) : f32[1, 3, 8] @"model" #7
    %27 = quantized_decomposed::quantize_per_tensor(%26, 0.0171371940523386, -8, -128, 127, i8) : i8[1, 3, 8] @"model" #28
    %28 = quantized_decomposed::dequantize_per_tensor(%27, 0.0171371940523386, -8, -128, 127, i8) : f32[1, 3, 8] @"model" #29
    %29 = aten::exp(%28) : f32[1, 3, 8] @"model" #8
    return %29
  }
}
