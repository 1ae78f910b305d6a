//! memento-kv: the memory of an AI agent as an embedded store.

mod catalog;
pub mod clock;
pub mod config;
pub mod embed;
mod error;
mod format;
mod fs;
mod log;
mod memory;
mod scope;
mod text;
mod vector;
pub mod home;
mod memory;
pub mod time;

pub use error::{Durability, Error, ErrorKind, Result};
pub use memory::*;
