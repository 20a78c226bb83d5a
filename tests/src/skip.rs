//! A test that cannot run here says so: it is counted as skipped, with its reason, and on CI that is a failure.

use std::io::Write;

/// Notes that the running test cannot run; the caller returns afterwards.
pub fn skip(reason: &str) {
    let name = std::thread::current().name().unwrap_or("a test").to_owned();
    eprintln!("skipped: {name}: {reason}");
    if let Some(path) = std::env::var_os("FERRYFS_SKIPS") {
        let line = format!("{name}\t{}\n", reason.replace(['\n', '\t'], " "));
        let file = std::fs::File::options().create(true).append(true).open(path);
        if let Err(error) = file.and_then(|mut file| file.write_all(line.as_bytes())) {
            panic!("the skip could not be noted: {error}");
        }
    }
}

/// Whether fewer rounds are asked for (`cargo xtask test --quick`).
pub fn quick() -> bool {
    std::env::var_os("FERRYFS_QUICK").is_some_and(|value| value != "0")
}

/// Why nothing can be mounted here, if so.
pub fn no_mounts() -> Option<&'static str> {
    if !rustix::process::geteuid().is_root() {
        return Some("mounting needs root");
    }
    match std::fs::File::options().read(true).write(true).open("/dev/fuse") {
        Ok(_) => None,
        Err(_) => Some("/dev/fuse cannot be opened"),
    }
}

/// Whether a program is there; notes a skip otherwise.
pub fn has_program(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let there = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]).any(|directory| directory.join(program).is_file());
    if !there {
        skip(&format!("{program} is not installed"));
    }
    there
}
