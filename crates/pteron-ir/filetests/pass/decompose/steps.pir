; test: pass decompose
; steps: 1
module "t" {
  graph f(%0: f32[2, 3, 4]) {
    %1 = aten::silu(%0)
    %2 = aten::silu(%1)
    return %2
  }
}
; ---
module "t" {
  graph f(%0: f32[2, 3, 4]) {
    %1 = aten::sigmoid(%0) : f32[2, 3, 4] #2
    %2 = aten::mul.Tensor(%0, %1) : f32[2, 3, 4] #3
    %3 = aten::silu(%2) : f32[2, 3, 4] #1
    return %3
  }
}
