//! `ferryfs install-helpers DIR`: the names by which the system's tools find ours.
//!
//! mount(8) calls `/sbin/mount.TYPE`, umount(8) `/sbin/umount.TYPE`, mkfs(8) and fsck(8) look for `mkfs.TYPE` and
//! `fsck.TYPE`. With them `mount -t fuse.ferryfs DEVICE MOUNTPOINT` and lines in fstab(5) work, and a plain `umount`
//! waits for the daemon's end as `ferryfs umount` does.

use super::failure::{CommandResult, FAILED, Failure};
use std::path::Path;

/// Each name, and the program beside this one that it leads to.
const NAMES: &[(&str, &str)] = &[
    ("ferryfs", "ferryfs"),
    ("mount.ferryfs", "ferryfs"),
    ("mount.fuse.ferryfs", "ferryfs"),
    ("mount.fuseblk.ferryfs", "ferryfs"),
    ("umount.ferryfs", "ferryfs"),
    ("umount.fuse.ferryfs", "ferryfs"),
    ("umount.fuseblk.ferryfs", "ferryfs"),
    ("mkfs.ferryfs", "mkfs-ferryfs"),
    ("mkfs.fuse.ferryfs", "mkfs-ferryfs"),
    ("fsck.ferryfs", "fsck-ferryfs"),
    ("fsck.fuse.ferryfs", "fsck-ferryfs"),
    ("fsck.fuseblk.ferryfs", "fsck-ferryfs"),
];

/// Makes symbolic links in `directory` to the programs beside this one. What has one of the names and is not a symbolic
/// link is left alone.
///
/// # Errors
/// A directory that cannot be written to, or a name that is taken.
pub fn install(directory: &Path) -> CommandResult {
    let own = std::env::current_exe().and_then(|path| path.canonicalize());
    let own = own.map_err(|error| Failure::new(FAILED, format!("find this program: {error}")))?;
    let programs = own.parent().unwrap_or(Path::new("/"));
    for (name, program) in NAMES {
        let (link, target) = (directory.join(name), programs.join(program));
        if link == target || !target.is_file() {
            continue;
        }
        link_to(&link, &target)?;
        println!("{} -> {}", link.display(), target.display());
    }
    Ok(())
}

fn link_to(link: &Path, target: &Path) -> CommandResult {
    let failed = |error: std::io::Error| Failure::new(FAILED, format!("{}: {error}", link.display()));
    match std::fs::symlink_metadata(link) {
        Ok(metadata) if metadata.is_symlink() => std::fs::remove_file(link).map_err(failed)?,
        Ok(_) => return Err(Failure::new(FAILED, format!("{} exists and is not a symbolic link", link.display()))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    std::os::unix::fs::symlink(target, link).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_replace_links_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let link = directory.path().join("mount.ferryfs");
        link_to(&link, Path::new("/bin/true")).unwrap();
        link_to(&link, Path::new("/bin/false")).unwrap();
        assert_eq!(std::fs::read_link(&link).unwrap(), Path::new("/bin/false"));
        std::fs::remove_file(&link).unwrap();
        std::fs::write(&link, b"mine").unwrap();
        assert!(link_to(&link, Path::new("/bin/true")).unwrap_err().text.contains("not a symbolic link"));
        assert_eq!(std::fs::read(&link).unwrap(), b"mine");
    }
}
