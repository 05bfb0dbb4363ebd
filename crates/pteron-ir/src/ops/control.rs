//! Structure: types are declared, not computed.

use crate::infer::{InferCtx, InferResult};

/// The outputs are what the node declares; the verifier checks them against regions and delegates.
pub(crate) fn declared(ctx: &InferCtx<'_>) -> InferResult {
    ctx.fail("has no inference: its output types are declared")
}
