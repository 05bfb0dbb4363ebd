; test: cat
module "t" {
  graph f(%0: f32[2]) {
    %1 = aten::add(%0, %0)
    ; error: column 10: unknown operator `aten::add`: did you mean `aten::add.Tensor`?
    return %1
  }
}
