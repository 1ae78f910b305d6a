//! The commands, one file each: its arguments, and what it does.

pub(crate) mod capture;
pub(crate) mod captured;
pub(crate) mod check;
pub(crate) mod compact;
pub(crate) mod completions;
pub(crate) mod demo;
pub(crate) mod eval;
pub(crate) mod export;
mod fallback;
pub(crate) mod forget;
pub(crate) mod get;
pub(crate) mod import;
pub(crate) mod list;
mod load;
pub(crate) mod model;
pub(crate) mod place;
pub(crate) mod prove;
pub(crate) mod recall;
pub(crate) mod reembed;
pub(crate) mod reindex;
pub(crate) mod remember;
pub(crate) mod scan;
pub(crate) mod stats;
pub(crate) mod update;
