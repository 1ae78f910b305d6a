#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| memento_kv::parts::fuzz::protocol::run(input));
