//! The passes of this crate, by name.

mod canonicalize;
mod dce;
mod decompose;
mod recompose;
mod rewrite;

use crate::op::{Level, Op};
use crate::pass::Pass;

pub use canonicalize::CANONICALIZE;
pub use dce::DCE;
pub use decompose::DECOMPOSE;
pub use recompose::RECOMPOSE_RMS_NORM;

/// All passes of this crate.
pub fn all() -> &'static [Pass] {
    &[CANONICALIZE, DCE, DECOMPOSE, RECOMPOSE_RMS_NORM]
}

/// The pass called `name`.
pub fn by_name(name: &str) -> Option<Pass> {
    all().iter().find(|p| p.name == name).copied()
}

/// The operators of the target `executorch-portable`: those for which ExecuTorch's runtime has a kernel.
pub fn executorch_portable(op: Op) -> bool {
    op.def().level == Level::Kernel
}
