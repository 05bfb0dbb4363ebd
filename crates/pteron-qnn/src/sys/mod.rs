//! The binding: C layouts, the library's functions, and what is done with them. All of it runs in the worker process.

mod compose;
mod describe;
mod heap;
mod keep;
mod library;
mod session;
mod types;

pub(crate) use compose::{Composition, ReceivedGraph};
pub(crate) use library::flush_printed;
pub(crate) use session::{Failure, Session};
