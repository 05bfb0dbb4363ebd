; test: run
; calls: 1
module "missing" {
  const c0 "w" : f32[2, 1024]
  graph forward(%0 "x": i64[1]) {
    %1 = aten::embedding(c0, %0)
    return %1
  }
}
; ---
; error: constant `w` has no data: the module was built without weights
