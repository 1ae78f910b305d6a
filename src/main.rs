//! The program `memento-kv`.

fn main() -> std::process::ExitCode {
    memento_kv::cli::main()
}
