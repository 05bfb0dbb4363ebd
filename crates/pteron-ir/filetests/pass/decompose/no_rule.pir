; test: pass decompose
; target: executorch-portable without aten::relu
module "t" {
  graph f(%0: f32[2, 3, 4]) {
    %1 = aten::relu(%0)
    return %1
  }
}
; ---
; error: pass `decompose`: graph `f`, `%1 = aten::relu(%0) : f32[2, 3, 4] #0`: the target has no aten::relu and there is no rule to replace it
