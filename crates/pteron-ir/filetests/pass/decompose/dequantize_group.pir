; test: pass decompose
; target: executorch-portable
module "t" {
  graph f(%0: i8[6, 16], %1: f32[6, 4], %2: i32[6, 4]) {
    %3 = quantized_decomposed::dequantize_per_channel_group(%0, %1, %2, -8, 7, i8, 4, f32) @"w"
    return %3
  }
}
; ---
module "t" {
  graph f(%0: i8[6, 16], %1: f32[6, 4], %2: i32[6, 4]) {
    %3 = aten::view_copy(%1, [24]) : f32[24] @"w" #1
    %4 = aten::view_copy(%2, [24]) : i32[24] @"w" #2
    %5 = aten::_to_copy(%4, i64) : i64[24] @"w" #3
    %6 = aten::view_copy(%0, [24, 4]) : i8[24, 4] @"w" #4
    %7 = quantized_decomposed::dequantize_per_channel(%6, %3, %5, 0, -8, 7, i8) : f32[24, 4] @"w" #5
    %8 = aten::view_copy(%7, [6, 16]) : f32[6, 16] @"w" #6
    return %8
  }
}
