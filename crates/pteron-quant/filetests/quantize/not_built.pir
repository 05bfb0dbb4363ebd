; test: quantize tosa_8a8w
module "t" {
  graph forward(%0: f32[2]) {
    %1 = aten::exp(%0)
    return %1
  }
}
; ---
; error: the scheme tosa_8a8w annotates every operator that the quantizer knows, which is not built yet
