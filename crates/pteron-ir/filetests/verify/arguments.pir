; test: verify
module "t" {
  graph f(%0: f32[2], %1: float, %2: int) {
    %3 = aten::add.Tensor(%0, %1) : f32[2] #0
    ; error: arguments: argument `other` is %1 of type float, expected a tensor
    %4 = aten::mul.Scalar(%0, %0) : f32[2] #1
    ; error: arguments: argument `other` is %0 of type f32[2], expected a scalar
    %5 = aten::view_copy(%0, [%1]) : f32[2] #2
    ; error: arguments: argument `size` is a list with %1 of type float, expected an int list
    %6 = aten::view_copy(%0, floats[2.0]) : f32[2] #3
    ; error: arguments: argument `size` is a float list, expected an int list
    %7 = aten::rms_norm(%0, [2], None, 1) : f32[2] #4
    ; error: arguments: argument `eps` is an int, expected a float
    %8 = aten::cat([%0, %2]) : f32[2] #5
    ; error: arguments: argument `tensors` is a list with %2 of type int, expected a list of tensors
    %9 = aten::gelu(%0, 3) : f32[2] #6
    ; error: arguments: argument `approximate` is an int, expected a string
    %10 = aten::_to_copy(%0, 6) : f32[2] #7
    ; error: arguments: argument `dtype` is an int, expected a dtype or None
    %11 = aten::topk(%0, 1.5) : f32[1] #8
    ; error: arguments: argument `k` is a float, expected an int
    return %3
  }
}
