; test: verify
module "t" {
  const c0 "a" : f32[s0]
  ; error: constants: f32[s0] has a size that is not a known, non-negative number
  const c1 "b" : f32[-2]
  ; error: constants: f32[-2] has a size that is not a known, non-negative number
  const c2 "c" : f32[2, 2]{0,0}
  ; error: constants: the dim order of f32[2, 2]{0,0} is not a permutation of its 2 dimensions
}
