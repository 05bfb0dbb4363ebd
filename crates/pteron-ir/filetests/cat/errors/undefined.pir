; test: cat
module "t" {
  graph f(%0: f32[2]) {
    return %1
    ; error: column 12: value %1 of graph `f` is defined nowhere
  }
}
