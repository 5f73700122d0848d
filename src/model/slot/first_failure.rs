//! What went wrong first in a verb.

use std::sync::{Mutex, PoisonError};

use crate::error::Error;

/// The first failure of a tap during a verb; later ones are consequences of it.
#[derive(Default)]
pub(in crate::model) struct FirstFailure(Mutex<Option<Error>>);

impl FirstFailure {
    pub(in crate::model) fn note(&self, error: &Error) {
        let mut first = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if first.is_none() {
            *first = Some(error.clone());
        }
    }

    pub(in crate::model) fn take(&self) -> Option<Error> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
