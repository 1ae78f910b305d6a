//! One store, many processes: the first that opens it owns it and serves the others over a socket in its folder.
//!
//! The owner holds the operating system's lock, which ends with it. A client whose owner ended takes the lock, recovers
//! the store and serves in its turn; what it had asked is done once. Nobody ever takes a store from a process that
//! holds it. Messages: `format-spec/protocol.md`.

mod as_of;
mod call;
mod channel;
mod client;
mod hello;
mod server;
mod sharing;
mod socket;
mod store;
#[cfg(test)]
mod tests;
mod watch;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use as_of::AsOf;
pub(crate) use call::{CALLS_MAX, CallHead, written_again};
pub(crate) use channel::ErrorMessage;
pub(crate) use hello::{Hello, Welcome};
pub use sharing::{Client, Role, Sharing};
pub use store::{Store, get_store};
pub use watch::Watch;

/// The lock, also after a panic elsewhere: what is guarded here is never left half changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What makes the owner let the store go.
type Steps = Arc<dyn Fn() + Send + Sync>;
