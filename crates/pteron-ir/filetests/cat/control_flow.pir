; test: cat
; test: verify
module "control flow" {
  graph f(%0: bool[], %1: f32[2], %2: i64[1]) {
    %3 = cond(%0) : f32[2] #0 then {
      %4 = aten::relu(%1) : f32[2] #1
      yield %4
    } else {
      %5 = cond(%0) : f32[2] #2 then {
        yield %1
      } else {
        %6 = aten::neg(%1) : f32[2] #3
        yield %6
      }
      yield %5
    }
    %7, %8 = loop(%3, %2) : f32[2], i64[1] @"scan" #4 body(%9: f32[2], %10 "i": i64[1]) {
      %11 = aten::add.Tensor(%9, %1) : f32[2] #5
      %12 = aten::add.Scalar(%10, 1) : i64[1] #6
      %13 = aten::lt.Scalar(%12, 10) : bool[1] #7
      yield %13, %11, %12
    }
    loop() #8 body {
      yield %0
    }
    return %7
  }
}
