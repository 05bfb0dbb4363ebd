; test: run
; calls: 1 0 0 1 ; 1 2 3 4
module "attention" {
  graph forward(%0 "q": f32[1, 1, s0, 2], %1 "v": f32[1, 1, s0, 2]) where s0 in 1..=4 {
    %2 = aten::scaled_dot_product_attention(%0, %0, %1, None, 0.0, true)
    return %2
  }
}
; ---
; call 0: f32[1, 1, 2, 2] = [1.0000, 2.0000, 2.3395, 3.3395]
