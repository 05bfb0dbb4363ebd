//! Codes of weights by [`Algorithm::Gptq`](super::Algorithm::Gptq): a byte for each weight, which is held until it is written.

use std::sync::{Arc, Mutex, PoisonError};

use pteron_kernels::Context;
use pteron_tensor::{AlignedBytes, DType, MemorySource, SharedSource};

use super::{Algorithm, Job, TransformError};
use crate::moments::Moments;
use crate::weight::Matrix;
use crate::weight::gptq::{Feedback, codes};

/// Elements of a weight that are rounded at a time on one thread.
const PIECE: usize = 1 << 16;

/// The codes of those of `jobs` that are rounded by GPTQ, whose scales are `scales`. `progress` is called with the layers done.
pub(super) fn find(
    jobs: &[&Job],
    scales: &[Vec<f32>],
    moments: Option<&Moments>,
    ctx: &Context,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Vec<Option<SharedSource>>, TransformError> {
    let mut found: Vec<Option<SharedSource>> = vec![None; jobs.len()];
    let asked: Vec<usize> = (0..jobs.len()).filter(|&i| jobs[i].is_gptq()).collect();
    let gram = |i: usize| {
        let gram = moments.and_then(|m| m.gram(&jobs[i].name));
        gram.ok_or_else(|| TransformError::Grams { name: jobs[i].name.clone() })
    };
    // Layers that read the same input share what becomes of it.
    let mut inputs: Vec<(Arc<[f32]>, Vec<usize>)> = Vec::new();
    for &i in &asked {
        let gram = gram(i)?;
        match inputs.iter_mut().find(|(known, _)| Arc::ptr_eq(known, gram)) {
            Some((_, of)) => of.push(i),
            None => inputs.push((Arc::clone(gram), vec![i])),
        }
    }
    let mut done = 0;
    for some in inputs.chunks(ctx.pool().threads().max(1)) {
        let slots: Vec<Mutex<Option<Result<Feedback, String>>>> = some.iter().map(|_| Mutex::new(None)).collect();
        ctx.pool().run(some.len(), &|k| {
            let (gram, of) = &some[k];
            let feedback = Feedback::new(gram, jobs[of[0]].columns);
            *slots[k].lock().unwrap_or_else(PoisonError::into_inner) = Some(feedback);
        });
        for ((_, of), slot) in some.iter().zip(slots) {
            let Some(feedback) = slot.into_inner().unwrap_or_else(PoisonError::into_inner) else { continue };
            for &i in of {
                let named = |e: &String| TransformError::Source(format!("`{}`: {e}", jobs[i].name));
                found[i] = Some(rounded(jobs[i], &scales[i], feedback.as_ref().map_err(named)?, ctx)?);
                done += 1;
                progress(done, asked.len());
            }
        }
    }
    Ok(found)
}

/// The codes of one weight.
fn rounded(job: &Job, scales: &[f32], feedback: &Feedback, ctx: &Context) -> Result<SharedSource, TransformError> {
    let (columns, groups) = (job.columns, job.columns / job.group);
    let rows = (PIECE / columns).max(1);
    let mut out = AlignedBytes::zeroed(job.rows * columns);
    type Part<'a> = Mutex<(&'a mut [u8], Result<(), TransformError>)>;
    let parts: Vec<Part<'_>> = out.chunks_mut(rows * columns).map(|part| Mutex::new((part, Ok(())))).collect();
    ctx.pool().run(parts.len(), &|i| {
        let mut part = parts[i].lock().unwrap_or_else(PoisonError::into_inner);
        let (part, result) = &mut *part;
        let (first, count) = (i * rows, part.len() / columns);
        let mut data = vec![0f32; part.len()];
        let scales = &scales[first * groups..(first + count) * groups];
        *result = (|| {
            let read = job.source.read_rows(first..first + count, bytemuck::cast_slice_mut(&mut data));
            read.map_err(|e| TransformError::Source(e.to_string()))?;
            Matrix::rows_from(&job.label(), &data, first, columns)?;
            codes(&data, job.group, job.choice.range(), scales, feedback, bytemuck::cast_slice_mut(part));
            Ok(())
        })();
    });
    for part in parts {
        part.into_inner().unwrap_or_else(PoisonError::into_inner).1?;
    }
    let source = MemorySource::new(&job.name, DType::I8, &[job.rows, columns], out);
    Ok(Arc::new(source.map_err(|e| TransformError::Source(e.to_string()))?))
}

impl Job {
    /// Whether its codes make up for each other's errors.
    fn is_gptq(&self) -> bool {
        self.choice.algorithm() == Algorithm::Gptq && self.choice.layer() == super::LayerKind::Linear
    }
}
