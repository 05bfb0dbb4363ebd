; test: cat
module "t" {
  graph f(%0: f32[2]) {
    %0 = aten::relu(%0) : f32[2] #0
    ; error: column 5: value %0 is defined a second time
    return %0
  }
}
