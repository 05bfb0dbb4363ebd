; test: run
; calls: 1 2 3 4 5 6 | 1 2 | 1 2 3 4 5 6 7 8
module "symbolic" {
  graph forward(%0 "x": f32[s0, 2]) where s0 in 1..=3 {
    %1 = aten::sym_size.int(%0, 0)
    %2 = executorch_prim::add.Scalar(%1, 1)
    %3 = aten::arange.start_step(%1, %2)
    %4 = aten::view_copy(%0, [-1])
    %5 = aten::slice_copy.Tensor(%4, 0, %1)
    return %1, %3, %5
  }
}
; ---
; call 0: int = 3
; call 0: i64[1] = [3]
; call 0: f32[3] = [4.0000, 5.0000, 6.0000]
; call 1: int = 1
; call 1: i64[1] = [1]
; call 1: f32[1] = [2.0000]
; call 2: error: method `forward`, input 0 `x`: f32[4, 2] given, f32[1..=3, 2] expected
