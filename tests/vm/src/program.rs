//! The programs of the host that a guest, or its preparation, needs; and whether we are in a guest ourselves.

use std::path::PathBuf;

/// A program and the Debian package that brings it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// Name of the program.
    pub program: &'static str,
    /// Its package.
    pub package: &'static str,
    /// What it is for.
    pub purpose: &'static str,
}

/// What preparing and booting any guest takes, besides QEMU and a kernel.
pub const NEEDS: &[Need] = &[
    Need { program: "busybox", package: "busybox-static", purpose: "starting a guest" },
    Need { program: "modprobe", package: "kmod", purpose: "drivers in a guest" },
    Need { program: "depmod", package: "kmod", purpose: "drivers in a guest" },
    Need { program: "xz", package: "xz-utils", purpose: "unpacking a guest's kernel" },
    Need { program: "zstd", package: "zstd", purpose: "unpacking a guest's kernel" },
];

/// Set in the environment of what runs in a guest.
pub const INSIDE: &str = "FERRYFS_GUEST";

/// Whether this process runs in a guest of ours.
pub fn inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// Where a program is: on the path, or where administrators' programs are.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from))
        .map(|directory| directory.join(program))
        .find(|path| path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok())
}

/// Those of `needs` that are not here.
pub fn missing(needs: &[Need]) -> Vec<Need> {
    needs.iter().copied().filter(|need| find(need.program).is_none()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_missing() {
        let need = |program| Need { program, package: "p", purpose: "tests" };
        assert_eq!(missing(&[need("sh"), need("no-such-program-anywhere")]), [need("no-such-program-anywhere")]);
        assert!(!inside());
    }
}
