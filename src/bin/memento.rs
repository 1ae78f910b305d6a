//! The program `memento`: `memento-kv` under the name of the original.

fn main() -> std::process::ExitCode {
    memento_kv::cli::main()
}
