; test: cat
module "t" {
  graph f(%0: f32[2]) {
    %1 = aten::addd(%0)
    ; error: column 10: unknown operator `aten::addd`
    return %1
  }
}
