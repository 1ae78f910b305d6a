//! memento-kv: the memory of an AI agent as an embedded store.

mod catalog;
pub mod check;
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
#[doc(hidden)]
pub mod parts;
mod rank;
mod scope;
mod store;
mod text;
pub mod time;
pub mod transfer;
mod vector;

pub use error::{Durability, Error, ErrorKind, Result};
pub use home::Home;
pub use memory::*;
pub use store::*;
