; test: pass decompose
module "t" {
  graph f(%0: f32[1, 4, 8, 16]) {
    %1 = aten::scaled_dot_product_attention(%0, %0, %0, dropout_p=0.1)
    return %1
  }
}
; ---
; error: pass `decompose`: graph `f`, `%1 = aten::scaled_dot_product_attention(%0, %0, %0, dropout_p=0.1) : f32[1, 4, 8, 16] #0`: `dropout_p` is not 0: a program does not drop
