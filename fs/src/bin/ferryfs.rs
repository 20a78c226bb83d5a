//! `ferryfs`.

fn main() -> std::process::ExitCode {
    fs::cli::main()
}
