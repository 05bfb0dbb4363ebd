; test: quantize xnnpack_dynamic,embedding
module "t" {
  const c0 "model.e.weight" : f32[3, 4] = [0.5, -0.25, 0.125, 1.0, -1.0, 0.5, 0.25, 0.75, 0.0, 0.1, 0.2, 0.3]
  const c1 "model.a.weight" : f32[2, 4] = [0.5, -0.25, 0.125, 1.0, -1.0, 0.5, 0.25, 0.75]
  graph forward(%0: i64[1, 2]) {
    %1 = aten::embedding(c0, %0) @"model.e"
    %2 = aten::linear(%1, c1) @"model.a"
    %3 = aten::linear(%1, c1) @"model.a"
    %4 = aten::add.Tensor(%2, %3)
    return %4
  }
}
; ---
module "t" {
  const c0 "model.e.weight" : f32[3, 4] = [0.5, -0.25, 0.125, 1.0, -1.0, 0.5, 0.25, 0.75, 0.0, 0.1, 0.2, 0.3]
  const c1 "model.a.weight" : f32[2, 4] = [0.5, -0.25, 0.125, 1.0, -1.0, 0.5, 0.25, 0.75]
  const c2 "model.e.weight_quantized" : u8[3, 4]
  const c3 "model.e.weight_scale" : f32[3] = [0.004901961, 0.006862745, 0.0011764707]
  const c4 "model.e.weight_zero_point" : f32[3] = [51.0, 145.71428, -0.0]
  const c5 "model.a.weight_quantized" : i8[2, 4]
  const c6 "model.a.weight_scale" : f32[2] = [0.007874016, 0.007874016]
  const c7 "model.a.weight_zero_point" : i64[2] = [0, 0]
  graph forward(%0: i64[1, 2]) {
    %1 = quantized_decomposed::dequantize_per_channel(c2, c3, c4, 0, 0, 255, u8) : f32[3, 4] @"model.e" #4
    %2 = aten::embedding(%1, %0) : f32[1, 2, 4] @"model.e" #0
    %3, %4 = quantized_decomposed::choose_qparams.tensor(%2, -128, 127, 0.000244140625, i8) : f64[1], i64[1] @"model.a" #5
    %5 = quantized_decomposed::quantize_per_tensor.tensor(%2, %3, %4, -128, 127, i8) : i8[1, 2, 4] @"model.a" #6
    %6 = quantized_decomposed::dequantize_per_tensor.tensor(%5, %3, %4, -128, 127, i8) : f32[1, 2, 4] @"model.a" #7
    %7 = quantized_decomposed::dequantize_per_channel(c5, c6, c7, 0, -127, 127, i8) : f32[2, 4] @"model.a" #8
    %8 = aten::linear(%6, %7) : f32[1, 2, 2] @"model.a" #1
    %9 = quantized_decomposed::dequantize_per_channel(c5, c6, c7, 0, -127, 127, i8) : f32[2, 4] @"model.a" #9
    %10 = aten::linear(%6, %9) : f32[1, 2, 2] @"model.a" #2
    %11 = aten::add.Tensor(%8, %10) : f32[1, 2, 2] #3
    return %11
  }
}
