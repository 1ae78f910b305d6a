//! Runs that a process makes which has the store for long.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::look::owner;
use super::state::State;
use super::{RunOptions, run};
use crate::clock::{Clock, SystemClock};
use crate::error::{Error, ErrorKind, Result};
use crate::home::Home;
use crate::schedule::is_due;

/// How often it is looked whether a run is due.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);

/// Makes health runs in a thread of its own, as long as it lives: whenever the last run, whoever made it, is as long ago
/// as `health.check_interval_hours` says, and while this process owns the store. A run that was missed is made up at
/// once.
#[derive(Debug)]
pub struct Attendant {
    /// Dropping it ends the thread.
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Attendant {
    /// Begins, if the configuration asks for it (`health.in_owner`).
    ///
    /// # Errors
    /// As [`Attendant::start`].
    pub fn of(home: &Home) -> Result<Option<Self>> {
        home.config.health.in_owner.then(|| Self::start(home.clone())).transpose()
    }

    /// Begins.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(home: Home) -> Result<Self> {
        let (stop, stopped) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("memento-health".to_owned())
            .spawn(move || {
                loop {
                    attend(&home);
                    if stopped.recv_timeout(LOOK_INTERVAL) != Err(RecvTimeoutError::Timeout) {
                        return;
                    }
                }
            })
            .map_err(|error| Error::new(ErrorKind::Io, format!("no thread for health runs: {error}")))?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Attendant {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread of the health runs has panicked");
        }
    }
}

/// Makes a run, if one is due and this process owns the store.
fn attend(home: &Home) {
    let now_ms = SystemClock.now_ms();
    let is_owner = owner(&home.path) == Some(std::process::id());
    if !is_owner || !is_due(State::read(&home.path).run_ms, now_ms, home.config.health.check_interval_hours) {
        return;
    }
    match run(home, &RunOptions::default(), now_ms, &mut |_, _| {}) {
        Ok(report) => tracing::info!(status = report.status.name(), "made a health run"),
        Err(error) => tracing::error!(%error, "a health run was not made"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::home::{HomeInputs, locate};
    use crate::memory::Remember;
    use crate::share::Store;
    use crate::store::Options;

    #[test]
    fn an_owner_makes_the_run_that_is_due_and_only_one() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(folder.path().join("config.yaml"), "health:\n  in_owner: true\n").expect("a file");
        let home = locate(&HomeInputs::of_process(Some(folder.path().to_owned()))).expect("a home");
        attend(&home);
        assert_eq!(State::read(folder.path()).run_ms, None, "this process owns no store");
        let store = Store::open(Options::at(folder.path()).background_embedding(false)).expect("opened");
        store.remember(Remember::new("a text")).expect("stored");
        let attendant = Attendant::of(&home).expect("started").expect("it is asked for");
        let state = loop {
            let state = State::read(folder.path());
            if state.run_ms.is_some() {
                break state;
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        assert_eq!(state.memories, 1);
        drop(attendant);
        attend(&home);
        assert_eq!(State::read(folder.path()).run_ms, state.run_ms, "none is due");
    }
}
