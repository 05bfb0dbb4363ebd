; test: infer
module "t" {
  graph f(%0: f32[2, s0, 4], %1: i64[5]) where s0 in 1..=31 {
    %10 = aten::sum.dim_IntList(%0, [-1], true)
    ; infer: f32[2, s0, 1]
    %11 = aten::sum.dim_IntList(%1, None)
    ; infer: i64[]
    %12 = aten::mean.dim(%0, [0, 2])
    ; infer: f32[s0]
    %13 = aten::mean.dim(%1, [0])
    ; error: aten::mean.dim: the mean of i64 is not defined: give a float dtype
    %14 = aten::amax(%0)
    ; infer: f32[]
    %15 = aten::argmax(%0, 1)
    ; infer: i64[2, 4]
    %16, %17 = aten::max.dim(%0, 2, true)
    ; infer: f32[2, s0, 1], i64[2, s0, 1]
    %18 = aten::any.dim(%0, -1)
    ; infer: bool[2, s0]
    %19 = aten::_softmax(%0, -1, false)
    ; infer: f32[2, s0, 4]
    %20 = aten::_softmax(%1, -1, false)
    ; error: aten::_softmax: expected a float tensor, found i64[5]
    %21, %22 = aten::topk(%0, 5)
    ; error: aten::topk: k is 5 for a dimension of 4
    %23 = aten::cumsum(%1, 0)
    ; infer: i64[5]
    %24 = aten::sum.dim_IntList(%0, [3])
    ; error: aten::sum.dim_IntList: dimension 3 of a tensor with 3 dimensions
    return %0
  }
}
