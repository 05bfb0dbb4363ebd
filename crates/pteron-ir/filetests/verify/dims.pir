; test: verify
module "t" {
  graph f(%0: f32[-1], %1: f32[s0], %2: f32[?4..=3], %3: f32[2, 3]{0,0}) where s0 in -5..=-2 {
  ; error: dims: size -1 in f32[-1] is negative
  ; error: dims: size s0 in f32[s0] is negative
  ; error: dims: ?4..=3 in f32[?4..=3] has no value between 4 and 3
  ; error: dims: the dim order of f32[2, 3]{0,0} is not a permutation of its 2 dimensions
    return %0
  }
}
