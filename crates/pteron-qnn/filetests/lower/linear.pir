; test: lower
; form: fc
module "linear" {
  const c0 "l.weight" : i8[2, 3] = [1, -2, 3, 4, 5, -127]
  const c1 "l.weight_scale" : f32[2] = [0.5, 0.25]
  const c2 "l.weight_zero_point" : i64[2] = [0, 0]
  const c3 "l.bias" : i32[2] = [10, 20]
  const c4 "l.bias_scale" : f32[2] = [0.05, 0.025]
  graph forward(%0 "x": f32[1, 4, 3]) {
    %1 = quantized_decomposed::quantize_per_tensor(%0, 0.1, 32768, 0, 65535, i32) : i32[1, 4, 3]
    %2 = quantized_decomposed::dequantize_per_tensor(%1, 0.1, 32768, 0, 65535, i32) : f32[1, 4, 3]
    %3 = quantized_decomposed::dequantize_per_channel(c0, c1, c2, 0, -127, 127, i8) : f32[2, 3]
    %4 = quantized_decomposed::dequantize_per_channel(c3, c4, c2, 0, -2147483648, 2147483647, i32) : f32[2]
    %5 = aten::linear(%2, %3, %4) : f32[1, 4, 2]
    %6 = quantized_decomposed::quantize_per_tensor(%5, 0.2, 30000, 0, 65535, i32) : i32[1, 4, 2]
    %7 = quantized_decomposed::dequantize_per_tensor(%6, 0.2, 30000, 0, 65535, i32) : f32[1, 4, 2]
    return %7
  }
}
; ---
; graph forward
;   input_0_x@0: AppWrite float32 [1, 4, 3] plain
;   output__4_0@0: AppRead float32 [1, 4, 2] plain
;   l_weight: Static sfixed8 [2, 3] axis 0 [0.5, 0.25]
;   l_bias_s32: Static sfixed32 [2] axis 0 [0.05, 0.025]
;   Quantize(input_0_x@0) -> quantize_per_tensor_0: ufixed16 [1, 4, 3] 0.1-32768
;   FullyConnected(quantize_per_tensor_0, l_weight, l_bias_s32) -> linear_4_rows: ufixed16 [4, 2] 0.2-30000
;   Reshape(linear_4_rows) -> linear_4: ufixed16 [1, 4, 2] 0.2-30000
;   Dequantize(linear_4) -> output__4_0@0
