#![no_main]

use memento_kv::parts::fuzz::folder::let_redb_panic;

libfuzzer_sys::fuzz_target!(init: let_redb_panic(), |input: &[u8]| memento_kv::parts::fuzz::folder::run(input));
