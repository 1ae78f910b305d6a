//! The built program, run as a person or a script runs it: each test in a home of its own.

mod bad_input;
mod capture;
mod demo;
mod help;
mod installation;
mod memories;
mod recall;
mod snapshot;
mod support;
mod transfer;
mod upkeep;
