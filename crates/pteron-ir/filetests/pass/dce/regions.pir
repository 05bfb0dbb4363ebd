; test: pass dce
module "t" {
  graph f(%0: bool, %1: f32[4]) {
    %2 = cond(%0) then {
      %3 = aten::relu(%1)
      yield %1
    } else {
      yield %1
    }
    %4 = cond(%0) then {
      %5 = aten::neg(%1)
      custom "my::log"(%5)
      yield %1
    } else {
      %6 = aten::abs(%1)
      yield %1
    }
    %7 = aten::relu(%1)
    %8 = loop(%7) body(%9: _) {
      %10 = aten::abs(%9)
      %11 = aten::relu(%10)
      yield %0, %10
    }
    return %8
  }
}
; ---
module "t" {
  graph f(%0: bool, %1: f32[4]) next #10 {
    %2 = cond(%0) : f32[4] #2 then {
      %3 = aten::neg(%1) : f32[4] #3
      custom "my::log"(%3) #4
      yield %1
    } else {
      yield %1
    }
    %4 = aten::relu(%1) : f32[4] #6
    %5 = loop(%4) : f32[4] #7 body(%6: f32[4]) {
      %7 = aten::abs(%6) : f32[4] #8
      yield %0, %7
    }
    return %5
  }
}
