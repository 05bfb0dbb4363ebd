; test: infer
module "t" {
  graph f(%0: f32[2, 3], %1: i64[3], %2: f16[], %3: bool[2, 1], %4: bf16[2, 3], %5: f32[s0, 3], %6: u8[3], %7: f32[1, 2, 3, 3]{0,2,3,1}) where s0 in 1..=9 {
    %10 = aten::add.Tensor(%0, %1)
    ; infer: f32[2, 3]
    %11 = aten::add.Tensor(%1, %2)
    ; infer: f16[3]
    %12 = aten::mul.Tensor(%3, %1)
    ; infer: i64[2, 3]
    %13 = aten::add.Tensor(%2, %4)
    ; infer: bf16[2, 3]
    %14 = aten::div.Tensor(%1, %1)
    ; infer: f32[3]
    %15 = aten::div.Tensor_mode(%1, %6, "floor")
    ; infer: i64[3]
    %16 = aten::add.Tensor(%5, %0)
    ; infer: f32[2, 3]
    %17 = aten::mul.Scalar(%1, 0.5)
    ; infer: f32[3]
    %18 = aten::mul.Scalar(%3, 2)
    ; infer: i64[2, 1]
    %19 = aten::eq.Scalar(%7, 0)
    ; infer: bool[1, 2, 3, 3]{0,2,3,1}
    %20 = aten::where.self(%3, %0, %4)
    ; infer: f32[2, 3]
    %21 = aten::rsqrt(%1)
    ; infer: f32[3]
    %22 = aten::add.Tensor(%7, %7)
    ; infer: f32[1, 2, 3, 3]{0,2,3,1}
    %23 = aten::logical_not(%0)
    ; infer: bool[2, 3]
    %24 = aten::clamp(%1, 0.5)
    ; infer: f32[3]
    %25 = aten::add.Tensor(%0, %7)
    ; error: aten::add.Tensor: sizes 2 and 3 of dimension 2 do not broadcast
    %26 = aten::full_like(%0, 1, dtype=i64)
    ; infer: i64[2, 3]
    %27 = aten::arange.start_step(0, 10, 3)
    ; infer: i64[4]
    %28 = aten::arange.start_step(0.0, 1.0, 0.25)
    ; infer: f32[4]
    %29 = aten::sub.Tensor(%10, %99)
    %99 = aten::where.self(%0, %0, %0)
    ; error: aten::where.self: condition is f32, expected bool
    return %0
  }
}
