//! What bounds a search: which memories it may return, and how long it may take.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind, Result};
use crate::format::op::MemoryKey;

/// Which memories a search may return.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Every memory.
    #[default]
    All,
    /// These memories, in ascending order, each once.
    Keys(Arc<[MemoryKey]>),
}

impl Scope {
    /// A scope of these memories, given in any order.
    pub(crate) fn of(keys: impl IntoIterator<Item = MemoryKey>) -> Self {
        let mut keys: Vec<MemoryKey> = keys.into_iter().collect();
        keys.sort_unstable();
        keys.dedup();
        Self::Keys(keys.into())
    }

    /// Whether this memory may be returned.
    pub(crate) fn contains(&self, key: MemoryKey) -> bool {
        match self {
            Self::All => true,
            Self::Keys(keys) => keys.binary_search(&key).is_ok(),
        }
    }
}

/// When a search has to give up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline(Option<(Instant, Duration)>);

impl Deadline {
    /// No limit.
    pub(crate) const NEVER: Self = Self(None);

    /// This long from now; `None` is no limit, and so is a time that the clock cannot hold.
    pub(crate) fn after(limit: Option<Duration>) -> Self {
        Self(limit.and_then(|limit| Some((Instant::now().checked_add(limit)?, limit))))
    }

    /// When half of the time that is left is over.
    pub(crate) fn half(self) -> Self {
        Self(self.0.map(|(at, limit)| {
            let left = at.saturating_duration_since(Instant::now());
            (at.checked_sub(left / 2).unwrap_or(at), limit)
        }))
    }

    /// The moment when the time is over.
    pub(crate) fn instant(self) -> Option<Instant> {
        self.0.map(|(at, _)| at)
    }

    /// Whether the time is over.
    pub(crate) fn is_over(self) -> bool {
        self.0.is_some_and(|(at, _)| Instant::now() >= at)
    }

    /// Goes on, or says how far the work came.
    ///
    /// # Errors
    /// [`ErrorKind::Timeout`] when the time is over.
    pub(crate) fn check(self, progress: fmt::Arguments<'_>) -> Result<()> {
        match self.0 {
            Some((at, limit)) if Instant::now() >= at => Err(Error::new(
                ErrorKind::Timeout,
                format!("it took longer than {} ms; {progress}", limit.as_millis()),
            )
            .hint("allow more time, or narrow the filter")),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_holds_exactly_its_keys_in_order() {
        let scope = Scope::of([7, 3, 3, 9].map(MemoryKey));
        assert_eq!(scope, Scope::Keys([3, 7, 9].map(MemoryKey).into()));
    }

    #[test]
    fn a_deadline_that_has_passed_says_what_was_being_done() {
        let passed = Deadline::after(Some(Duration::ZERO));
        let error = passed.check(format_args!("vector scan: {} of {} rows", 10, 20)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout);
        assert_eq!(error.message(), "it took longer than 0 ms; vector scan: 10 of 20 rows");
    }

    #[test]
    fn half_of_a_time_ends_before_it_and_half_of_none_never() {
        let whole = Deadline::after(Some(Duration::from_secs(1000)));
        let (half, end) = (whole.half().instant().expect("a time"), whole.instant().expect("a time"));
        let early = end.duration_since(half);
        assert!(early > Duration::from_secs(400) && early <= Duration::from_secs(500), "{early:?}");
        assert!(Deadline::after(Some(Duration::ZERO)).half().is_over());
        assert_eq!(Deadline::NEVER.half().instant(), None);
    }

    #[test]
    fn no_limit_and_a_limit_beyond_the_clock_never_pass() {
        assert!(Deadline::NEVER.check(format_args!("")).is_ok());
        assert!(Deadline::after(None).check(format_args!("")).is_ok());
        assert!(Deadline::after(Some(Duration::MAX)).check(format_args!("")).is_ok());
    }
}
