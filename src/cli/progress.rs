//! Progress bars on standard error, when a person looks at it.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::output::Output;
use crate::Progress;

/// Redraws a second: enough to look alive, too few to cost anything.
const REDRAW_HZ: u8 = 10;

/// What a bar counts.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Unit {
    /// Things, such as memories.
    Count,
    /// Bytes.
    Bytes,
}

/// A bar that goes away when it is dropped.
#[derive(Debug)]
pub(crate) struct Bar(ProgressBar);

impl Bar {
    /// A bar with what is being done in front; invisible when nobody would see it.
    pub(crate) fn new(out: &Output, doing: &'static str, unit: Unit) -> Self {
        if out.quiet || !out.err_terminal {
            return Self(ProgressBar::hidden());
        }
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr_with_hz(REDRAW_HZ));
        let template = match unit {
            Unit::Count => "{msg} {wide_bar} {human_pos} of {human_len} ({eta})",
            Unit::Bytes => "{msg} {wide_bar} {bytes} of {total_bytes} ({eta})",
        };
        // A template that cannot be read would show the default bar.
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(doing);
        Self(bar)
    }

    /// Shows how far it is.
    pub(crate) fn set(&self, done: u64, total: u64) {
        if self.0.length() != Some(total) {
            self.0.set_length(total);
        }
        self.0.set_position(done);
    }

    /// The form in which the store reports.
    pub(crate) fn listener(&self) -> impl FnMut(Progress) {
        |progress| self.set(progress.done, progress.total)
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_that_nobody_sees_is_hidden() {
        assert!(Bar::new(&Output::pipe(), "loading", Unit::Count).0.is_hidden());
    }

    #[test]
    fn both_templates_are_read() {
        let out = Output::plain_terminal(80);
        for unit in [Unit::Count, Unit::Bytes] {
            let bar = Bar::new(&out, "loading", unit);
            bar.set(1, 2);
            assert_eq!((bar.0.position(), bar.0.length()), (1, Some(2)));
        }
    }
}
