; test: verify
module "t" {
  graph f(%0: f32[2]) next #5 {
    %1 = aten::relu(%0) : f32[2] #3
    %2 = aten::relu(%1) : f32[2] #3
    ; error: handles: another node has the debug handle #3 as well
    return %2
  }
}
