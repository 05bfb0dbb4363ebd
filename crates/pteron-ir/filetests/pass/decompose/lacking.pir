; test: pass decompose
; target: executorch-portable without aten::sigmoid
module "t" {
  graph f(%0: f32[2, 3, 4]) {
    %1 = aten::silu(%0)
    return %1
  }
}
; ---
; error: pass `decompose`: graph `f`, `%1 = aten::silu(%0) : f32[2, 3, 4] #0`: the target lacks aten::sigmoid, of which aten::silu would be made
