; test: infer
module "t" {
  graph f(%0: f32[s0, 16], %1: i8[6, 16], %2: f32[6], %3: i64[6], %4: f64[1], %5: i64[1], %6: f32[6, 4], %7: u8[10, 8], %8: f32[10, 2], %9: i64[1, s0]) where s0 in 1..=9 {
    %10 = quantized_decomposed::quantize_per_tensor(%0, 0.5, 3, -128, 127, i8)
    ; infer: i8[s0, 16]
    %11 = quantized_decomposed::quantize_per_tensor(%0, 0.5, 3, 0, 256, u8)
    ; error: quantized_decomposed::quantize_per_tensor: codes 0 to 256 do not fit u8, 0 to 255
    %12 = quantized_decomposed::quantize_per_tensor(%0, 0.5, 3, 0, 65535, u16)
    ; infer: u16[s0, 16]
    %13 = quantized_decomposed::quantize_per_tensor.tensor(%0, %4, %5, 0, 65535, i32)
    ; infer: i32[s0, 16]
    %14 = quantized_decomposed::dequantize_per_tensor(%1, 0.5, 3, -128, 127, i8)
    ; infer: f32[6, 16]
    %15 = quantized_decomposed::dequantize_per_tensor(%1, 0.5, 3, -128, 127, u8)
    ; error: quantized_decomposed::dequantize_per_tensor: the input is i8, dtype says u8
    %16 = quantized_decomposed::dequantize_per_channel(%1, %2, %3, 0, -127, 127, i8, out_dtype=f16)
    ; infer: f16[6, 16]
    %17 = quantized_decomposed::dequantize_per_channel(%1, %2, %3, 1, -127, 127, i8)
    ; error: quantized_decomposed::dequantize_per_channel: 6 scales for 16
    %18, %19 = quantized_decomposed::choose_qparams.tensor(%0, -128, 127, 0.00001, i8)
    ; infer: f64[1], i64[1]
    %20, %21 = quantized_decomposed::choose_qparams_per_token_asymmetric(%0, i8)
    ; infer: f64[s0, 1], i64[s0, 1]
    %22 = quantized_decomposed::quantize_per_token(%0, %20, %21, -128, 127, i8)
    ; infer: i8[s0, 16]
    %23 = quantized_decomposed::dequantize_per_channel_group(%1, %6, None, -8, 7, i8, 4, f32)
    ; infer: f32[6, 16]
    %24 = quantized_decomposed::dequantize_per_channel_group(%1, %6, None, -8, 7, i8, 5, f32)
    ; error: quantized_decomposed::dequantize_per_channel_group: group_size 5 must be above 1 and divide 16
    %25, %26 = torchao::choose_qparams_affine(%0, "ASYMMETRIC", [1, 16], i8)
    ; infer: f32[s0], i32[s0]
    %27 = torchao::quantize_affine(%0, [1, 16], %25, %26, i8)
    ; infer: i8[s0, 16]
    %28 = torchao::quantize_affine(%0, [1, 5], %25, %26, i8)
    ; error: torchao::quantize_affine: a block of 5 does not divide 16
    %29 = quantized_decomposed::embedding_4bit.dtype(%7, %8, None, -8, 7, %9, dtype=f32)
    ; infer: f32[1, s0, 16]
    %30 = quantized_decomposed::embedding_2bit(%7, %8, None, -2, 1, %9)
    ; infer: f32[1, s0, 32]
    %31, %32, %33 = xnnpack::convert_qd8(%0)
    ; infer: i8[s0, 16], f32[s0, 1], i32[s0, 1]
    %34, %35, %36 = xnnpack::convert_qd8(%0, 3)
    ; error: xnnpack::convert_qd8: num_nonbatch_dims is 3 for f32[s0, 16]
    return %0
  }
}
