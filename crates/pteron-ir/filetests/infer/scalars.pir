; test: infer
module "t" {
  graph f(%0: f32[1, s0], %1: i64[1], %2: f32[], %3: int(s1)) where s0 in 1..=31, s1 in 0..=8 {
    %10 = aten::sym_size.int(%0, 1)
    ; infer: int(s0)
    %11 = aten::sym_numel(%0)
    ; infer: int(s0)
    %12 = aten::_local_scalar_dense(%1)
    ; infer: int
    %13 = aten::_local_scalar_dense(%2)
    ; infer: float
    %14 = executorch_prim::add.Scalar(%10, %3)
    ; infer: int(s0+s1)
    %15 = executorch_prim::mul.Scalar(%10, 4)
    ; infer: int(4*s0)
    %16 = executorch_prim::mul.Scalar(%10, %3)
    ; infer: int(?0..=248)
    %17 = executorch_prim::floordiv.Scalar(%15, 2)
    ; infer: int(2*s0)
    %18 = executorch_prim::mod.Scalar(%12, 7)
    ; infer: int(?0..=6)
    %19 = executorch_prim::truediv.Scalar(%10, 2)
    ; infer: float
    %20 = executorch_prim::lt.Scalar(%10, %3)
    ; infer: bool
    %21 = executorch_prim::neg.Scalar(%14)
    ; infer: int(-s0-s1)
    %22 = executorch_prim::sym_max.Scalar(%10, 40)
    ; infer: int(40)
    %23 = executorch_prim::floordiv.Scalar(%10, 0)
    ; error: executorch_prim::floordiv.Scalar: division by zero
    return %0
  }
}
