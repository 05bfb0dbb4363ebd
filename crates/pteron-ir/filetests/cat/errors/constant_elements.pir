; test: cat
module "t" {
  const c0 "w" : f32[2, 3] = [1.0, 2.0]
  ; error: column 30: found 2 elements, the sizes say 6
}
