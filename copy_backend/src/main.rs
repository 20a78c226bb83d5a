//! `ferrycopy`.

fn main() -> std::process::ExitCode {
    copy_backend::tool::main()
}
