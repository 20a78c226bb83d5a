//! `cargo xtask`: the two commands a newcomer needs, `demo` and `test`, and `bench`.
//!
//! Each installs what it needs through the system's package manager when run as root, and says exactly what is missing otherwise.

mod bench;
mod benchmarks;
mod build;
mod demo;
mod foreign;
mod memory;
mod packages;
mod paper;
mod suite;
mod test;

use clap::{Parser, Subcommand};
use harness::interrupt;
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about = "Tests, demonstration and benchmarks of FerryFS")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Runs every test; the last line is `N passed, N failed, N skipped`
    Test(test::TestArguments),
    /// Runs the main job from end to end on a 4 GiB image file that poses as a ZNS drive
    Demo(demo::DemoArguments),
    /// Runs the benchmarks side by side with their peers
    Bench(bench::BenchArguments),
}

fn main() -> ExitCode {
    interrupt::install();
    let result = match Arguments::parse().task {
        Task::Test(arguments) => test::run(&arguments),
        Task::Demo(arguments) => demo::run(&arguments).map(|()| true),
        Task::Bench(arguments) => bench::run(&arguments).map(|()| true),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            if interrupt::requested() { ExitCode::from(130) } else { ExitCode::FAILURE }
        }
    }
}
