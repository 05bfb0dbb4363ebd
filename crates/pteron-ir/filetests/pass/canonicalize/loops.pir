; test: pass canonicalize
module "t" {
  graph f(%0: bool, %1: f32[2]) {
    %2 = aten::relu(%1)
    %3 = loop(%1) body(%4: _) {
      %5 = aten::clone(%2)
      %6 = aten::copy_(%5, %4)
      %7 = aten::clone(%6)
      %8 = aten::neg(%4)
      %9 = aten::clone(%8)
      yield %0, %9
    }
    return %3
  }
}
; ---
module "t" {
  graph f(%0: bool, %1: f32[2]) next #7 {
    %2 = aten::relu(%1) : f32[2] #0
    %3 = loop(%1) : f32[2] #1 body(%4: f32[2]) {
      %5 = aten::clone(%2) : f32[2] #2
      %6 = aten::copy_(%5, %4) : f32[2] #3
      %7 = aten::neg(%4) : f32[2] #5
      yield %0, %7
    }
    return %3
  }
}
