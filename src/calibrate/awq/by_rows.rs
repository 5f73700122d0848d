//! Spreads the rows of a weight over the threads: a few at a time, each thread in work memory of its own.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::super::algorithm::Run;
use crate::error::{Error, Result};
use crate::kernels::Cpu;

/// Which rows a task has: the first, and how many.
pub(super) type Rows = (usize, usize);

/// What `solve` makes of every `per_task` of `rows` rows, in their order. It gets a CPU of one thread, for it runs
/// on one already. Errors with the first failure, or when the host wants to stop.
pub(super) fn by_rows<W, T: Send>(
    run: &Run,
    rows: usize,
    per_task: usize,
    work: impl Fn() -> W + Sync,
    solve: impl Fn(&Cpu, &mut W, Rows) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let tasks = rows.div_ceil(per_task);
    let solved: Mutex<Vec<Option<T>>> = Mutex::new((0..tasks).map(|_| None).collect());
    let failure = Mutex::new(None);
    let next = AtomicUsize::new(0);
    let alone = Cpu::new(1, run.cpu.isa()).map_err(Error::Internal)?;
    run.cpu.for_each(run.cpu.num_threads().min(tasks), |_| {
        let mut work = work();
        loop {
            let task = next.fetch_add(1, Relaxed);
            if task >= tasks || run.shared.is_cancelled() {
                return;
            }
            let first = task * per_task;
            match solve(&alone, &mut work, (first, per_task.min(rows - first))) {
                Ok(result) => lock(&solved)[task] = Some(result),
                Err(error) => {
                    lock(&failure).get_or_insert(error);
                    return;
                }
            }
        }
    });
    run.shared.check_cancelled()?;
    if let Some(error) = lock(&failure).take() {
        return Err(error);
    }
    let solved = solved.into_inner().unwrap_or_else(PoisonError::into_inner);
    let missing = || Error::Internal("rows of a weight were left out".to_owned());
    solved
        .into_iter()
        .map(|one| one.ok_or_else(missing))
        .collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
