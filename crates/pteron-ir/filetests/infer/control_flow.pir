; test: infer
module "t" {
  graph f(%0: bool, %1: f32[2]) {
    %2, %3 = cond(%0) then {
    ; infer: f32[2], f32[]
      %4 = aten::relu(%1)
      ; infer: f32[2]
      %5 = aten::sum.dim_IntList(%1, [0])
      ; infer: f32[]
      yield %4, %5
    } else {
      yield %1, %1
    }
    %6, %7 = loop(%2, %3) body(%8: _, %9: _) {
    ; infer: f32[2], f32[]
      %10 = aten::add.Tensor(%8, %9)
      ; infer: f32[2]
      yield %0, %10, %9
    }
    %11 = custom "my::op"(%1)
    ; error: custom: has no inference: its output types are declared
    %12 = aten::relu(%11)
    return %0
  }
}
