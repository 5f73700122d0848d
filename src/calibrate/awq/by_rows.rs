//! Spreads the rows of a weight over the threads: a few at a time, each thread in work memory of its own.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::super::algorithm::Run;
use crate::error::{Error, Result};
use crate::kernels::Machine;

/// Which rows a task has: the first, and how many.
pub(super) type Rows = (usize, usize);

/// Cuts a stretch of rows into tasks of so many.
pub(super) fn tasks((first, count): Rows, per_task: usize) -> impl Iterator<Item = Rows> {
    let starts = (0..count).step_by(per_task.max(1));
    starts.map(move |at| (first + at, per_task.min(count - at)))
}

/// What `solve` makes of every task, in their order. It gets a CPU of one thread, for it runs on one already.
/// Errors with the first failure, or when the host wants to stop.
pub(super) fn by_rows<W, T: Send>(
    run: &Run,
    tasks: &[Rows],
    work: impl Fn() -> W + Sync,
    solve: impl Fn(&Machine, &mut W, Rows) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let solved: Mutex<Vec<Option<T>>> = Mutex::new(tasks.iter().map(|_| None).collect());
    let failure = Mutex::new(None);
    let next = AtomicUsize::new(0);
    let alone = Machine::new(1, run.machine.isa()).map_err(Error::Internal)?;
    run.machine
        .for_each(run.machine.num_threads().min(tasks.len()), |_| {
            let mut work = work();
            loop {
                let task = next.fetch_add(1, Relaxed);
                let Some(rows) = tasks.get(task).filter(|_| !run.shared.is_cancelled()) else {
                    return;
                };
                match solve(&alone, &mut work, *rows) {
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
