; test: verify
module "t" {
  const c0 "w" : f32[4, 2]
  graph f(%0: f32[2], %1: f32[s0], %2: i64[1], %3: f32[3]) where s0 in 1..=9, s1 in 0..=3 {
    %4 = aten::relu(%0) : f32[3] #0
    ; error: types: %4 is declared as f32[3], inferred is f32[2]
    %5 = aten::relu(%0) : f16[2] #1
    ; error: types: %5 is declared as f16[2], inferred is f32[2]
    %6, %7 = aten::relu(%0) : f32[2], f32[2] #2
    ; error: types: 2 outputs are declared, 1 inferred
    %8 = aten::relu(%1) : f32[7] #3
    %9 = aten::relu(%1) : f32[10] #4
    ; error: types: %9 is declared as f32[10], inferred is f32[s0]
    %10 = aten::add.Tensor(%0, %3) : f32[2] #5
    ; error: types: sizes 2 and 3 of dimension 0 do not broadcast
    %11 = aten::_local_scalar_dense(%2) : int(s1) #6
    %12 = aten::_local_scalar_dense(%2) : float #7
    ; error: types: %12 is declared as float, inferred is int
    %13 = aten::linear(%0, c0) : f32[4]{0} #8
    %14 = aten::linear(%0, c0) : f32[2] #9
    ; error: types: %14 is declared as f32[2], inferred is f32[4]
    return %4
  }
}
