; test: verify
module "t" {
  buffer b0 "a" : f32[4]
  buffer b1 "b" : f32[4]
  graph f(%0: f32[4], %1: f32[5]) {
    mutate b1 = %0
    mutate b0 = %1
    ; error: mutations: b0 is f32[4], the value it is to hold is f32[5]
    ; error: mutations: b0 stands after b1
    mutate b0 = %0
    ; error: mutations: b0 is named twice
    return
  }
}
