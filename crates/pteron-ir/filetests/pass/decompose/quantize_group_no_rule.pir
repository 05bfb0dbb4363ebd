; test: pass decompose
; target: executorch-portable
module "t" {
  graph f(%0: f32[6, 16], %1: f32[6, 4], %2: i32[6, 4]) {
    %3 = quantized_decomposed::quantize_per_channel_group(%0, %1, %2, -8, 7, i8, 4)
    return %3
  }
}
; ---
; error: pass `decompose`: graph `f`, `%3 = quantized_decomposed::quantize_per_channel_group(%0, %1, %2, -8, 7, i8, 4) : i8[6, 16] #0`: the target has no quantized_decomposed::quantize_per_channel_group and there is no rule to replace it
