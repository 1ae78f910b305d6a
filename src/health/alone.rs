//! One run at a time in a home.

use std::fs::File;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::fs::system;

const TRIES: u32 = 10;
const PAUSE: Duration = Duration::from_millis(20);

/// The right to be the only run in a home. The lock is on the home's folder itself: no file is made for it, and the
/// system lets go of it when the process ends.
#[derive(Debug)]
pub(super) struct Alone {
    folder: File,
    lock: Option<system::Lock>,
}

/// What came of asking for it.
#[derive(Debug)]
pub(super) enum Asked {
    Alone(Alone),
    /// Another run has it.
    Running,
    /// There is no such home.
    NoHome,
}

impl Alone {
    /// Asks for the right, and waits a moment for another run that is about to end.
    ///
    /// # Errors
    /// What the system says about the folder.
    pub(super) fn ask(home: &Path) -> Result<Asked> {
        let io = |error| Error::io("lock", home, error);
        let folder = match system::open_folder(home) {
            Ok(folder) => folder,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Asked::NoHome),
            Err(error) => return Err(io(error)),
        };
        for _ in 0..TRIES {
            match system::try_lock(&folder, home) {
                Ok(Some(lock)) => return Ok(Asked::Alone(Self { folder, lock: Some(lock) })),
                Ok(None) => std::thread::sleep(PAUSE),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(io(error)),
            }
        }
        Ok(Asked::Running)
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        // Closing is not enough while a child that was just forked has the folder, too.
        if let Some(lock) = self.lock.take() {
            let _ = system::unlock(&self.folder, lock);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_run_is_told_of_the_first() {
        let home = tempfile::tempdir().expect("a temporary folder");
        let Ok(Asked::Alone(first)) = Alone::ask(home.path()) else { panic!("nobody else is there") };
        assert!(matches!(Alone::ask(home.path()), Ok(Asked::Running)));
        drop(first);
        assert!(matches!(Alone::ask(home.path()), Ok(Asked::Alone(_))));
        assert!(matches!(Alone::ask(&home.path().join("none")), Ok(Asked::NoHome)));
    }
}
