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
    write b0 = %4
    ; error: column 5: unknown operator `write`
    return %9
  }
}
