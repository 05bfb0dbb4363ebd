; test: run
; calls: 1 1 | 1 1 | 2 3
module "counter" {
  const c0 "start" : f32[2] = [5.0, 6.0]
  buffer b0 "count" : f32[2] = c0
  graph forward(%0 "x": f32[2]) {
    %1 = aten::add.Tensor(b0, %0)
    %2 = aten::mul.Scalar(%1, 2)
    mutate b0 = %1
    return %2
  }
}
; ---
; call 0: f32[2] = [12.0000, 14.0000]
; call 1: f32[2] = [14.0000, 16.0000]
; call 2: f32[2] = [18.0000, 22.0000]
