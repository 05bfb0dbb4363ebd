; test: pass decompose
; target: executorch-portable without aten::reciprocal
module "t" {
  graph f(%0: f32[2, 3]) {
    %1 = aten::reciprocal(%0) @"a"
    return %1
  }
}
; ---
module "t" {
  const c0 "_scalar_f32_1.0" : f32[] = [1.0]
  graph f(%0: f32[2, 3]) {
    %1 = aten::div.Tensor(c0, %0) : f32[2, 3] @"a" #1
    return %1
  }
}
