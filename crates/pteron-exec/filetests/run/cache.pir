; test: run
; calls: 1 2 ; 0 | 3 ; 2 | 4 5 ; 3
module "cache" {
  buffer b0 "cache" : f32[1, 4, 1, 1]
  graph forward(%0 "x": f32[1, s0, 1, 1], %1 "pos": i64[1]) where s0 in 1..=3, s1 in 0..=3 {
    %2 = aten::_local_scalar_dense(%1) : int(s1)
    %3, %4 = llama::update_cache(%0, b0, %2)
    mutate b0 = %4
    return %4
  }
}
; ---
; call 0: f32[1, 4, 1, 1] = [1.0000, 2.0000, 0.0000, 0.0000]
; call 1: f32[1, 4, 1, 1] = [1.0000, 2.0000, 3.0000, 0.0000]
; call 2: error: method `forward`, node #1 llama::update_cache: 2 rows at start_pos 3 leave a cache of 4 rows; in this call input 1 `pos` is 3
