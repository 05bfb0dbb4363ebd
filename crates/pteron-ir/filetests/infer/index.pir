; test: infer
module "t" {
  graph f(%0: f32[8, 4, 3], %1: i64[1, s0], %2: i64[5], %3: f32[5], %4: f32[5, 3]) where s0 in 1..=31 {
    %10 = aten::embedding(%4, %1)
    ; infer: f32[1, s0, 3]
    %11 = aten::embedding(%0, %1)
    ; error: aten::embedding: weight is f32[8, 4, 3], expected a matrix
    %12 = aten::index.Tensor(%0, [%2])
    ; infer: f32[5, 4, 3]
    %13 = aten::index.Tensor(%0, [None, %2])
    ; infer: f32[8, 5, 3]
    %14 = aten::index.Tensor(%0, [%2, None, %2])
    ; infer: f32[5, 4]
    %15 = aten::index.Tensor(%0, [%3])
    ; error: aten::index.Tensor: an index is f32, expected i64 or i32
    %16 = aten::index_put(%0, [%2, %2], %4)
    ; infer: f32[8, 4, 3]
    %17 = aten::index_put(%0, [%2], %3)
    ; error: aten::index_put: sizes 5 and 3 of dimension 2 do not broadcast
    %18 = aten::index_select(%0, 1, %2)
    ; infer: f32[8, 5, 3]
    %19 = aten::gather(%4, 0, %1)
    ; infer: f32[1, s0]
    return %0
  }
}
