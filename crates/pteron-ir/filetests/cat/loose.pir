; test: cat
; what the text form allows beyond its canonical text
module "loose" { metadata x = []
  const c0 "w" : f32[2, 3] = [1, 2.50, 3e0, -0.0, 1e-45, 16777217]
  graph "f"(%7: f32[2, s0], %3 "named": f32[3]) where s0 in 3 ..= 3 {   ; a comment
    %20 = aten::add.Tensor(%7, other=c0)
    %1 = aten::sum.dim_IntList(%20, [-1], dtype=f64) : _
    %2, %4 = aten::topk(%20, 1, sorted=false)
    return %4, %1, %2, %3
  }
}
; ---
module "loose" {
  const c0 "w" : f32[2, 3] = [1.0, 2.5, 3.0, -0.0, 1e-45, 16777216.0]
  metadata x = []
  graph f(%0: f32[2, s0], %1 "named": f32[3]) where s0 in 3..=3 {
    %2 = aten::add.Tensor(%0, c0) : f32[2, 3] #0
    %3 = aten::sum.dim_IntList(%2, [-1], dtype=f64) : f64[2] #1
    %4, %5 = aten::topk(%2, 1, sorted=false) : f32[2, 1], i64[2, 1] #2
    return %5, %3, %4, %1
  }
}
