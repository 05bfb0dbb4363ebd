; test: pass dce
module "t" {
  graph f(%0: f32[2]) {
    %1 = aten::relu(%0) : f32[3]
    return %1
  }
}
; ---
; error: the module given to the passes does not verify:
; graph `f`: `%1 = aten::relu(%0) : f32[3] #0`: types: %1 is declared as f32[3], inferred is f32[2]
