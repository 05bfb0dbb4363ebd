//! Scales of many weights, found piece by piece on all threads: no weight is held whole.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use pteron_kernels::Context;

use super::{Job, TransformError};
use crate::moments::Moments;
use crate::weight::{self, Changes, HQQ_ROUNDS, Matrix, Method};

/// Elements of a weight that are read at a time: 1 MiB of `f32`.
const PIECE: usize = 1 << 18;
/// Pieces that a thread takes between two reports of progress.
const PIECES_A_THREAD: usize = 8;

/// Some rows of a job's weight.
struct Piece {
    job: usize,
    rows: Range<usize>,
    rounds: usize,
}

type Found = Result<(Vec<f32>, Changes), TransformError>;

/// The scales of each job, row by row. `progress` is called with the jobs done and all.
pub(super) fn find(
    jobs: &[&Job],
    moments: Option<&Moments>,
    ctx: &Context,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Vec<Vec<f32>>, TransformError> {
    for job in jobs {
        let method = job.method(moments);
        weight::check(&job.label(), job.columns, job.group, job.choice.range(), method)?;
    }
    let pieces = |job: usize, rounds: usize| {
        let rows = (PIECE / jobs[job].columns.max(1)).max(1);
        let all = jobs[job].rows;
        (0..all).step_by(rows).map(move |start| Piece { job, rows: start..all.min(start + rows), rounds })
    };
    let first: Vec<Piece> = (0..jobs.len()).flat_map(|job| pieces(job, HQQ_ROUNDS)).collect();
    let mut scales: Vec<Vec<f32>> =
        jobs.iter().map(|j| Vec::with_capacity(j.rows * j.columns.checked_div(j.group).unwrap_or(0))).collect();
    let mut changes = vec![[0f32; HQQ_ROUNDS]; jobs.len()];
    run(jobs, moments, ctx, &first, &mut |piece, found, changed| {
        scales[piece.job].extend(found);
        for (most, c) in changes[piece.job].iter_mut().zip(changed) {
            *most = most.max(c);
        }
        if piece.rows.end == jobs[piece.job].rows {
            progress(piece.job + 1, jobs.len());
        }
    })?;
    // Where a whole matrix ends before its last step, its rows have gone too far.
    let again: Vec<Piece> = jobs
        .iter()
        .enumerate()
        .filter(|(_, j)| j.method(moments) == Method::Hqq)
        .filter_map(|(i, _)| weight::rounds_of(&changes[i]).map(|rounds| (i, rounds)))
        .flat_map(|(i, rounds)| pieces(i, rounds))
        .collect();
    again.iter().for_each(|p| scales[p.job].clear());
    run(jobs, moments, ctx, &again, &mut |piece, found, _| scales[piece.job].extend(found))?;
    Ok(scales)
}

/// Calls `take` with each piece's scales, in the order of the pieces.
fn run(
    jobs: &[&Job],
    moments: Option<&Moments>,
    ctx: &Context,
    pieces: &[Piece],
    take: &mut dyn FnMut(&Piece, Vec<f32>, Changes),
) -> Result<(), TransformError> {
    let batch = ctx.pool().threads().saturating_mul(PIECES_A_THREAD).max(1);
    for pieces in pieces.chunks(batch) {
        let slots: Vec<Mutex<Option<Found>>> = pieces.iter().map(|_| Mutex::new(None)).collect();
        ctx.pool().run(pieces.len(), &|i| {
            let job = jobs[pieces[i].job];
            let found = piece(job, &pieces[i], job.method(moments));
            *slots[i].lock().unwrap_or_else(PoisonError::into_inner) = Some(found);
        });
        for (piece, slot) in pieces.iter().zip(slots) {
            if let Some(found) = slot.into_inner().unwrap_or_else(PoisonError::into_inner) {
                let (scales, changes) = found?;
                take(piece, scales, changes);
            }
        }
    }
    Ok(())
}

fn piece(job: &Job, piece: &Piece, method: Method<'_>) -> Found {
    let mut data = vec![0f32; piece.rows.len() * job.columns];
    let read = job.source.read_rows(piece.rows.clone(), bytemuck::cast_slice_mut(&mut data));
    read.map_err(|e| TransformError::Source(e.to_string()))?;
    let matrix = Matrix::rows_from(&job.label(), &data, piece.rows.start, job.columns)?;
    let mut scales = vec![0f32; data.len().checked_div(job.group).unwrap_or(0)];
    let changes = weight::rows(matrix, job.group, job.choice.range(), method, piece.rounds, &mut scales);
    Ok((scales, changes))
}
