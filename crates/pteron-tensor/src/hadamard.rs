//! The Hadamard matrix of 28 rows that ExecuTorch's operator is made of.

/// Signs of the Hadamard matrix of 28 rows in ExecuTorch's `llama::fast_hadamard_transform`: bit `i` of row `j` is set where
/// output `j` adds input `i`, else it is subtracted. Read off the operator, applied to unit vectors.
pub const HADAMARD_28: [u32; 28] = [
    0x3296181, 0x6528382, 0xc854704, 0x92a8e08, 0x2751c10, 0x4ca7820, 0x994b0c0, 0x4b980bc, 0x9534178, 0x2a6c271,
    0x54d8463, 0xa9b0847, 0x536500f, 0xa4ce01e, 0x7804cda, 0xf009935, 0xe21326a, 0xc6224d5, 0x8e409ab, 0x1e81356,
    0x3d0262d, 0x30ed66, 0x41dacd, 0x83b51b, 0x1072ab6, 0x20e15ec, 0x41c2b59, 0x81856b3,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_the_matrix_are_orthogonal() {
        for (i, a) in HADAMARD_28.iter().enumerate() {
            for (j, b) in HADAMARD_28.iter().enumerate() {
                let differing = (a ^ b).count_ones();
                assert_eq!(differing, if i == j { 0 } else { 14 }, "{i} {j}");
            }
        }
    }
}
