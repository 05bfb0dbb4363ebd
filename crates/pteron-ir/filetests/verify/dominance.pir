; test: verify
module "t" {
  graph f(%0: bool, %1: f32[2]) {
    %2 = aten::relu(%3) : f32[2] #0
    ; error: dominance: %3 is used where it is not defined: later, elsewhere or never
    %3 = aten::relu(%1) : f32[2] #1
    %4 = cond(%0) : f32[2] #2 then {
      %5 = aten::relu(%1) : f32[2] #3
      yield %5
    } else {
      yield %5
      ; error: dominance: %5 is used where it is not defined: later, elsewhere or never
    }
    %6 = aten::relu(%5) : f32[2] #4
    ; error: dominance: %5 is used where it is not defined: later, elsewhere or never
    return %2, %5
    ; error: dominance: %5 is used where it is not defined: later, elsewhere or never
  }
}
