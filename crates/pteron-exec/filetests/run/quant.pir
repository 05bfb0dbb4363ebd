; test: run
; calls: 0 0.25 0.75 -0.5 | 3 -1 100 -100
module "quant" {
  graph forward(%0 "x": f32[2, 2]) {
    %1 = quantized_decomposed::quantize_per_tensor(%0, 0.5, 1, -8, 7, i8)
    %2 = quantized_decomposed::dequantize_per_tensor(%1, 0.5, 1, -8, 7, i8)
    %3, %4 = quantized_decomposed::choose_qparams_per_token_asymmetric(%0, i8)
    return %1, %2, %3, %4
  }
}
; ---
; call 0: i8[2, 2] = [1, 1, 3, 0]
; call 0: f32[2, 2] = [0.0000, 0.0000, 1.0000, -0.5000]
; call 0: f64[2, 1] = [0.0010, 0.0049]
; call 0: i64[2, 1] = [-128, -26]
; call 1: i8[2, 2] = [7, -1, 7, -8]
; call 1: f32[2, 2] = [3.0000, -1.0000, 3.0000, -4.5000]
; call 1: f64[2, 1] = [0.0157, 0.7843]
; call 1: i64[2, 1] = [-64, 0]
