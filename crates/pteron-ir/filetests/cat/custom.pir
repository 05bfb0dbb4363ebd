; test: cat
; test: verify
module "custom" {
  graph f(%0: f32[2], %1: int) {
    custom "my::log"(%0, "text") #0
    %2, %3 = custom "my::op.out"(%0, ints[1, %1, -3], floats[], bools[true], tensors[%0, None], None, 3, -2.5, f16) : f32[2], float #1
    return %2
  }
}
