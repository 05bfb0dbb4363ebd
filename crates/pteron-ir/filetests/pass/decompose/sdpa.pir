; test: pass decompose
module "t" {
  graph f(%0: f32[1, 4, 8, 16], %1: f32[1, 4, 8, 16], %2: f32[1, 4, 8, 16]) {
    %3 = aten::scaled_dot_product_attention(%0, %1, %2) @"layers.0.attention.sdpa"
    return %3
  }
}
; ---
module "t" {
  graph f(%0: f32[1, 4, 8, 16], %1: f32[1, 4, 8, 16], %2: f32[1, 4, 8, 16]) {
    %3 = aten::mul.Scalar(%0, 0.5) : f32[1, 4, 8, 16] @"layers.0.attention.sdpa" #1
    %4 = aten::mul.Scalar(%1, 0.5) : f32[1, 4, 8, 16] @"layers.0.attention.sdpa" #2
    %5 = aten::view_copy(%3, [4, 8, 16]) : f32[4, 8, 16] @"layers.0.attention.sdpa" #3
    %6 = aten::view_copy(%4, [4, 8, 16]) : f32[4, 8, 16] @"layers.0.attention.sdpa" #4
    %7 = aten::view_copy(%2, [4, 8, 16]) : f32[4, 8, 16] @"layers.0.attention.sdpa" #5
    %8 = aten::permute_copy(%6, [0, 2, 1]) : f32[4, 16, 8] @"layers.0.attention.sdpa" #6
    %9 = aten::bmm(%5, %8) : f32[4, 8, 8] @"layers.0.attention.sdpa" #7
    %10 = aten::_softmax(%9, -1, false) : f32[4, 8, 8] @"layers.0.attention.sdpa" #8
    %11 = aten::bmm(%10, %7) : f32[4, 8, 16] @"layers.0.attention.sdpa" #9
    %12 = aten::view_copy(%11, [1, 4, 8, 16]) : f32[1, 4, 8, 16] @"layers.0.attention.sdpa" #10
    return %12
  }
}
