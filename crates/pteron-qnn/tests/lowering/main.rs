//! Graphs that are quantized and lowered here, on Qualcomm's library: the emulator of the tensor processor.

mod common;
mod modules;
mod samples;
