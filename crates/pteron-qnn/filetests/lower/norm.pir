; test: lower
module "norm" {
  const c0 "norm.weight" : u8[4] = [10, 20, 30, 255]
  graph forward(%0 "x": u8[2, 4]) {
    %1 = quantized_decomposed::dequantize_per_tensor(%0, 0.1, 128, 0, 255, u8) : f32[2, 4]
    %2 = quantized_decomposed::dequantize_per_tensor(c0, 0.01, 0, 0, 255, u8) : f32[4]
    %3 = aten::rms_norm(%1, [4], %2, 1e-05) : f32[2, 4]
    %4 = quantized_decomposed::quantize_per_tensor(%3, 0.2, 120, 0, 255, u8) : u8[2, 4]
    return %4
  }
}
; ---
; graph forward
;   input_0_x@0: AppWrite ufixed8 [2, 4] 0.1-128
;   output__2_0@0: AppRead ufixed8 [2, 4] 0.2-120
;   norm_weight: Static ufixed8 [4] 0.01
;   rms_norm_2_beta: Static ufixed8 [4] 0.003921569
;   RmsNorm(input_0_x@0, norm_weight, rms_norm_2_beta) epsilon=1e-5 axes=[1] -> output__2_0@0
