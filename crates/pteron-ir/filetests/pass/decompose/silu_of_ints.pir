; test: pass decompose
module "t" {
  graph f(%0: i32[2]) {
    %1 = aten::silu(%0) : i32[2]
    return %1
  }
}
; ---
; error: the module given to the passes does not verify:
; graph `f`: `%1 = aten::silu(%0) : i32[2] #0`: types: expected a float tensor, found i32[2]
