; test: verify
module "t" {
  graph f(%0: f32[4], %1: i64[1], %2: bool) where s0 in 0..=4 {
    %3 = cond(%2) : f32[?0..=4] #0 then {
      %4 = aten::_local_scalar_dense(%1) : int(s0) #1
      %5 = aten::slice_copy.Tensor(%0, 0, 0, %4) : f32[s0] #2
      yield %5
    } else {
      yield %0
    }
    %6 = aten::view_copy(%3, [-1]) : f32[s0] #3
    ; error: symbols: symbol s0 in f32[s0] is not bound before
    return %6
  }
}
