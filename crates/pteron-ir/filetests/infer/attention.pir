; test: infer
module "t" {
  buffer b0 "k" : f32[1, 32, 2, 16]
  buffer b1 "v" : f32[1, 32, 2, 16]
  graph f(%0: f32[1, 4, s0, 16], %1: f32[1, 2, s1, 16], %2: f32[1, s0, 4, 16], %3: f32[1, s0, 2, 16], %4: f32[s0, 8], %5: int(s2), %6: f32[s0, 7]) where s0 in 1..=31, s1 in 1..=31, s2 in 0..=31 {
    %10 = aten::scaled_dot_product_attention(%0, %1, %1, enable_gqa=true)
    ; infer: f32[1, 4, s0, 16]
    %11 = aten::scaled_dot_product_attention(%0, %1, %1)
    ; error: aten::scaled_dot_product_attention: 4 query heads with 2 key heads need enable_gqa
    %12 = pteron::rope(%2, %4, %4, false)
    ; infer: f32[1, s0, 4, 16]
    %13 = pteron::rope(%2, %6, %6, false)
    ; error: pteron::rope: pairs of cos f32[s0, 7] and x f32[1, s0, 4, 16]: 14 and 16 differ
    %14, %15 = llama::update_cache(%3, b0, %5)
    ; infer: f32[1], f32[1, 32, 2, 16]
    %16 = llama::custom_sdpa(%2, %15, %15, %5, is_causal=true)
    ; infer: f32[1, s0, 4, 16]
    %17, %18, %19 = llama::sdpa_with_kv_cache(%2, %3, %3, b0, b1, %5, %5)
    ; infer: f32[1, s0, 4, 16], f32[1, 32, 2, 16], f32[1, 32, 2, 16]
    return %0
  }
}
