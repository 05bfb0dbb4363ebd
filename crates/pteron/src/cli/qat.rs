//! `pteron qat`.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};
use pteron::Exporter;
use pteron::qat::{TrainEvent, TrainOptions, TrainReport};
use pteron::train::{AdamW, Lora, Loss, QatOptions, QparamsRule, ScaleMode};

use super::export::failure;
use super::high;
use super::low::{LossArg, QatArgs, RuleArg, ScalesArg, TrainedDType};
use super::output::{Done, Failure, bytes, number, put, put_line, say};

pub(super) fn run(a: &QatArgs) -> Done {
    let options = options(a)?;
    let mut exporter = Exporter::open(&a.checkpoint)?.quantize(high::recipe(&a.quantization, &[])?);
    if let Some(path) = &a.tokenizer_path {
        exporter = exporter.tokenizer(path);
    }
    let bar = ProgressBar::with_draw_target(Some(options.steps), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let mut pipe = None;
    let done = exporter.train(&options, &a.output, &mut |event| {
        show(&bar, event);
        if a.json {
            let line = serde_json::to_string(event).map_err(Failure::from).and_then(|line| put_line(&line));
            if let Err(e) = line {
                pipe = Some(e);
            }
        }
        pipe.is_none() && super::interrupt::exit_code().is_none()
    });
    bar.finish_and_clear();
    if let Some(e) = pipe {
        return Err(e);
    }
    let report = done.map_err(failure)?;
    report.warnings.iter().for_each(|w| say(&format!("warning: {w}")));
    if a.json {
        let mut value = serde_json::to_value(&report)?;
        if let Some(object) = value.as_object_mut() {
            object.insert("event".to_owned(), "done".into());
        }
        return put_line(&value.to_string());
    }
    tell(a, &report)
}

fn options(a: &QatArgs) -> Result<TrainOptions, Failure> {
    let t = &a.training;
    let alpha = |rank: usize| t.lora_alpha.unwrap_or(2.0 * rank as f64);
    Ok(TrainOptions {
        files: a.data.clone(),
        window: t.seq_length,
        steps: t.steps,
        batch: t.batch,
        loss: match t.loss {
            LossArg::Kl => Loss::Distillation,
            LossArg::CrossEntropy => Loss::CrossEntropy,
        },
        rate: t.learning_rate,
        warmup: t.warmup,
        floor: t.final_rate,
        adam: AdamW { weight_decay: t.weight_decay, ..AdamW::default() },
        clip_norm: Some(t.clip_norm),
        lora: t.lora_rank.map(|rank| Lora { rank, alpha: alpha(rank) }),
        qat: QatOptions {
            rule: match t.qparams_rule {
                RuleArg::Observer => QparamsRule::Observer,
                RuleArg::Fbgemm => QparamsRule::Fbgemm,
            },
            learn_scales: t.scales == ScalesArg::Learned,
        },
        scales: if t.scales == ScalesArg::Frozen { ScaleMode::Frozen } else { ScaleMode::Live },
        scale_rate: t.scale_rate,
        fake_quantize: !t.no_fake_quantize,
        quantize_from: t.quantize_from,
        observe_until: t.observe_until,
        calibration_windows: t.calibration_windows,
        bf16: t.dtype == TrainedDType::Bf16,
        seed: t.seed,
        evaluate_every: t.evaluate_every,
        save_every: t.save_every,
        resume: a.resume,
        threads: high::train_threads(a.cpu_threads)?,
    })
}

fn show(bar: &ProgressBar, event: &TrainEvent) {
    match event {
        TrainEvent::Calibrating { done, total } => bar.set_message(format!("calibrating {done}/{total}")),
        TrainEvent::Began { step, trained, quantizers, windows, arena_bytes, .. } => {
            bar.set_position(*step);
            if std::io::stderr().is_terminal() {
                let (trained, memory) = (number(*trained), bytes(*arena_bytes));
                bar.println(format!(
                    "{trained} trained elements, {quantizers} fake quantizations, {windows} windows, {memory} for a step"
                ));
            }
        }
        TrainEvent::Step { step, loss, tokens_per_second, seconds_left, .. } => {
            bar.set_position(*step);
            let left = HumanDuration(Duration::from_secs_f64(seconds_left.clamp(0.0, 1e9)));
            bar.set_message(format!("loss {loss:.5}, {tokens_per_second:.0} tokens/s, {left} left"));
        }
        TrainEvent::Evaluation { step, loss } => {
            if std::io::stderr().is_terminal() {
                bar.println(format!("step {step}: loss {loss:.5} on held-back windows"));
            }
        }
        TrainEvent::Saved { .. } => {}
    }
}

fn tell(a: &QatArgs, r: &TrainReport) -> Done {
    let row = |name: &str, text: String| format!("{name:<14} {text}\n");
    let figure = |v: Option<f64>| v.map_or_else(|| "not measured".to_owned(), |v| format!("{v:.5}"));
    let mut out = row("folder", r.folder.display().to_string());
    out += &row("steps", r.steps.to_string());
    out += &row("held back", format!("loss {} became {}", figure(r.before), figure(r.after)));
    let speed = r.tokens as f64 / r.seconds.max(1e-9);
    out += &row("time", format!("{:.1} s, {speed:.0} tokens/s", r.seconds));
    if let Some(peak) = r.peak_anonymous_bytes {
        out += &row("memory", bytes(peak));
    }
    let what = if r.steps < a.training.steps { "pteron qat ... --resume goes on" } else { "pteron export" };
    out += &row("next", format!("{what} {}", a.output.display()));
    put(&out)
}
