; test: infer
module "t" {
  graph f(%0: f32[1, s0, 64], %1: f32[128, 64], %2: f32[128], %3: f32[4, s0, 16], %4: f32[4, 16, 8], %5: f32[1, 3, 8, 8], %6: f32[6, 3, 3, 3], %7: f32[64], %8: f32[4, 9, 16]) where s0 in 1..=31 {
    %10 = aten::linear(%0, %1, %2)
    ; infer: f32[1, s0, 128]
    %11 = aten::linear(%0, %1, %7)
    ; error: aten::linear: bias f32[64] and weight f32[128, 64]: 64 and 128 differ
    %12 = aten::bmm(%3, %4)
    ; infer: f32[4, s0, 8]
    %13 = aten::bmm(%4, %3)
    ; infer: f32[4, 16, 16]
    %14 = aten::convolution(%5, %6, None, [2], [1], [1], false, [0], 1)
    ; infer: f32[1, 6, 4, 4]
    %15, %16, %17 = aten::native_layer_norm(%0, [64], %7, None, 1e-5)
    ; infer: f32[1, s0, 64], f32[1, s0, 1], f32[1, s0, 1]
    %18 = aten::rms_norm(%0, [64], %7, 1e-5)
    ; infer: f32[1, s0, 64]
    %19 = aten::rms_norm(%0, [32], None, 1e-5)
    ; error: aten::rms_norm: normalized_shape: 64 and 32 differ
    %20 = aten::mm(%1, %1)
    ; error: aten::mm: f32[128, 64] and f32[128, 64]: 64 and 128 differ
    return %0
  }
}
