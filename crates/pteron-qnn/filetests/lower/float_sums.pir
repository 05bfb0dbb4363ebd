; test: lower
; A sum that is read as a number by another one, and as integers by a norm's stand-in: numbers are dequantized where a sum takes
; them, and quantized where integers are asked for.
module "float_sums" {
  graph forward(%0 "x": f32[2, 4]) {
    %1 = quantized_decomposed::quantize_per_tensor(%0, 0.1, 128, 0, 255, u8) : u8[2, 4]
    %2 = quantized_decomposed::dequantize_per_tensor(%1, 0.1, 128, 0, 255, u8) : f32[2, 4]
    %3 = aten::sigmoid(%2) : f32[2, 4]
    %4 = quantized_decomposed::quantize_per_tensor(%3, 0.00390625, 0, 0, 255, u8) : u8[2, 4]
    %5 = quantized_decomposed::dequantize_per_tensor(%4, 0.00390625, 0, 0, 255, u8) : f32[2, 4]
    %6 = aten::add.Tensor(%2, %5, 1) : f32[2, 4]
    %7 = quantized_decomposed::quantize_per_tensor(%6, 0.2, 128, 0, 255, u8) : u8[2, 4]
    %8 = quantized_decomposed::dequantize_per_tensor(%7, 0.2, 128, 0, 255, u8) : f32[2, 4]
    %9 = aten::tanh(%8) : f32[2, 4]
    %10 = quantized_decomposed::quantize_per_tensor(%9, 0.0078125, 128, 0, 255, u8) : u8[2, 4]
    %11 = quantized_decomposed::dequantize_per_tensor(%10, 0.0078125, 128, 0, 255, u8) : f32[2, 4]
    %12 = aten::add.Tensor(%6, %11, 1) : f32[2, 4]
    %13 = aten::mul.Tensor(%6, %2) : f32[2, 4]
    %14 = quantized_decomposed::quantize_per_tensor(%13, 0.5, 128, 0, 255, u8) : u8[2, 4]
    %15 = quantized_decomposed::dequantize_per_tensor(%14, 0.5, 128, 0, 255, u8) : f32[2, 4]
    return %12, %15
  }
}
; ---
; graph forward
;   input_0_x@0: AppWrite float32 [2, 4] plain
;   output__11_0@0: AppRead float32 [2, 4] plain
;   output__12_1@0: AppRead float32 [2, 4] plain
;   Quantize(input_0_x@0) -> quantize_per_tensor_0: ufixed8 [2, 4] 0.1-128
;   Sigmoid(quantize_per_tensor_0) -> sigmoid_2: ufixed8 [2, 4] 0.00390625
;   Dequantize(quantize_per_tensor_0) -> quantize_per_tensor_0_float: float32 [2, 4] plain
;   Dequantize(sigmoid_2) -> sigmoid_2_float: float32 [2, 4] plain
;   ElementWiseAdd(quantize_per_tensor_0_float, sigmoid_2_float) -> add_Tensor_5: float32 [2, 4] plain
;   Quantize(add_Tensor_5) -> quantize_per_tensor_6: ufixed8 [2, 4] 0.2-128
;   Tanh(quantize_per_tensor_6) -> tanh_8: ufixed8 [2, 4] 0.0078125-128
;   Dequantize(tanh_8) -> tanh_8_float: float32 [2, 4] plain
;   ElementWiseAdd(add_Tensor_5, tanh_8_float) -> output__11_0@0
;   ElementWiseMultiply(add_Tensor_5, quantize_per_tensor_0_float) -> mul_Tensor_12_float: float32 [2, 4] plain
;   Quantize(mul_Tensor_12_float) -> mul_Tensor_12: ufixed8 [2, 4] 0.5-128
;   Dequantize(mul_Tensor_12) -> output__12_1@0
