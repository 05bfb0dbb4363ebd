; test: quantize qnn_8a8w
module "t" {
  const c0 "e.weight" : f32[3, 4] = [0.5, -0.25, 0.125, 1.0, -1.0, 0.5, 0.25, 0.75, 0.0, 0.1, 0.2, 0.3]
  graph forward(%0: f32[1, 2, 4], %1: i64[1, 2]) {
    %2 = aten::embedding(c0, %1) @"e"
    %3 = aten::mul.Tensor(%0, %0) @"m"
    %4 = aten::cat([%2, %3], 2) @"m"
    %5 = aten::slice_copy.Tensor(%4, 2, 0, 4) @"m"
    %6 = aten::tanh(%5) @"m"
    return %6
  }
}
; ---
module "t" {
  const c0 "e.weight" : f32[3, 4] = [0.5, -0.25, 0.125, 1.0, -1.0, 0.5, 0.25, 0.75, 0.0, 0.1, 0.2, 0.3]
  const c1 "e.weight_quantized" : u8[3, 4]
  graph forward(%0: f32[1, 2, 4], %1: i64[1, 2]) {
    %2 = quantized_decomposed::dequantize_per_tensor(c1, 0.022760076448321342, 44, 0, 255, u8) : f32[3, 4] @"e" #5
    %3 = aten::embedding(%2, %1) : f32[1, 2, 4] @"e" #0
    %4 = quantized_decomposed::quantize_per_tensor(%0, 0.004748114850372076, 0, 0, 255, u8) : u8[1, 2, 4] @"m" #6
    %5 = quantized_decomposed::dequantize_per_tensor(%4, 0.004748114850372076, 0, 0, 255, u8) : f32[1, 2, 4] @"m" #7
    %6 = quantized_decomposed::dequantize_per_tensor(%4, 0.004748114850372076, 0, 0, 255, u8) : f32[1, 2, 4] @"m" #8
    %7 = aten::mul.Tensor(%5, %6) : f32[1, 2, 4] @"m" #1
    %8 = quantized_decomposed::quantize_per_tensor(%3, 0.022760076448321342, 44, 0, 255, u8) : u8[1, 2, 4] @"m" #9
    %9 = quantized_decomposed::dequantize_per_tensor(%8, 0.022760076448321342, 44, 0, 255, u8) : f32[1, 2, 4] @"m" #10
    %10 = quantized_decomposed::quantize_per_tensor(%7, 0.022760076448321342, 44, 0, 255, u8) : u8[1, 2, 4] @"m" #11
    %11 = quantized_decomposed::dequantize_per_tensor(%10, 0.022760076448321342, 44, 0, 255, u8) : f32[1, 2, 4] @"m" #12
    %12 = aten::cat([%9, %11], 2) : f32[1, 2, 8] @"m" #2
    %13 = quantized_decomposed::quantize_per_tensor(%12, 0.022760076448321342, 44, 0, 255, u8) : u8[1, 2, 8] @"m" #13
    %14 = quantized_decomposed::dequantize_per_tensor(%13, 0.022760076448321342, 44, 0, 255, u8) : f32[1, 2, 8] @"m" #14
    %15 = aten::slice_copy.Tensor(%14, 2, 0, 4) : f32[1, 2, 4] @"m" #3
    %16 = quantized_decomposed::quantize_per_tensor(%15, 0.007843137718737125, 127, 0, 255, u8) : u8[1, 2, 4] @"m" #15
    %17 = quantized_decomposed::dequantize_per_tensor(%16, 0.007843137718737125, 127, 0, 255, u8) : f32[1, 2, 4] @"m" #16
    %18 = aten::tanh(%17) : f32[1, 2, 4] @"m" #4
    %19 = quantized_decomposed::quantize_per_tensor(%18, 0.005973287858068943, 127, 0, 255, u8) : u8[1, 2, 4] #17
    %20 = quantized_decomposed::dequantize_per_tensor(%19, 0.005973287858068943, 127, 0, 255, u8) : f32[1, 2, 4] #18
    return %20
  }
}
