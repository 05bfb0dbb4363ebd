; test: pass decompose
module "t" {
  graph f(%0: f32[1, 4, s0, 16], %1: f32[1, 2, s0, 16], %2: f32[1, 2, s0, 16]) where s0 in 1..=31 {
    %3 = aten::scaled_dot_product_attention(%0, %1, %2, is_causal=true, enable_gqa=true)
    %4 = aten::scaled_dot_product_attention(%3, %1, %2, is_causal=true, enable_gqa=true)
    return %4
  }
}
; ---
module "t" {
  const c0 "_scalar_f32_0.0" : f32[] = [0.0]
  const c1 "_scalar_f32_-inf" : f32[] = [-inf]
  graph f(%0: f32[1, 4, s0, 16], %1: f32[1, 2, s0, 16], %2: f32[1, 2, s0, 16]) where s0 in 1..=31 {
    %3 = aten::mul.Scalar(%0, 0.5) : f32[1, 4, s0, 16] #2
    %4 = aten::mul.Scalar(%1, 0.5) : f32[1, 2, s0, 16] #3
    %5 = aten::view_copy(%3, [4, -1, 16]) : f32[4, s0, 16] #4
    %6 = aten::unsqueeze_copy(%4, 2) : f32[1, 2, 1, s0, 16] #5
    %7 = aten::expand_copy(%6, [-1, -1, 2, -1, -1]) : f32[1, 2, 2, s0, 16] #6
    %8 = aten::view_copy(%7, [4, -1, 16]) : f32[4, s0, 16] #7
    %9 = aten::unsqueeze_copy(%2, 2) : f32[1, 2, 1, s0, 16] #8
    %10 = aten::expand_copy(%9, [-1, -1, 2, -1, -1]) : f32[1, 2, 2, s0, 16] #9
    %11 = aten::view_copy(%10, [4, -1, 16]) : f32[4, s0, 16] #10
    %12 = aten::permute_copy(%8, [0, 2, 1]) : f32[4, 16, s0] #11
    %13 = aten::bmm(%5, %12) : f32[4, s0, s0] #12
    %14 = aten::sym_size.int(%3, 2) : int(s0) #13
    %15 = aten::arange.start_step(0, %14) : i64[s0] #14
    %16 = aten::unsqueeze_copy(%15, 1) : i64[s0, 1] #15
    %17 = aten::ge.Tensor(%16, %15) : bool[s0, s0] #16
    %18 = aten::where.self(%17, c0, c1) : f32[s0, s0] #17
    %19 = aten::add.Tensor(%13, %18) : f32[4, s0, s0] #18
    %20 = aten::_softmax(%19, -1, false) : f32[4, s0, s0] #19
    %21 = aten::bmm(%20, %11) : f32[4, s0, 16] #20
    %22 = aten::view_copy(%21, [1, 4, -1, 16]) : f32[1, 4, s0, 16] #21
    %23 = aten::mul.Scalar(%22, 0.5) : f32[1, 4, s0, 16] #22
    %24 = aten::mul.Scalar(%1, 0.5) : f32[1, 2, s0, 16] #23
    %25 = aten::view_copy(%23, [4, -1, 16]) : f32[4, s0, 16] #24
    %26 = aten::unsqueeze_copy(%24, 2) : f32[1, 2, 1, s0, 16] #25
    %27 = aten::expand_copy(%26, [-1, -1, 2, -1, -1]) : f32[1, 2, 2, s0, 16] #26
    %28 = aten::view_copy(%27, [4, -1, 16]) : f32[4, s0, 16] #27
    %29 = aten::unsqueeze_copy(%2, 2) : f32[1, 2, 1, s0, 16] #28
    %30 = aten::expand_copy(%29, [-1, -1, 2, -1, -1]) : f32[1, 2, 2, s0, 16] #29
    %31 = aten::view_copy(%30, [4, -1, 16]) : f32[4, s0, 16] #30
    %32 = aten::permute_copy(%28, [0, 2, 1]) : f32[4, 16, s0] #31
    %33 = aten::bmm(%25, %32) : f32[4, s0, s0] #32
    %34 = aten::arange.start_step(0, %14) : i64[s0] #33
    %35 = aten::unsqueeze_copy(%34, 1) : i64[s0, 1] #34
    %36 = aten::ge.Tensor(%35, %34) : bool[s0, s0] #35
    %37 = aten::where.self(%36, c0, c1) : f32[s0, s0] #36
    %38 = aten::add.Tensor(%33, %37) : f32[4, s0, s0] #37
    %39 = aten::_softmax(%38, -1, false) : f32[4, s0, s0] #38
    %40 = aten::bmm(%39, %31) : f32[4, s0, 16] #39
    %41 = aten::view_copy(%40, [1, 4, -1, 16]) : f32[1, 4, s0, 16] #40
    return %41
  }
}
