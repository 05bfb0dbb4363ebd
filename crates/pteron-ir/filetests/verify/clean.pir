; test: verify
module "t" {
  const c0 "w" : f32[8, 4] external "w"
  buffer b0 "state" : f32[4]
  metadata get_n_layers = [1]
  graph f(%0: f32[s0, 4]) where s0 in 1..=9 {
    %1 = aten::linear(%0, c0) : f32[s0, 8] #0
    return %1
  }
}
