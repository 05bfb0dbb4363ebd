; test: run
; calls: 1 2 | -1 -2
module "cond" {
  graph forward(%0 "x": f32[2]) {
    %1 = aten::sum.dim_IntList(%0, [])
    %2 = aten::gt.Scalar(%1, 0)
    %3 = cond(%2) : f32[2] then {
      %4 = aten::mul.Scalar(%0, 10.0)
      yield %4
    } else {
      %5 = aten::neg(%0)
      yield %5
    }
    return %3
  }
}
; ---
; call 0: f32[2] = [10.0000, 20.0000]
; call 1: f32[2] = [1.0000, 2.0000]
