//! A guest's initial memory file system: busybox, the first script, and the modules that bring the host's `/` in. Written as a cpio archive in the
//! format `newc` (kernel: Documentation/driver-api/early-userspace/buffer-format.rst).

use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

/// What the first script needs before it sees the host's files.
pub const MODULES: &[&str] = &["virtio_pci", "virtio_console", "overlay", "9pnet_virtio", "9p", "configfs", "fuse"];

const DIRECTORIES: &[&str] = &["dev", "proc", "sys", "host", "memory", "whole", "modules"];
const INIT: &str = include_str!("init.sh");

/// The archive, with `modules` in the order in which they are to be loaded.
///
/// # Errors
/// A file cannot be read.
pub fn build(busybox: &Path, modules: &[PathBuf]) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for directory in DIRECTORIES {
        archive.add(directory, 0o040_755, &[]);
    }
    archive.add("busybox", 0o100_755, &read(busybox)?);
    archive.add("init", 0o100_755, INIT.as_bytes());
    let mut list = String::new();
    for module in modules {
        let name = module.file_name().context("a module has a file name")?.to_string_lossy();
        archive.add(&format!("modules/{name}"), 0o100_644, &read(module)?);
        list.push_str(&format!("{name}\n"));
    }
    archive.add("modules/list", 0o100_644, list.as_bytes());
    Ok(archive.finish())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("reading {}", path.display()))
}

#[derive(Debug, Default)]
struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    fn add(&mut self, name: &str, mode: u32, contents: &[u8]) {
        self.entries += 1;
        let links = if mode & 0o040_000 != 0 { 2 } else { 1 };
        // Inode, mode, owner, group, links, time, size, four device numbers, length of the name with its zero, checksum.
        let fields = [self.entries, mode, 0, 0, links, 0, contents.len() as u32, 0, 0, 0, 0, name.len() as u32 + 1, 0];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08x}").bytes());
        }
        self.bytes.extend(name.bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(contents);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.add("TRAILER!!!", 0, &[]);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_aligned_and_the_end_is_marked() {
        let mut archive = Archive::default();
        archive.add("d", 0o040_755, &[]);
        archive.add("d/file", 0o100_644, b"hello");
        let bytes = archive.finish();
        assert_eq!(bytes.len() % 4, 0);
        assert!(bytes.starts_with(b"070701"));
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.contains("d/file\0") && text.contains("hello\0") && text.contains("TRAILER!!!\0"));
        // Size of the second entry: the seventh field behind the magic.
        let second = text[6..].find("070701").unwrap() + 6;
        assert_eq!(&text[second + 6 + 6 * 8..second + 6 + 7 * 8], "00000005");
    }
}
