; test: run
; calls: 1 2 ; 0 2 | 9 ; 3 | 1 ; 4
module "index_put" {
  buffer b0 "rows" : f32[4]
  graph forward(%0 "x": f32[s0], %1 "where": i64[s0]) where s0 in 1..=3 {
    %2 = aten::index_put_(b0, [%1], %0)
    mutate b0 = %2
    return %2
  }
}
; ---
; call 0: f32[4] = [1.0000, 0.0000, 2.0000, 0.0000]
; call 1: f32[4] = [1.0000, 0.0000, 2.0000, 9.0000]
; call 2: error: method `forward`, node #0 aten::index_put_: index 4 is out of range for dimension 0 of size 4
