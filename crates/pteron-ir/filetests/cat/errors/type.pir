; test: cat
module "t" {
  graph f(%0: f31[2]) {
  ; error: column 15: found `f31`, expected a dtype: u8 i8 i16 i32 i64 f16 f32 f64 bool bf16 u16 i4
    return %0
  }
}
