//! The log on standard error, for those who ask for it.

use tracing_subscriber::EnvFilter;

use crate::{Error, ErrorKind, Result};

/// What `MEMENTO_DEBUG` and `debug: true` show.
const DEBUG_FILTER: &str = "warn,memento_kv=debug";

/// Logs when `MEMENTO_LOG` says what.
///
/// # Errors
/// [`ErrorKind::Invalid`] when it is no filter.
pub(crate) fn start_from_env() -> Result<()> {
    if let Some(filter) = std::env::var_os("MEMENTO_LOG").filter(|filter| !filter.is_empty()) {
        start(parse(&filter.to_string_lossy())?);
    }
    Ok(())
}

/// Logs at debug level, unless `MEMENTO_LOG` has decided already.
pub(crate) fn start_debug() {
    start(EnvFilter::new(DEBUG_FILTER));
}

fn parse(filter: &str) -> Result<EnvFilter> {
    EnvFilter::try_new(filter).map_err(|error| {
        Error::new(ErrorKind::Invalid, format!("MEMENTO_LOG is not a log filter: {error}"))
            .hint("write a level such as `debug`, or targets such as `memento_kv=trace,warn`")
    })
}

fn start(filter: EnvFilter) {
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).finish();
    // A subscriber that is already there was asked for more precisely.
    let _ = tracing::subscriber::set_global_default(subscriber);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_and_targets_are_filters() {
        for good in ["debug", "memento_kv=trace,warn", DEBUG_FILTER] {
            assert!(parse(good).is_ok(), "{good}");
        }
    }

    #[test]
    fn a_bad_filter_is_refused_with_a_hint() {
        let error = parse("memento_kv=loud").expect_err("no such level");
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.hint_text().is_some_and(|hint| hint.contains("debug")));
    }
}
