; test: quantize qnn_16a8w
module "t" {
  const c0 "q.weight" : f32[4, 4] = [0.5, -0.25, 0.125, 1.0, -1.0, 0.5, 0.25, 0.75, 0.5, 0.0, 0.125, 1.0, -1.0, 0.5, 0.5, 0.75]
  const c1 "q.bias" : f32[4] = [0.1, -0.1, 0.2, 0.0]
  const c2 "norm.weight" : f32[4] = [1.0, 0.9, 1.1, 1.0]
  const c3 "mask" : f32[2, 2] = [0.0, -inf, 0.0, 0.0]
  graph forward(%0: f32[1, 2, 4]) {
    %1 = aten::rms_norm(%0, [4], c2, 1e-5) @"norm"
    %2 = aten::linear(%1, c0, c1) @"q"
    %3 = aten::permute_copy(%2, [0, 2, 1]) @"attn"
    %4 = aten::bmm(%2, %3) @"attn"
    %5 = aten::add.Tensor(%4, c3) @"attn"
    %6 = aten::_softmax(%5, -1, false) @"attn"
    %7 = aten::bmm(%6, %2) @"attn"
    %8 = aten::silu(%7) @"act"
    return %8
  }
}
; ---
module "t" {
  const c0 "q.weight" : f32[4, 4] = [0.5, -0.25, 0.125, 1.0, -1.0, 0.5, 0.25, 0.75, 0.5, 0.0, 0.125, 1.0, -1.0, 0.5, 0.5, 0.75]
  const c1 "q.bias" : f32[4] = [0.1, -0.1, 0.2, 0.0]
  const c2 "norm.weight" : f32[4] = [1.0, 0.9, 1.1, 1.0]
  const c3 "mask" : f32[2, 2] = [0.0, -65535.0, 0.0, 0.0]
  const c4 "norm.weight_quantized" : i32[4]
  const c5 "q.weight_quantized" : i8[4, 4]
  const c6 "q.weight_scale" : f32[4] = [0.007874016, 0.007874016, 0.007874016, 0.007874016]
  const c7 "q.weight_zero_point" : i64[4] = [0, 0, 0, 0]
  const c8 "q.bias_quantized" : i32[4]
  const c9 "q.bias_scale" : f32[4] = [1.77647e-7, 1.77647e-7, 1.77647e-7, 1.77647e-7]
  const c10 "q.bias_zero_point" : i64[4] = [0, 0, 0, 0]
  const c11 "mask_quantized" : i32[2, 2]
  graph forward(%0: f32[1, 2, 4]) {
    %1 = quantized_decomposed::quantize_per_tensor(%0, 3.344413926242851e-5, 0, 0, 65535, i32) : i32[1, 2, 4] @"norm" #10
    %2 = quantized_decomposed::dequantize_per_tensor(%1, 3.344413926242851e-5, 0, 0, 65535, i32) : f32[1, 2, 4] @"norm" #11
    %3 = quantized_decomposed::dequantize_per_tensor(c4, 1.678492481005378e-5, 0, 0, 65535, i32) : f32[4] @"norm" #12
    %4 = aten::rms_norm(%2, [4], %3, 1e-5) : f32[1, 2, 4] @"norm" #0
    %5 = quantized_decomposed::quantize_per_tensor(%4, 2.2561169316759333e-5, 0, 0, 65535, i32) : i32[1, 2, 4] @"q" #13
    %6 = quantized_decomposed::dequantize_per_tensor(%5, 2.2561169316759333e-5, 0, 0, 65535, i32) : f32[1, 2, 4] @"q" #14
    %7 = quantized_decomposed::dequantize_per_channel(c5, c6, c7, 0, -127, 127, i8) : f32[4, 4] @"q" #15
    %8 = quantized_decomposed::dequantize_per_channel(c8, c9, c10, 0, -2147483648, 2147483647, i32) : f32[4] @"q" #16
    %9 = aten::linear(%6, %7, %8) : f32[1, 2, 4] @"q" #1
    %10 = quantized_decomposed::quantize_per_tensor(%9, 2.9415348762995563e-5, 0, 0, 65535, i32) : i32[1, 2, 4] @"attn" #17
    %11 = quantized_decomposed::dequantize_per_tensor(%10, 2.9415348762995563e-5, 0, 0, 65535, i32) : f32[1, 2, 4] @"attn" #18
    %12 = quantized_decomposed::quantize_per_tensor(%11, 0.015119489282369614, 128, 0, 255, u8) : u8[1, 2, 4] @"attn" #19
    %13 = quantized_decomposed::dequantize_per_tensor(%12, 0.015119489282369614, 128, 0, 255, u8) : f32[1, 2, 4] @"attn" #20
    %14 = aten::permute_copy(%13, [0, 2, 1]) : f32[1, 4, 2] @"attn" #2
    %15 = quantized_decomposed::dequantize_per_tensor(%10, 2.9415348762995563e-5, 0, 0, 65535, i32) : f32[1, 2, 4] @"attn" #21
    %16 = quantized_decomposed::quantize_per_tensor(%14, 0.015119489282369614, 128, 0, 255, u8) : u8[1, 4, 2] @"attn" #22
    %17 = quantized_decomposed::dequantize_per_tensor(%16, 0.015119489282369614, 128, 0, 255, u8) : f32[1, 4, 2] @"attn" #23
    %18 = aten::bmm(%15, %17) : f32[1, 2, 2] @"attn" #3
    %19 = quantized_decomposed::quantize_per_tensor(%18, 0.00018640648340806365, 0, 0, 65535, i32) : i32[1, 2, 2] @"attn" #24
    %20 = quantized_decomposed::dequantize_per_tensor(%19, 0.00018640648340806365, 0, 0, 65535, i32) : f32[1, 2, 2] @"attn" #25
    %21 = quantized_decomposed::dequantize_per_tensor(c11, 1.0, 65535, 0, 65535, i32) : f32[2, 2] @"attn" #26
    %22 = aten::add.Tensor(%20, %21) : f32[1, 2, 2] @"attn" #4
    %23 = quantized_decomposed::quantize_per_tensor(%22, 1.000098705291748, 65523, 0, 65535, i32) : i32[1, 2, 2] @"attn" #27
    %24 = quantized_decomposed::dequantize_per_tensor(%23, 1.000098705291748, 65523, 0, 65535, i32) : f32[1, 2, 2] @"attn" #28
    %25 = aten::_softmax(%24, -1, false) : f32[1, 2, 2] @"attn" #5
    %26 = quantized_decomposed::quantize_per_tensor(%25, 1.5259021893143654e-5, 0, 0, 65535, i32) : i32[1, 2, 2] @"attn" #29
    %27 = quantized_decomposed::dequantize_per_tensor(%26, 1.5259021893143654e-5, 0, 0, 65535, i32) : f32[1, 2, 2] @"attn" #30
    %28 = quantized_decomposed::dequantize_per_tensor(%12, 0.015119489282369614, 128, 0, 255, u8) : f32[1, 2, 4] @"attn" #31
    %29 = aten::bmm(%27, %28) : f32[1, 2, 4] @"attn" #6
    %30 = quantized_decomposed::quantize_per_tensor(%29, 2.9415348762995563e-5, 0, 0, 65535, i32) : i32[1, 2, 4] @"act" #32
    %31 = quantized_decomposed::dequantize_per_tensor(%30, 2.9415348762995563e-5, 0, 0, 65535, i32) : f32[1, 2, 4] @"act" #33
    %32 = aten::sigmoid(%31) : f32[1, 2, 4] @"act" #8
    %33 = quantized_decomposed::dequantize_per_tensor(%30, 2.9415348762995563e-5, 0, 0, 65535, i32) : f32[1, 2, 4] @"act" #34
    %34 = quantized_decomposed::quantize_per_tensor(%32, 1.52587890625e-5, 0, 0, 65535, i32) : i32[1, 2, 4] @"act" #35
    %35 = quantized_decomposed::dequantize_per_tensor(%34, 1.52587890625e-5, 0, 0, 65535, i32) : f32[1, 2, 4] @"act" #36
    %36 = aten::mul.Tensor(%33, %35) : f32[1, 2, 4] @"act" #9
    %37 = quantized_decomposed::quantize_per_tensor(%36, 2.5679555619717576e-5, 0, 0, 65535, i32) : i32[1, 2, 4] #37
    %38 = quantized_decomposed::dequantize_per_tensor(%37, 2.5679555619717576e-5, 0, 0, 65535, i32) : f32[1, 2, 4] #38
    return %38
  }
}
