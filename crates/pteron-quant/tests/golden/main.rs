//! Goldens of torch, torchao and ExecuTorch, written by `tools/oracle/make_observer_goldens.py`.

mod common;
mod observers;
mod schemes;
mod weights;
