//! Who has a store, and who asks it.

use std::path::PathBuf;

use bincode::{Decode, Encode};
use serde::Serialize;

/// What a handle of a store is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Encode, Decode)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Role {
    /// Its process owns the store and serves others.
    #[default]
    Owner,
    /// It asks the process that owns the store.
    Client,
    /// Its process has the store alone.
    Alone,
}

/// One connection of another process, or of another handle of this one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Encode, Decode)]
#[non_exhaustive]
pub struct Client {
    /// Its process, where the system tells.
    pub pid: Option<u32>,
    /// What its program says that it is.
    pub program: String,
    /// Since when it is connected, in milliseconds since 1970.
    pub since_ms: i64,
    /// Calls that it made.
    pub calls: u64,
}

/// Who owns a store and who asks it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Encode, Decode)]
#[non_exhaustive]
pub struct Sharing {
    /// What the handle is that was asked.
    pub role: Role,
    /// The process that owns the store.
    pub pid: u32,
    /// Its program, and the version of this library in it.
    pub program: String,
    /// Since when it owns the store, in milliseconds since 1970.
    pub since_ms: i64,
    /// The version of the protocol that it speaks.
    pub protocol: u16,
    /// The socket at which it listens; `None` when it serves nobody.
    pub socket: Option<PathBuf>,
    /// Connections that it serves just now.
    pub clients: Vec<Client>,
}
