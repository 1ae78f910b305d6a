//! memento-kv: the memory of an AI agent as an embedded store.

pub mod clock;
pub mod embed;
mod error;
mod format;
mod fs;
mod log;
mod memory;
mod store;

pub use error::{Durability, Error, ErrorKind, Result};
pub use memory::*;
pub use store::*;
