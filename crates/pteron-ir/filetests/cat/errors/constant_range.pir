; test: cat
module "t" {
  const c0 "w" : i8[1] = [128]
  ; error: column 27: found 128, which does not fit in i8
}
