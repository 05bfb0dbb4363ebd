; test: cat
; test: verify
module "tiny \"q\" \u{7}" {
  const c0 "tok_embeddings.weight" : f32[512, 64]
  const c1 "norm.eps" : f32[] = [1e-5]
  const c2 "output.weight" : f32[512, 64] external "output"
  buffer b0 "layers.0.k_cache" : f32[1, 32, 2, 16]
  buffer b1 "count" : f32[] = c1
  delegate d0 "XnnpackBackend" hex "584e3031" spec "threads" = hex "02" data "weights" = 1234 bytes
  metadata get_eos_ids = [2, 3]
  metadata "a name" = [true, 1.5, "text", -inf]
  graph forward(%0 "tokens": i64[1, s0], %1 "input_pos": i64[1], %2: f32[1, s0, 2, 16]) where s0 in 1..=31, s1 in 0..=31 next #57 {
    %3 "hidden" = aten::embedding(c0, %0) : f32[1, s0, 64] @"tok_embeddings" #0
    %4 = aten::_local_scalar_dense(%1) : int(s1) #1
    %5, %6 = llama::update_cache(%2, b0, %4) : f32[1], f32[1, 32, 2, 16] @"layers.0.attention" #2
    %7 = delegate d0(%3) : f32[1, s0, 8] #3
    mutate b0 = %6
    return %3, %7
  }
  graph peek() {
    return b1
  }
}
