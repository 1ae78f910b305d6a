//! memento-kv: the memory of an AI agent as an embedded store.

#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;
pub mod clock;
pub mod config;
pub mod embed;
mod error;
mod format;
mod fs;
pub mod home;
mod log;
mod memory;
mod store;
pub mod time;

pub use error::{Durability, Error, ErrorKind, Result};
pub use memory::*;
pub use store::*;
