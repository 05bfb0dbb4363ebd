; test: verify
module "t" {
  graph f(%0: bool, %1: f32[2], %2: i64[1]) {
    %3 = cond(%1) : f32[2] #0 then {
    ; error: regions: the predicate is f32[2], expected bool
    ; error: regions: 2 results of `else`, but 1 outputs of the node
      yield %1
    } else {
      yield %1, %1
    }
    %4 = cond(%0) : f32[2] #1 then {
    ; error: regions: cond has 1 regions, expected then and else
      yield %1
    }
    %5 = cond(%0) : f32[2] #2 then(%6: f32[2]) {
    ; error: regions: `then` has 1 parameters, expected none
    ; error: regions: results of `then` have %2 of type i64[1], outputs of the node have %5 of type f32[2]
      yield %2
    } else {
      yield %1
    }
    %7 = loop(%1) : f32[2] #3 body(%8: i64[1]) {
    ; error: regions: parameters of the body have %8 of type i64[1], arguments of the loop have %1 of type f32[2]
    ; error: regions: outputs of the loop have %7 of type f32[2], parameters of the body have %8 of type i64[1]
    ; error: regions: next parameters that the body gives have %1 of type f32[2], parameters of the body have %8 of type i64[1]
      yield %0, %1
    }
    %9 = loop(%1) : f32[2] #4 body(%10: f32[2]) {
    ; error: regions: the body's first result is f32[2], expected bool: whether to go on
    ; error: regions: 2 next parameters that the body gives, but 1 parameters of the body
      yield %10, %10, %10
    }
    %11 = loop(3) : f32[2] #5 body(%12: f32[2]) {
    ; error: regions: an argument of loop is not a value
      yield %0, %12
    }
    %13 = loop(%1) : f32[2] #6
    ; error: regions: loop has 0 regions, expected its body
    %14 = loop(%1) : f32[2] #7 body(%15: f32[2]) {
    ; error: regions: the body gives nothing, expected whether to go on and the next parameters
      yield
    }
    %16 = aten::relu(%1) : f32[2] #8 region {
    ; error: regions: aten::relu has 1 regions, expected none
      yield
    }
    return %3
  }
}
