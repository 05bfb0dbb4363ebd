; test: lower
module "cache" {
  buffer b0 "k_cache" : f32[8, 2, 4]
  graph forward(%0 "k": f32[1, 2, 4], %1 "pos": i64[1]) {
    %2 = quantized_decomposed::quantize_per_tensor(%0, 0.1, 128, 0, 255, u8) : u8[1, 2, 4]
    %3 = quantized_decomposed::dequantize_per_tensor(%2, 0.1, 128, 0, 255, u8) : f32[1, 2, 4]
    %4 = aten::index_put_(b0, [%1], %3, false) : f32[8, 2, 4]
    %5 = quantized_decomposed::quantize_per_tensor(%4, 0.1, 128, 0, 255, u8) : u8[8, 2, 4]
    %6 = quantized_decomposed::dequantize_per_tensor(%5, 0.1, 128, 0, 255, u8) : f32[8, 2, 4]
    %7 = aten::permute_copy(%6, [1, 2, 0]) : f32[2, 4, 8]
    %8 = quantized_decomposed::quantize_per_tensor(%7, 0.1, 128, 0, 255, u8) : u8[2, 4, 8]
    %9 = quantized_decomposed::dequantize_per_tensor(%8, 0.1, 128, 0, 255, u8) : f32[2, 4, 8]
    mutate b0 = %4
    return %9
  }
}
; ---
; graph forward
;   input_0_k@0: AppWrite float32 [1, 2, 4] plain
;   input_1_pos@0: AppWrite int64 [1] plain
;   input_2_mutbuf_0_k_cache@0: AppWrite ufixed8 [8, 2, 4] 0.1-128
;   output__5_0@0: AppRead float32 [2, 4, 8] plain
;   output_mutbuf_0_k_cache@0: AppRead ufixed8 [8, 2, 4] 0.1-128
;   Quantize(input_0_k@0) -> quantize_per_tensor_0: ufixed8 [1, 2, 4] 0.1-128
;   Cast(input_1_pos@0) -> input_1_pos@0_i32: int32 [1] plain
;   Reshape(input_1_pos@0_i32) -> index_put__2_column: int32 [1, 1] plain
;   ScatterNd(input_2_mutbuf_0_k_cache@0, index_put__2_column, quantize_per_tensor_0) reduction=0 -> output_mutbuf_0_k_cache@0
;   Transpose(output_mutbuf_0_k_cache@0) perm=[1, 2, 0] -> permute_copy_5: ufixed8 [2, 4, 8] 0.1-128
;   Dequantize(permute_copy_5) -> output__5_0@0
