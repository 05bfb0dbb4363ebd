; test: run
; calls: 3 4 0 0 ; 1 2 3 4
module "norm" {
  graph forward(%0 "x": f32[1, 4], %1 "w": f32[4]) {
    %2 = aten::rms_norm(%0, [4], %1, 0.0)
    %3 = aten::silu(%2)
    return %2, %3
  }
}
; ---
; call 0: f32[1, 4] = [1.2000, 3.2000, 0.0000, 0.0000]
; call 0: f32[1, 4] = [0.9222, 3.0747, 0.0000, 0.0000]
