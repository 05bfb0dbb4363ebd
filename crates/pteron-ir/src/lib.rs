//! Pteron's one intermediate representation.
//!
//! A [`Module`] holds named [`Graph`]s (the methods of a program), one pool of constants, mutable buffers that the graphs
//! share, and metadata. A graph is static single assignment over typed values; its nodes call operators of a closed table
//! ([`Op`], one declaration an operator in [`op`]); control flow is structured. Sizes may be symbolic ([`SymInt`]).
//!
//! This crate does no IO, spawns no threads, reads no clock.
//!
//! Mutation: an operator with an argument `Tensor(a!)` gives the *new version* of that tensor as an output. A buffer's first
//! version is its [`graph::Def::Buffer`] value. Each version is written at most once, and all its readers come before the
//! writer ([`verify`]), so that versions can share the buffer's memory.

pub mod arg;
mod builder;
pub mod entity;
pub mod filetest;
pub mod gradient;
pub mod graph;
pub mod infer;
pub mod location;
pub mod memory;
pub mod module;
pub mod op;
mod ops;
pub mod parse;
pub mod pass;
pub mod passes;
pub mod print;
pub mod schema;
pub mod symint;
pub mod types;
pub mod verify;

pub use arg::{Arg, IntArg};
pub use builder::GraphBuilder;
pub use entity::{
    BufferId, ConstId, DebugHandle, DelegateId, Id, IdMap, NodeId, PathId, RegionId, SideTable, SymbolId, ValueId,
};
pub use graph::{Def, Extra, Graph, Node, Region, ValueData};
pub use infer::{InferCtx, InferError};
pub use module::{Buffer, ConstData, Constant, Delegate, MetaValue, Metadata, Module};
pub use op::{Level, OPERATORS, Op};
pub use schema::{ArgKind, OutputSpec, Schema, SchemaArg};
pub use symint::{SymInt, Symbol, Symbols};
pub use types::{Dims, TensorType, Type};
