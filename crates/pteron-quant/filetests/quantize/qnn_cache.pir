; test: quantize qnn_16a8w
module "cache" {
  buffer b0 "v_cache" : f32[4, 1, 2]
  const c0 "v.weight" : f32[2, 2] = [0.5, 0.25, -0.25, 1.0]
  graph forward(%0 "x": f32[1, 2], %1 "pos": i64[1], %2 "weights": f32[1, 1, 4]) {
    %3 = aten::linear(%0, c0) : f32[1, 2]
    %4 = aten::view_copy(%3, [1, 1, 2]) : f32[1, 1, 2]
    %5 = aten::index_put_(b0, [%1], %4, false) : f32[4, 1, 2]
    %6 = aten::permute_copy(%5, [1, 0, 2]) : f32[1, 4, 2]
    %7 = aten::relu(%2) : f32[1, 1, 4]
    %8 = aten::bmm(%7, %6) : f32[1, 1, 2]
    mutate b0 = %5
    return %8
  }
}
; ---
module "cache" {
  const c0 "v.weight" : f32[2, 2] = [0.5, 0.25, -0.25, 1.0]
  const c1 "v.weight_quantized" : i8[2, 2]
  const c2 "v.weight_scale" : f32[2] = [0.003937008, 0.007874016]
  const c3 "v.weight_zero_point" : i64[2] = [0, 0]
  buffer b0 "v_cache" : f32[4, 1, 2]
  graph forward(%0 "x": f32[1, 2], %1 "pos": i64[1], %2 "weights": f32[1, 1, 4]) {
    %3 = quantized_decomposed::quantize_per_tensor(%0, 1.4087599993217736e-5, 0, 0, 65535, i32) : i32[1, 2] #6
    %4 = quantized_decomposed::dequantize_per_tensor(%3, 1.4087599993217736e-5, 0, 0, 65535, i32) : f32[1, 2] #7
    %5 = quantized_decomposed::dequantize_per_channel(c1, c2, c3, 0, -127, 127, i8) : f32[2, 2] #8
    %6 = aten::linear(%4, %5) : f32[1, 2] #0
    %7 = quantized_decomposed::quantize_per_tensor(%6, 1.3324649444257375e-5, 0, 0, 65535, i32) : i32[1, 2] #9
    %8 = quantized_decomposed::dequantize_per_tensor(%7, 1.3324649444257375e-5, 0, 0, 65535, i32) : f32[1, 2] #10
    %9 = quantized_decomposed::quantize_per_tensor(%8, 0.004137775860726833, 128, 0, 255, u8) : u8[1, 2] #11
    %10 = quantized_decomposed::dequantize_per_tensor(%9, 0.004137775860726833, 128, 0, 255, u8) : f32[1, 2] #12
    %11 = aten::view_copy(%10, [1, 1, 2]) : f32[1, 1, 2] #1
    %12 = quantized_decomposed::quantize_per_tensor(%11, 0.004137775860726833, 128, 0, 255, u8) : u8[1, 1, 2] #13
    %13 = quantized_decomposed::dequantize_per_tensor(%12, 0.004137775860726833, 128, 0, 255, u8) : f32[1, 1, 2] #14
    %14 = aten::index_put_(b0, [%1], %13) : f32[4, 1, 2] #2
    %15 = quantized_decomposed::quantize_per_tensor(%14, 0.004137775860726833, 128, 0, 255, u8) : u8[4, 1, 2] #15
    %16 = quantized_decomposed::dequantize_per_tensor(%15, 0.004137775860726833, 128, 0, 255, u8) : f32[4, 1, 2] #16
    %17 = aten::permute_copy(%16, [1, 0, 2]) : f32[1, 4, 2] #3
    %18 = quantized_decomposed::quantize_per_tensor(%2, 3.038677641598042e-5, 0, 0, 65535, i32) : i32[1, 1, 4] #17
    %19 = quantized_decomposed::dequantize_per_tensor(%18, 3.038677641598042e-5, 0, 0, 65535, i32) : f32[1, 1, 4] #18
    %20 = aten::relu(%19) : f32[1, 1, 4] #4
    %21 = quantized_decomposed::quantize_per_tensor(%20, 3.038677641598042e-5, 0, 0, 65535, i32) : i32[1, 1, 4] #19
    %22 = quantized_decomposed::dequantize_per_tensor(%21, 3.038677641598042e-5, 0, 0, 65535, i32) : f32[1, 1, 4] #20
    %23 = quantized_decomposed::quantize_per_tensor(%17, 0.004055071156471968, 128, 0, 255, u8) : u8[1, 4, 2] #21
    %24 = quantized_decomposed::dequantize_per_tensor(%23, 0.004055071156471968, 128, 0, 255, u8) : f32[1, 4, 2] #22
    %25 = aten::bmm(%22, %24) : f32[1, 1, 2] #5
    %26 = quantized_decomposed::quantize_per_tensor(%25, 1.5778485931150499e-6, 0, 0, 65535, i32) : i32[1, 1, 2] #23
    %27 = quantized_decomposed::dequantize_per_tensor(%26, 1.5778485931150499e-6, 0, 0, 65535, i32) : f32[1, 1, 2] #24
    %28 = quantized_decomposed::dequantize_per_tensor(%15, 0.004137775860726833, 128, 0, 255, u8) : f32[4, 1, 2] #25
    mutate b0 = %28
    return %27
  }
}
