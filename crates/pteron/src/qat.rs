//! Quantization-aware training of a checkpoint: what is trained and how, and what a run tells.
//!
//! [`crate::Exporter::train`] runs it.

mod state;

use std::path::PathBuf;

use pteron_train::{AdamW, Lora, Loss, QatOptions, ScaleMode};

pub use state::{MAX_STATE_BYTES, STATE_FILE, Trained};

/// Tokens of a window if nothing else is said.
pub const DEFAULT_WINDOW: usize = 257;

/// How a checkpoint is trained.
#[derive(Clone, Debug)]
pub struct TrainOptions {
    /// Texts, and JSON Lines with a string `text`.
    pub files: Vec<PathBuf>,
    /// Tokens of a window, of which the last is only predicted; [`DEFAULT_WINDOW`] or the model's positions, whichever are less, if
    /// `None`.
    pub window: Option<usize>,
    /// Steps.
    pub steps: u64,
    /// Windows of a step.
    pub batch: usize,
    /// What is made small.
    pub loss: Loss,
    /// The largest learning rate.
    pub rate: f64,
    /// Steps in which it rises.
    pub warmup: u64,
    /// What share of it is left at the end.
    pub floor: f64,
    /// The optimizer.
    pub adam: AdamW,
    /// The largest norm of all gradients together.
    pub clip_norm: Option<f64>,
    /// Adapters in the place of whole weights.
    pub lora: Option<Lora>,
    /// How fake quantization is placed.
    pub qat: QatOptions,
    /// Whether scales of weights follow the weights.
    pub scales: ScaleMode,
    /// The largest learning rate of learned scales, as a share of them.
    pub scale_rate: f64,
    /// False trains the float model the same way, to compare with.
    pub fake_quantize: bool,
    /// First step, from 1, that is fake-quantized.
    pub quantize_from: u64,
    /// First step, from 1, at which ranges do not move any more.
    pub observe_until: Option<u64>,
    /// Windows that ranges begin with.
    pub calibration_windows: usize,
    /// Weights are bf16 in every forward pass, and are saved so.
    pub bf16: bool,
    /// Decides the order of windows and the adapters' first elements.
    pub seed: u64,
    /// Steps between two measurements on windows that are not trained on; 0 for none but at the ends.
    pub evaluate_every: u64,
    /// Steps between two saved states; 0 for the end only.
    pub save_every: u64,
    /// Goes on with the run in the output's folder.
    pub resume: bool,
    /// Threads.
    pub threads: usize,
}

impl Default for TrainOptions {
    fn default() -> TrainOptions {
        TrainOptions {
            files: Vec::new(),
            window: None,
            steps: 500,
            batch: 4,
            loss: Loss::Distillation,
            rate: 1e-4,
            warmup: 20,
            floor: 0.1,
            adam: AdamW::default(),
            clip_norm: Some(1.0),
            lora: None,
            qat: QatOptions::default(),
            scales: ScaleMode::default(),
            scale_rate: 1e-3,
            fake_quantize: true,
            quantize_from: 1,
            observe_until: None,
            calibration_windows: 32,
            bf16: false,
            seed: 0,
            evaluate_every: 100,
            save_every: 100,
            resume: false,
            threads: 1,
        }
    }
}

/// What a run tells while it goes.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum TrainEvent {
    /// Ranges are learnt that training begins with.
    Calibrating {
        /// Windows done.
        done: usize,
        /// Windows in all.
        total: usize,
    },
    /// Training begins.
    Began {
        /// Step that was reached before; 0 for a new run.
        step: u64,
        /// Steps in all.
        steps: u64,
        /// Elements that are trained.
        trained: u64,
        /// Fake quantizations in the graph.
        quantizers: usize,
        /// Windows to train on.
        windows: usize,
        /// Windows to measure on.
        held_back: usize,
        /// Bytes of the executor's memory for a step.
        arena_bytes: u64,
    },
    /// A step was done.
    Step {
        /// Its number, from 1.
        step: u64,
        /// The loss.
        loss: f64,
        /// The norm of the gradients.
        norm: f64,
        /// The learning rate.
        rate: f64,
        /// Tokens per second since training began.
        tokens_per_second: f64,
        /// Seconds left.
        seconds_left: f64,
    },
    /// The model was measured on windows that are not trained on.
    Evaluation {
        /// After this step.
        step: u64,
        /// The loss on them.
        loss: f64,
    },
    /// The state of the run was saved.
    Saved {
        /// After this step.
        step: u64,
    },
}

/// What a run made.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct TrainReport {
    /// The folder.
    pub folder: PathBuf,
    /// Steps done in all.
    pub steps: u64,
    /// Loss of the last step; `None` if none was done.
    pub loss: Option<f64>,
    /// Loss on windows that are not trained on, before the first step of this run.
    pub before: Option<f64>,
    /// The same after the last.
    pub after: Option<f64>,
    /// Tokens that this run trained on.
    pub tokens: u64,
    /// Seconds of this run's steps.
    pub seconds: f64,
    /// Largest anonymous memory of the process.
    pub peak_anonymous_bytes: Option<u64>,
    /// What is odd without being an error, a sentence each.
    pub warnings: Vec<String>,
}
