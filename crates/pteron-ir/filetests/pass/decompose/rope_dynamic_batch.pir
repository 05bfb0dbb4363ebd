; test: pass decompose
module "t" {
  graph f(%0: f32[s1, s0, 4, 16], %1: f32[s0, 8], %2: f32[s0, 8]) where s0 in 1..=31, s1 in 1..=4 {
    %3 = pteron::rope(%0, %1, %2, true)
    return %3
  }
}
; ---
module "t" {
  graph f(%0: f32[s1, s0, 4, 16], %1: f32[s0, 8], %2: f32[s0, 8]) where s0 in 1..=31, s1 in 1..=4 {
    %3 = aten::unsqueeze_copy(%1, 1) : f32[s0, 1, 8] #1
    %4 = aten::unsqueeze_copy(%2, 1) : f32[s0, 1, 8] #2
    %5 = aten::sym_size.int(%0, 1) : int(s0) #3
    %6 = aten::view_copy(%0, [-1, %5, 4, 8, 2]) : f32[s1, s0, 4, 8, 2] #4
    %7 = aten::select_copy.int(%6, 4, 0) : f32[s1, s0, 4, 8] #5
    %8 = aten::select_copy.int(%6, 4, 1) : f32[s1, s0, 4, 8] #6
    %9 = aten::mul.Tensor(%7, %3) : f32[s1, s0, 4, 8] #7
    %10 = aten::mul.Tensor(%8, %4) : f32[s1, s0, 4, 8] #8
    %11 = aten::sub.Tensor(%9, %10) : f32[s1, s0, 4, 8] #9
    %12 = aten::mul.Tensor(%8, %3) : f32[s1, s0, 4, 8] #10
    %13 = aten::mul.Tensor(%7, %4) : f32[s1, s0, 4, 8] #11
    %14 = aten::add.Tensor(%12, %13) : f32[s1, s0, 4, 8] #12
    %15 = aten::unsqueeze_copy(%11, 4) : f32[s1, s0, 4, 8, 1] #13
    %16 = aten::unsqueeze_copy(%14, 4) : f32[s1, s0, 4, 8, 1] #14
    %17 = aten::cat([%15, %16], 4) : f32[s1, s0, 4, 8, 2] #15
    %18 = aten::view_copy(%17, [-1, %5, 4, 16]) : f32[s1, s0, 4, 16] #16
    return %18
  }
}
