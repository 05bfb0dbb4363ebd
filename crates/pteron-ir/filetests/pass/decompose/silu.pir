; test: pass decompose
module "t" {
  graph f(%0: f32[1, s0, 64], %1: bool) where s0 in 1..=31 {
    %2 = cond(%1) then {
      %3 = aten::silu(%0) @"feed_forward.act_fn" #3
      yield %3
    } else {
      yield %0
    }
    return %2
  }
}
; ---
module "t" {
  graph f(%0: f32[1, s0, 64], %1: bool) where s0 in 1..=31 {
    %2 = cond(%1) : f32[1, s0, 64] #4 then {
      %3 = aten::sigmoid(%0) : f32[1, s0, 64] @"feed_forward.act_fn" #5
      %4 = aten::mul.Tensor(%0, %3) : f32[1, s0, 64] @"feed_forward.act_fn" #6
      yield %4
    } else {
      yield %0
    }
    return %2
  }
}
