//! What every command is given.

use super::args::Global;
use super::output::Output;
use crate::clock::{Clock, SystemClock};

/// The global options, where output goes, and the time at which the program started.
pub(crate) struct Context<'a> {
    pub(crate) global: Global,
    pub(crate) out: &'a Output,
    pub(crate) now_ms: i64,
}

impl<'a> Context<'a> {
    pub(crate) fn new(global: Global, out: &'a Output) -> Self {
        Self { global, out, now_ms: SystemClock.now_ms() }
    }

    /// The time in Unix seconds.
    pub(crate) fn now(&self) -> i64 {
        self.now_ms.div_euclid(1000)
    }
}
