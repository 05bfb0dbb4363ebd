; test: lower
module "requantize" {
  graph forward(%0 "x": f32[2, 4]) {
    %1 = quantized_decomposed::quantize_per_tensor(%0, 0.1, 128, 0, 255, u8) : u8[2, 4]
    %2 = quantized_decomposed::dequantize_per_tensor(%1, 0.1, 128, 0, 255, u8) : f32[2, 4]
    %3 = aten::sigmoid(%2) : f32[2, 4]
    %4 = quantized_decomposed::quantize_per_tensor(%3, 0.00390625, 0, 0, 255, u8) : u8[2, 4]
    %5 = quantized_decomposed::dequantize_per_tensor(%4, 0.00390625, 0, 0, 255, u8) : f32[2, 4]
    %6 = quantized_decomposed::quantize_per_tensor(%5, 0.0001, 0, 0, 65535, i32) : i32[2, 4]
    %7 = quantized_decomposed::dequantize_per_tensor(%6, 0.0001, 0, 0, 65535, i32) : f32[2, 4]
    %8 = aten::mul.Scalar(%7, -0.5) : f32[2, 4]
    %9 = quantized_decomposed::quantize_per_tensor(%8, 0.0001, 65535, 0, 65535, i32) : i32[2, 4]
    %10 = quantized_decomposed::dequantize_per_tensor(%9, 0.0001, 65535, 0, 65535, i32) : f32[2, 4]
    return %10, %5
  }
}
; ---
; graph forward
;   input_0_x@0: AppWrite float32 [2, 4] plain
;   output__7_0@0: AppRead float32 [2, 4] plain
;   output__2_1@0: AppRead float32 [2, 4] plain
;   mul_Scalar_7_number: Static ufixed16 [1] 0.000007629511-65535
;   Quantize(input_0_x@0) -> quantize_per_tensor_0: ufixed8 [2, 4] 0.1-128
;   Sigmoid(quantize_per_tensor_0) -> sigmoid_2: ufixed8 [2, 4] 0.00390625
;   Convert(sigmoid_2) -> quantize_per_tensor_5: ufixed16 [2, 4] 0.0001
;   ElementWiseMultiply(quantize_per_tensor_5, mul_Scalar_7_number) -> mul_Scalar_7: ufixed16 [2, 4] 0.0001-65535
;   Dequantize(mul_Scalar_7) -> output__7_0@0
;   Dequantize(sigmoid_2) -> output__2_1@0
