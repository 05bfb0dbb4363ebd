; test: verify
module "t" {
  const c0 "init" : f32[3]
  buffer b0 "a" : f32[?]
  ; error: buffers: f32[?] has a size that is not a known, non-negative number
  buffer b1 "b" : f32[2] = c0
  ; error: buffers: declared as f32[2], its initial value c0 is f32[3]
  buffer b2 "c" : f32[2] = c7
  ; error: ids: there is no constant c7
}
