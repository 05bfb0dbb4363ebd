; test: lower
; io: quantized
; form: fc
module "blocks_stay_convolutions" {
  const c0 "a.weight" : i8[2, 4] = [1, -2, 3, 4, 5, -7, 0, 7]
  const c1 "a.weight_scale" : f32[2] = [0.5, 0.25]
  const c2 "a.weight_zero_point" : i64[2] = [0, 0]
  const c3 "b.weight" : i8[3, 2] = [1, -2, 3, 4, 5, -7]
  const c4 "b.weight_scale" : f32[3, 2] = [0.15, 0.05, 0.25, 0.5, 0.75, 0.05]
  const c5 "b.weight_zero_point" : i64[3, 2] = [0, 0, 0, 0, 0, 0]
  graph forward(%0 "x": f32[4, 4]) {
    %1 = quantized_decomposed::quantize_per_tensor(%0, 0.1, 32768, 0, 65535, i32) : i32[4, 4]
    %2 = quantized_decomposed::dequantize_per_tensor(%1, 0.1, 32768, 0, 65535, i32) : f32[4, 4]
    %3 = quantized_decomposed::dequantize_per_channel(c0, c1, c2, 0, -7, 7, i8) : f32[2, 4]
    %4 = aten::linear(%2, %3, None) : f32[4, 2]
    %5 = quantized_decomposed::quantize_per_tensor(%4, 0.2, 30000, 0, 65535, i32) : i32[4, 2]
    %6 = quantized_decomposed::dequantize_per_tensor(%5, 0.2, 30000, 0, 65535, i32) : f32[4, 2]
    %7 = torchao::dequantize_affine(c3, [1, 1], c4, c5, i8, -7, 7, f32) : f32[3, 2]
    %8 = aten::linear(%6, %7, None) : f32[4, 3]
    return %8
  }
}
; ---
; graph forward
;   input_0_x@0: AppWrite ufixed16 [4, 4] 0.1-32768
;   output__7_0@0: AppRead float32 [4, 3] plain
;   a_weight: Static sfixed8 [2, 4] 4 bits axis 0 [0.5, 0.25]
;   b_weight: Static sfixed8 [1, 1, 2, 3] axis 3 [0.010000001, 0.035714287, 0.05] times 2 blocks [15, 5, 7, 14, … 6]
;   FullyConnected(input_0_x@0, a_weight) -> linear_3: ufixed16 [4, 2] 0.2-30000
;   Reshape(linear_3) -> linear_7_image: ufixed16 [1, 1, 4, 2] 0.2-30000
;   Dequantize(linear_7_image) -> linear_7_image_float: float32 [1, 1, 4, 2] plain
;   Conv2d(linear_7_image_float, b_weight) stride=[1, 1] pad_amount=[0, 0, 0, 0] dilation=[1, 1] -> linear_7_rows: float32 [1, 1, 4, 3] plain
;   Reshape(linear_7_rows) -> output__7_0@0
