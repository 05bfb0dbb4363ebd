; test: infer
module "t" {
  graph f(%0: f32[2, 3, 4], %1: f32[1, s0, 64], %2: int(s0)) where s0 in 1..=31 {
    %10 = aten::view_copy(%0, [6, -1])
    ; infer: f32[6, 4]
    %11 = aten::view_copy(%1, [1, %2, 4, 16])
    ; infer: f32[1, s0, 4, 16]
    %12 = aten::view_copy(%1, [1, -1, 4, 16])
    ; infer: f32[1, s0, 4, 16]
    %13 = aten::view_copy(%0, [5, -1])
    ; error: aten::view_copy: 24 elements cannot be divided into rows of 5
    %14 = aten::view_copy(%0, [-1, -1])
    ; error: aten::view_copy: more than one size is -1
    %15 = aten::permute_copy(%1, [2, 0, 1])
    ; infer: f32[64, 1, s0]
    %16 = aten::permute_copy(%1, [0, 0, 1])
    ; error: aten::permute_copy: dims [0, 0, 1] is not a permutation of the 3 dimensions
    %17 = aten::transpose_copy.int(%0, -1, 0)
    ; infer: f32[4, 3, 2]
    %18 = aten::unsqueeze_copy(%0, -1)
    ; infer: f32[2, 3, 4, 1]
    %19 = aten::squeeze_copy.dims(%1, [0])
    ; infer: f32[s0, 64]
    %20 = aten::slice_copy.Tensor(%1, 1, -1)
    ; infer: f32[1, 1, 64]
    %21 = aten::slice_copy.Tensor(%1, 1, 0, %2)
    ; infer: f32[1, s0, 64]
    %22 = aten::slice_copy.Tensor(%0, 2, 0, 9223372036854775807, 2)
    ; infer: f32[2, 3, 2]
    %23 = aten::select_copy.int(%0, 1, 3)
    ; error: aten::select_copy.int: index 3 of dimension 1 with 3 elements
    %24 = aten::select_copy.int(%1, 1, -1)
    ; infer: f32[1, 64]
    %25 = aten::expand_copy(%1, [8, -1, -1])
    ; infer: f32[8, s0, 64]
    %26 = aten::cat([%1, %1], 1)
    ; infer: f32[1, 2*s0, 64]
    %27 = aten::cat([%0, %1])
    ; error: aten::cat: f32[1, s0, 64] does not fit f32[2, 3, 4] along dimension 0
    %28, %29 = aten::split_with_sizes_copy(%0, [1, 2], 1)
    ; infer: f32[2, 1, 4], f32[2, 2, 4]
    %30 = aten::split_with_sizes_copy(%0, [1, 2], 1)
    ; error: aten::split_with_sizes_copy has 2 outputs, 1 are written
    %31 = aten::repeat(%0, [2, 1, 1, 3])
    ; infer: f32[2, 2, 3, 12]
    return %0
  }
}
