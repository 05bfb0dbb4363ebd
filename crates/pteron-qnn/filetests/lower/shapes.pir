; test: lower
; io: quantized
module "shapes" {
  const c0 "table" : i32[5, 4] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 65535]
  graph forward(%0 "tokens": i32[1, 2]) {
    %1 = quantized_decomposed::dequantize_per_tensor(c0, 0.1, 7, 0, 65535, i32) : f32[5, 4]
    %2 = aten::embedding(%1, %0) : f32[1, 2, 4]
    %3 = quantized_decomposed::quantize_per_tensor(%2, 0.1, 7, 0, 65535, i32) : i32[1, 2, 4]
    %4 = quantized_decomposed::dequantize_per_tensor(%3, 0.1, 7, 0, 65535, i32) : f32[1, 2, 4]
    %5 = aten::slice_copy.Tensor(%4, -1, 0, 2) : f32[1, 2, 2]
    %6 = aten::select_copy.int(%4, 1, -1) : f32[1, 4]
    %7 = aten::view_copy(%5, [1, 4]) : f32[1, 4]
    %8 = aten::cat([%6, %7], 1) : f32[1, 8]
    %9 = aten::expand_copy(%8, [3, 8]) : f32[3, 8]
    %10 = quantized_decomposed::quantize_per_tensor(%9, 0.1, 7, 0, 65535, i32) : i32[3, 8]
    %11 = quantized_decomposed::dequantize_per_tensor(%10, 0.1, 7, 0, 65535, i32) : f32[3, 8]
    return %11
  }
}
; ---
; graph forward
;   input_0_tokens@0: AppWrite int32 [1, 2] plain
;   output__8_0@0: AppRead ufixed16 [3, 8] 0.1-7
;   table: Static ufixed16 [5, 4] 0.1-7
;   Gather(table, input_0_tokens@0) axis=0 -> embedding_1: ufixed16 [1, 2, 4] 0.1-7
;   StridedSlice(embedding_1) ranges=[0, 1, 1, 0, 2, 1, 0, 2, 1] -> slice_copy_Tensor_4: ufixed16 [1, 2, 2] 0.1-7
;   StridedSlice(embedding_1) ranges=[0, 1, 1, 1, 2, 1, 0, 4, 1] -> select_copy_int_5_row: ufixed16 [1, 1, 4] 0.1-7
;   Reshape(select_copy_int_5_row) -> select_copy_int_5: ufixed16 [1, 4] 0.1-7
;   Reshape(slice_copy_Tensor_4) -> view_copy_6: ufixed16 [1, 4] 0.1-7
;   Concat(select_copy_int_5, view_copy_6) axis=1 -> cat_7: ufixed16 [1, 8] 0.1-7
;   Tile(cat_7) multiples=[3, 1] -> output__8_0@0
