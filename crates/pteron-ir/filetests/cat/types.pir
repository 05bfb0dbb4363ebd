; test: cat
; test: verify
module "types" {
  const c0 "u8" : u8[2] = [0, 255]
  const c1 "i8" : i8[2] = [-128, 127]
  const c2 "i16" : i16[1] = [-32768]
  const c3 "u16" : u16[1] = [65535]
  const c4 "i32" : i32[1] = [-2147483648]
  const c5 "i64" : i64[2] = [-9223372036854775808, 9223372036854775807]
  const c6 "f16" : f16[3] = [0.1, 65504.0, inf]
  const c7 "bf16" : bf16[2] = [0.1, nan]
  const c8 "f32" : f32[3] = [0.1, -0.0, 3.4028235e38]
  const c9 "f64" : f64[2] = [0.1, 5e-324]
  const c10 "bool" : bool[2] = [true, false]
  const c11 "i4" : i4[3] = [-8, 7, 1]
  const c12 "empty" : f32[0, 3] = []
  const c13 "many" : f32[17]
  const c14 "channels last" : f32[1, 2, 3, 3]{0,2,3,1}
  metadata tensors = [f32[2, 2] = [1.0, 2.0, 3.0, 4.0], i64[2, 3]{1,0} = [1, 2, 3, 4, 5, 6], bool[] = [true]]
  graph f(%0: f32[s0, 2*s0, s0+s1, 3*s1-4, -s0+40], %1: f32[?, ?0..=31, s1], %2: int, %3: int(s0), %4: int(?-1..=3), %5: f32[1, 2, 3, 3]{0,2,3,1}) where s0 in 1..=9, s1 in 2..=3 {
    return c0
  }
}
; ---
module "types" {
  const c0 "u8" : u8[2] = [0, 255]
  const c1 "i8" : i8[2] = [-128, 127]
  const c2 "i16" : i16[1] = [-32768]
  const c3 "u16" : u16[1] = [65535]
  const c4 "i32" : i32[1] = [-2147483648]
  const c5 "i64" : i64[2] = [-9223372036854775808, 9223372036854775807]
  const c6 "f16" : f16[3] = [0.099975586, 65504.0, inf]
  const c7 "bf16" : bf16[2] = [0.100097656, nan]
  const c8 "f32" : f32[3] = [0.1, -0.0, 3.4028235e38]
  const c9 "f64" : f64[2] = [0.1, 5e-324]
  const c10 "bool" : bool[2] = [true, false]
  const c11 "i4" : i4[3] = [-8, 7, 1]
  const c12 "empty" : f32[0, 3] = []
  const c13 "many" : f32[17]
  const c14 "channels last" : f32[1, 2, 3, 3]{0,2,3,1}
  metadata tensors = [f32[2, 2] = [1.0, 2.0, 3.0, 4.0], i64[2, 3]{1,0} = [1, 2, 3, 4, 5, 6], bool[] = [true]]
  graph f(%0: f32[s0, 2*s0, s0+s1, 3*s1-4, -s0+40], %1: f32[?, ?0..=31, s1], %2: int, %3: int(s0), %4: int(?-1..=3), %5: f32[1, 2, 3, 3]{0,2,3,1}) where s0 in 1..=9, s1 in 2..=3 {
    return c0
  }
}
