//! The bodies of the fuzz targets: whatever reads bytes that somebody else may have written, with what must hold.
//!
//! Each takes any bytes and panics only for a defect. They live here, and not in `fuzz/`, so that `cargo test` runs
//! them over the committed corpus (`tests/fuzz_corpus.rs`) with no other tool than the stable one. None touches
//! the network or the disk, and none takes more memory than some dozen times its input and a fixed amount.

pub mod block;
pub mod config;
pub mod conversation;
mod damage;
pub mod folder;
mod golden;
mod index_file;
mod input;
pub mod json;
pub mod jsonl;
pub mod manifest;
pub mod model;
pub mod ops;
pub mod protocol;
pub mod query;
pub mod record;
pub mod row;
pub mod secrets;
pub mod segment;
pub mod spool;
mod stored;
pub mod text_block;

/// Inputs that a target starts from, by name.
pub type Seeds = Vec<(&'static str, Vec<u8>)>;

/// One fuzz target.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name: that of its file in `fuzz/fuzz_targets` and of its folder in `fuzz/corpus`.
    pub name: &'static str,
    /// Its body.
    pub run: fn(&[u8]),
    /// Makes its seeds, the same ones every time.
    pub seeds: fn() -> Seeds,
}

/// All fuzz targets.
pub const TARGETS: [Target; 17] = [
    Target { name: "block", run: block::run, seeds: block::seeds },
    Target { name: "config", run: config::run, seeds: config::seeds },
    Target { name: "conversation", run: conversation::run, seeds: conversation::seeds },
    Target { name: "folder", run: folder::run, seeds: folder::seeds },
    Target { name: "json", run: json::run, seeds: json::seeds },
    Target { name: "jsonl", run: jsonl::run, seeds: jsonl::seeds },
    Target { name: "manifest", run: manifest::run, seeds: manifest::seeds },
    Target { name: "model", run: model::run, seeds: model::seeds },
    Target { name: "ops", run: ops::run, seeds: ops::seeds },
    Target { name: "protocol", run: protocol::run, seeds: protocol::seeds },
    Target { name: "query", run: query::run, seeds: query::seeds },
    Target { name: "record", run: record::run, seeds: record::seeds },
    Target { name: "row", run: row::run, seeds: row::seeds },
    Target { name: "secrets", run: secrets::run, seeds: secrets::seeds },
    Target { name: "segment", run: segment::run, seeds: segment::seeds },
    Target { name: "spool", run: spool::run, seeds: spool::seeds },
    Target { name: "text_block", run: text_block::run, seeds: text_block::seeds },
];
