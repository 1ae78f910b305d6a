//! memento-kv: the memory of an AI agent as an embedded store.
//!
//! [`Store::remember`] returns when the memory is on stable storage: it survives kill -9 and power loss.
//! [`Store::recall`] finds memories by meaning and by words, with no server and no network: the embedding model is
//! part of the library. Memories live in CRC-checked write-ahead segments, which are the truth; a redb view that
//! serves reads and the search indexes are derived from them and rebuilt when they are lost or damaged.
//!
//! ```
//! use memento_kv::{Options, Recall, Remember, Store};
//!
//! # let folder = tempfile::tempdir()?;
//! # let home = folder.path();
//! let store = Store::open(Options::at(home))?;
//! let saved = store.remember(
//!     Remember::new("Approved RFC-001 for Rust architecture").importance(0.9).tags(["decision", "rust"]),
//! )?; // Durable on return.
//! let answer = store.recall(Recall::new("What did we decide about Rust?").topk(5))?;
//! assert_eq!(answer.results[0].id, saved.id);
//! store.close()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The store is synchronous, `Send + Sync` and cheap to clone; asynchronous callers use their runtime's way to call
//! blocking code. One process has a store open at a time. Every error has a [kind](ErrorKind), says what is known about
//! the [durability](Durability) of the call, and never holds the text of a memory.

pub mod capture;
mod catalog;
pub mod check;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;
pub mod clock;
pub mod config;
pub mod doctor;
pub mod embed;
mod error;
pub mod failure;
mod format;
mod fs;
pub mod health;
pub mod home;
mod index;
mod log;
pub mod logs;
mod memory;
mod pack;
#[doc(hidden)]
pub mod parts;
mod rank;
pub mod schedule;
mod scope;
pub mod secrets;
mod snapshot;
pub mod spool;
mod store;
mod text;
pub mod time;
pub mod transfer;
mod vector;

/// Compiles and runs the examples of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeExamples;

pub use error::{Durability, Error, ErrorKind, Result};
pub use memory::*;
pub use pack::{Packed, estimate_tokens};
pub use snapshot::*;
pub use store::*;
