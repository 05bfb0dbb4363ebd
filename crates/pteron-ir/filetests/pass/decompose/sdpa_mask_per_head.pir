; test: pass decompose
module "t" {
  graph f(%0: f32[1, 4, s0, 16], %1: f32[1, 4, s1, 16], %2: f32[1, 4, s1, 16], %3: f32[1, 4, s0, s1]) where s0 in 1..=31, s1 in 1..=31 {
    %4 = aten::scaled_dot_product_attention(%0, %1, %2, %3)
    return %4
  }
}
; ---
module "t" {
  graph f(%0: f32[1, 4, s0, 16], %1: f32[1, 4, s1, 16], %2: f32[1, 4, s1, 16], %3: f32[1, 4, s0, s1]) where s0 in 1..=31, s1 in 1..=31 {
    %4 = aten::mul.Scalar(%0, 0.5) : f32[1, 4, s0, 16] #1
    %5 = aten::mul.Scalar(%1, 0.5) : f32[1, 4, s1, 16] #2
    %6 = aten::view_copy(%4, [4, -1, 16]) : f32[4, s0, 16] #3
    %7 = aten::view_copy(%5, [4, -1, 16]) : f32[4, s1, 16] #4
    %8 = aten::view_copy(%2, [4, -1, 16]) : f32[4, s1, 16] #5
    %9 = aten::permute_copy(%7, [0, 2, 1]) : f32[4, 16, s1] #6
    %10 = aten::bmm(%6, %9) : f32[4, s0, s1] #7
    %11 = aten::sym_size.int(%5, 2) : int(s1) #8
    %12 = aten::view_copy(%10, [1, 4, -1, %11]) : f32[1, 4, s0, s1] #9
    %13 = aten::add.Tensor(%12, %3) : f32[1, 4, s0, s1] #10
    %14 = aten::_softmax(%13, -1, false) : f32[1, 4, s0, s1] #11
    %15 = aten::eq.Scalar(%13, -inf) : bool[1, 4, s0, s1] #12
    %16 = aten::logical_not(%15) : bool[1, 4, s0, s1] #13
    %17 = aten::any.dim(%16, -1, true) : bool[1, 4, s0, 1] #14
    %18 = aten::logical_not(%17) : bool[1, 4, s0, 1] #15
    %19 = aten::full_like(%14, 0) : f32[1, 4, s0, s1] #16
    %20 = aten::where.self(%18, %19, %14) : f32[1, 4, s0, s1] #17
    %21 = aten::view_copy(%20, [4, -1, %11]) : f32[4, s0, s1] #18
    %22 = aten::bmm(%21, %8) : f32[4, s0, 16] #19
    %23 = aten::view_copy(%22, [1, 4, -1, 16]) : f32[1, 4, s0, 16] #20
    return %23
  }
}
