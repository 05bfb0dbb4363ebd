; test: cat
module "t" {
  graph f(%0: f32[2]) {
    %1 = aten::add.Tensor(%0) : f32[2] #0
    ; error: column 26: argument `other` of aten::add.Tensor is missing
    return %1
  }
}
