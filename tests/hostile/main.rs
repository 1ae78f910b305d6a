//! A hostile world: full disks, odd masks, small limits, many threads, racing processes, closed pipes, signals.
//!
//! Nothing here depends on how long something takes. What the machine cannot do, such as a mount of its own, is left
//! out with a word on standard error.

#[path = "../common/mod.rs"]
mod common;

mod copies;
mod lengths;
mod limits;
mod medium;
mod pipes;
mod processes;
mod space;
mod support;
mod threads;
