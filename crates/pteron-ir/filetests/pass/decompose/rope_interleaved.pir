; test: pass decompose
module "t" {
  graph f(%0: f16[1, s0, 4, 16], %1: f32[s0, 8], %2: f32[s0, 8]) where s0 in 1..=31 {
    %3 = pteron::rope(%0, %1, %2, true) @"layers.0.attention.rope"
    return %3
  }
}
; ---
module "t" {
  graph f(%0: f16[1, s0, 4, 16], %1: f32[s0, 8], %2: f32[s0, 8]) where s0 in 1..=31 {
    %3 = aten::_to_copy(%0, f32) : f32[1, s0, 4, 16] @"layers.0.attention.rope" #1
    %4 = aten::unsqueeze_copy(%1, 1) : f32[s0, 1, 8] @"layers.0.attention.rope" #2
    %5 = aten::unsqueeze_copy(%2, 1) : f32[s0, 1, 8] @"layers.0.attention.rope" #3
    %6 = aten::view_copy(%3, [1, -1, 4, 8, 2]) : f32[1, s0, 4, 8, 2] @"layers.0.attention.rope" #4
    %7 = aten::select_copy.int(%6, 4, 0) : f32[1, s0, 4, 8] @"layers.0.attention.rope" #5
    %8 = aten::select_copy.int(%6, 4, 1) : f32[1, s0, 4, 8] @"layers.0.attention.rope" #6
    %9 = aten::mul.Tensor(%7, %4) : f32[1, s0, 4, 8] @"layers.0.attention.rope" #7
    %10 = aten::mul.Tensor(%8, %5) : f32[1, s0, 4, 8] @"layers.0.attention.rope" #8
    %11 = aten::sub.Tensor(%9, %10) : f32[1, s0, 4, 8] @"layers.0.attention.rope" #9
    %12 = aten::mul.Tensor(%8, %4) : f32[1, s0, 4, 8] @"layers.0.attention.rope" #10
    %13 = aten::mul.Tensor(%7, %5) : f32[1, s0, 4, 8] @"layers.0.attention.rope" #11
    %14 = aten::add.Tensor(%12, %13) : f32[1, s0, 4, 8] @"layers.0.attention.rope" #12
    %15 = aten::unsqueeze_copy(%11, 4) : f32[1, s0, 4, 8, 1] @"layers.0.attention.rope" #13
    %16 = aten::unsqueeze_copy(%14, 4) : f32[1, s0, 4, 8, 1] @"layers.0.attention.rope" #14
    %17 = aten::cat([%15, %16], 4) : f32[1, s0, 4, 8, 2] @"layers.0.attention.rope" #15
    %18 = aten::view_copy(%17, [1, -1, 4, 16]) : f32[1, s0, 4, 16] @"layers.0.attention.rope" #16
    %19 = aten::_to_copy(%18, f16) : f16[1, s0, 4, 16] @"layers.0.attention.rope" #17
    return %19
  }
}
