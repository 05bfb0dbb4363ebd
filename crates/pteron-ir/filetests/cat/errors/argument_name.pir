; test: cat
module "t" {
  graph f(%0: f32[2]) {
    %1 = aten::add.Tensor(%0, %0, beta=2) : f32[2] #0
    ; error: column 35: aten::add.Tensor has no argument `beta`
    return %1
  }
}
