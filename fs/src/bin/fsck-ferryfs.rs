//! `fsck.ferryfs`. Cargo cannot build a program with a dot in its name; the build script links that name to this one.

fn main() -> std::process::ExitCode {
    fs::cli::fsck::main()
}
