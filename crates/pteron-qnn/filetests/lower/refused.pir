; test: lower
module "refused" {
  graph forward(%0 "x": f32[2, 4], %1 "i": i64[4]) {
    %2 = aten::add.Tensor(%0, %0, alpha=2) : f32[2, 4]
    %3 = aten::cumsum(%0, 1) : f32[2, 4]
    %4 = aten::index_put(%0, [None, %1], %2, false) : f32[2, 4]
    %5 = aten::relu(%0) : f32[2, 4]
    return %5
  }
}
; ---
; graph forward
;   input_0_x@0: AppWrite float32 [2, 4] plain
;   output__3_0@0: AppRead float32 [2, 4] plain
;   Relu(input_0_x@0) -> output__3_0@0
; refused aten::add.Tensor: found alpha 2, expected 1
; refused aten::cumsum: QNN has no operator for aten::cumsum here
; refused aten::index_put: it writes along dimension 1: ScatterNd writes along the first one
