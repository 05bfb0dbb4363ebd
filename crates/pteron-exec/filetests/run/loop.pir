; test: run
; calls: 1 2 | 0 3
module "loop" {
  graph forward(%0 "x": f32[2]) {
    %2 = loop(%0) : f32[2] body(%3: f32[2]) {
      %4 = aten::mul.Scalar(%3, 2.0)
      %5 = aten::amax(%4)
      %6 = aten::lt.Scalar(%5, 20)
      yield %6, %4
    }
    return %2
  }
}
; ---
; call 0: f32[2] = [16.0000, 32.0000]
; call 1: f32[2] = [0.0000, 24.0000]
