; test: verify
module "t" {
  graph f(%0: f32[2]) {
    %1 = delegate d0(%0) : f32[2] #0
    ; error: ids: there is no delegate d0
    mutate b3 = %1
    ; error: ids: there is no buffer b3
    return %1
  }
}
