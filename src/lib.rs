//! memento-kv: the memory of an AI agent as an embedded store.

mod catalog;
pub mod check;
pub mod clock;
pub mod config;
pub mod embed;
mod error;
mod format;
mod fs;
pub mod home;
mod log;
mod memory;
<<<<<<< HEAD
=======
#[doc(hidden)]
pub mod parts;
>>>>>>> rank
mod rank;
mod scope;
mod store;
mod text;
pub mod time;
<<<<<<< HEAD
mod vector;
=======
pub mod transfer;
>>>>>>> config

pub use error::{Durability, Error, ErrorKind, Result};
pub use home::Home;
pub use memory::*;
pub use store::*;
