; test: pass decompose
module "t" {
  graph f(%0: f32[1, s0, 4, 16], %1: f32[s0, 8], %2: f32[s0, 8]) where s0 in 1..=31 {
    %3 = pteron::rope(%0, %1, %2, false) @"layers.0.attention.rope"
    return %3
  }
}
; ---
module "t" {
  graph f(%0: f32[1, s0, 4, 16], %1: f32[s0, 8], %2: f32[s0, 8]) where s0 in 1..=31 {
    %3 = aten::unsqueeze_copy(%1, 1) : f32[s0, 1, 8] @"layers.0.attention.rope" #1
    %4 = aten::unsqueeze_copy(%2, 1) : f32[s0, 1, 8] @"layers.0.attention.rope" #2
    %5 = aten::slice_copy.Tensor(%0, 3, 0, 8) : f32[1, s0, 4, 8] @"layers.0.attention.rope" #3
    %6 = aten::slice_copy.Tensor(%0, 3, 8, 16) : f32[1, s0, 4, 8] @"layers.0.attention.rope" #4
    %7 = aten::mul.Tensor(%5, %3) : f32[1, s0, 4, 8] @"layers.0.attention.rope" #5
    %8 = aten::mul.Tensor(%6, %4) : f32[1, s0, 4, 8] @"layers.0.attention.rope" #6
    %9 = aten::sub.Tensor(%7, %8) : f32[1, s0, 4, 8] @"layers.0.attention.rope" #7
    %10 = aten::mul.Tensor(%6, %3) : f32[1, s0, 4, 8] @"layers.0.attention.rope" #8
    %11 = aten::mul.Tensor(%5, %4) : f32[1, s0, 4, 8] @"layers.0.attention.rope" #9
    %12 = aten::add.Tensor(%10, %11) : f32[1, s0, 4, 8] @"layers.0.attention.rope" #10
    %13 = aten::cat([%9, %12], 3) : f32[1, s0, 4, 16] @"layers.0.attention.rope" #11
    return %13
  }
}
