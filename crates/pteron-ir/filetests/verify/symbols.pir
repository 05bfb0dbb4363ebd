; test: verify
module "t" {
  graph f(%0: f32[s0], %1: f32[s0+s1], %2: f32[s9], %3: i64[1], %4: bool) where s0 in 1..=2, s1 in 3..=4, s2 in 9..=0, s3 in 0..=5 {
  ; error: symbols: s2 has bounds 9..=0
  ; error: symbols: symbol s1 in f32[s0+s1] is not bound before
  ; error: symbols: symbol s9 in f32[s9] is not declared
    %5 = custom "my::op"(%0) : f32[s3] #0
    ; error: symbols: symbol s3 in f32[s3] is not bound before
    %6 = aten::_local_scalar_dense(%3) : int(s3) #1
    %7 = custom "my::op"(%0) : f32[s3] #2
    return %5
  }
}
