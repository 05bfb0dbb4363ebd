; test: pass decompose
; target: executorch-portable without aten::transpose_copy.int
module "t" {
  graph f(%0: f32[2, 3, 4]) {
    %1 = aten::transpose_copy.int(%0, 0, -1) @"t"
    return %1
  }
}
; ---
module "t" {
  graph f(%0: f32[2, 3, 4]) {
    %1 = aten::permute_copy(%0, [2, 1, 0]) : f32[4, 3, 2] @"t" #1
    return %1
  }
}
