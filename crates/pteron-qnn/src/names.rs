//! Names of tensors at the boundary of a graph, out of which ExecuTorch's runtime reads what they are for.
//!
//! | name | meaning |
//! |---|---|
//! | `input_ID_NODE` | argument number ID, counted from 0 over the arguments that come in |
//! | `output_NODE` | the next argument that goes out, in the order of the graph |
//! | `input_ID_mutbuf_K_NODE`, `output_mutbuf_K_NODE` | buffer K, which the delegate keeps from call to call: no arguments |
//!
//! A number after `@` says which output of its node the tensor is.

/// What the name of a tensor at the boundary says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BoundaryName {
    /// The position among the inputs; `None` for outputs.
    pub input: Option<u32>,
    /// The mutable buffer that it is a version of.
    pub mutable_buffer: Option<u32>,
}

const INPUT: &str = "input_";
const OUTPUT: &str = "output_";
const MUTABLE: &str = "mutbuf_";

/// `input_0_x@0`.
pub fn input(id: u32, node: &str) -> String {
    format!("{INPUT}{id}_{node}@0")
}

/// `output_y@0`.
pub fn output(node: &str) -> String {
    format!("{OUTPUT}{node}@0")
}

/// `input_2_mutbuf_0_k_cache@0`.
pub fn mutable_input(id: u32, buffer: u32, node: &str) -> String {
    format!("{INPUT}{id}_{MUTABLE}{buffer}_{node}@0")
}

/// `output_mutbuf_0_k_cache@0`.
pub fn mutable_output(buffer: u32, node: &str) -> String {
    format!("{OUTPUT}{MUTABLE}{buffer}_{node}@0")
}

/// The number at the start of `text`, and what follows it.
fn number(text: &str) -> Option<(u32, &str)> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at_checked(digits)?;
    Some((digits.parse().ok()?, rest))
}

/// The buffer's number in a name that contains `mutbuf_K_`.
fn mutable_buffer(text: &str) -> Option<u32> {
    let (_, rest) = text.split_once(MUTABLE)?;
    number(rest).map(|(n, _)| n)
}

/// Reads an input's name; `None` if it is not one. The number is followed by `_`.
pub fn parse_input(name: &str) -> Option<BoundaryName> {
    let (id, rest) = number(name.strip_prefix(INPUT)?)?;
    rest.starts_with('_').then(|| BoundaryName { input: Some(id), mutable_buffer: mutable_buffer(rest) })
}

/// Reads an output's name; `None` if it is not one.
pub fn parse_output(name: &str) -> Option<BoundaryName> {
    let rest = name.strip_prefix(OUTPUT)?;
    Some(BoundaryName { input: None, mutable_buffer: mutable_buffer(rest) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let name = |input, mutable_buffer| Some(BoundaryName { input, mutable_buffer });
        assert_eq!(parse_input(&input(12, "x_3")), name(Some(12), None));
        assert_eq!(parse_input(&mutable_input(3, 1, "cache")), name(Some(3), Some(1)));
        assert_eq!(parse_output(&output("aten_add")), name(None, None));
        assert_eq!(parse_output(&mutable_output(7, "cache")), name(None, Some(7)));
    }

    #[test]
    fn other_names_are_not_taken() {
        for other in ["", "input_", "input_x_1", "input_1", "input_99999999999_x", "aten_add_tensor"] {
            assert_eq!(parse_input(other), None, "{other}");
        }
        assert_eq!(parse_output("input_0_x"), None);
    }
}
