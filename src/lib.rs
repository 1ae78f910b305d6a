//! memento-kv: the memory of an AI agent as an embedded store.

pub mod clock;
pub mod config;
pub mod embed;
mod error;
mod format;
pub mod home;
mod memory;
pub mod time;
pub mod transfer;

pub use error::{Durability, Error, ErrorKind, Result};
pub use memory::*;
