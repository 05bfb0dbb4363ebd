; test: verify
module "t" {
  delegate d0 "Backend" hex ""
  graph f(%0: f32[2]) {
    %1 = delegate d0(%0, 3) : f32[2] #0
    ; error: arguments: an argument is an int, expected a value
    return %1
  }
}
