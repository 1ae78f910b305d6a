//! memento-kv: the memory of an AI agent as an embedded store.

pub mod clock;
pub mod embed;
mod error;
mod format;
mod memory;
#[doc(hidden)]
pub mod parts;
mod rank;
mod scope;
mod text;
mod vector;

pub use error::{Durability, Error, ErrorKind, Result};
pub use memory::*;
