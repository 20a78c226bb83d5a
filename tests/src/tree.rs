//! What a tree of files holds, as one line per entry: to be compared with what it is to hold.

use anyhow::{Context, Result};
use rustix::fs::SeekFrom;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// One sorted line per entry below `root`: mode, links, owner, size, time, extended attributes, contents.
pub fn describe(root: &Path) -> Result<String> {
    let mut lines = Vec::new();
    visit(root, root, &mut lines)?;
    lines.sort();
    Ok(lines.join("\n") + "\n")
}

fn visit(root: &Path, path: &Path, lines: &mut Vec<String>) -> Result<()> {
    let metadata = std::fs::symlink_metadata(path).with_context(|| path.display().to_string())?;
    let name = path.strip_prefix(root).unwrap_or(path);
    let contents = match () {
        () if metadata.is_symlink() => format!("-> {}", std::fs::read_link(path)?.display()),
        () if metadata.is_file() => format!("{:032x}", digest(path)?),
        () => format!("rdev {:x}", metadata.rdev()),
    };
    let mut attributes = Vec::new();
    if !metadata.is_symlink() {
        for name in xattr::list(path)?.filter(|name| name.to_string_lossy().starts_with("user.")) {
            let value = xattr::get(path, &name)?.unwrap_or_default();
            let digest = harness::content::digest(&value[..])?;
            attributes.push(format!("{}={}:{digest:032x}", name.to_string_lossy(), value.len()));
        }
        attributes.sort();
    }
    // The size of a directory is nobody's promise.
    let size = if metadata.is_dir() { 0 } else { metadata.size() };
    lines.push(format!(
        "{:?} {:o} links {} owner {}:{} size {size} mtime {}.{:09} {contents} [{}]",
        name,
        metadata.mode(),
        metadata.nlink(),
        metadata.uid(),
        metadata.gid(),
        metadata.mtime(),
        metadata.mtime_nsec(),
        attributes.join(" "),
    ));
    if metadata.is_dir() {
        for entry in std::fs::read_dir(path)? {
            visit(root, &entry?.path(), lines)?;
        }
    }
    Ok(())
}

/// A digest of a file's data, hole by hole, so that huge sparse files cost nothing.
fn digest(path: &Path) -> Result<u128> {
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    let mut sum = harness::content::digest(std::io::empty())?;
    let mut at = 0;
    while at < length {
        let Ok(data) = rustix::fs::seek(&file, SeekFrom::Data(at)) else {
            break;
        };
        let end = rustix::fs::seek(&file, SeekFrom::Hole(data))?;
        rustix::fs::seek(&file, SeekFrom::Start(data))?;
        let contents = harness::content::digest((&file).take(end - data))?;
        let parts = [sum.to_le_bytes(), u128::from(data).to_le_bytes(), u128::from(end).to_le_bytes(), contents.to_le_bytes()];
        sum = harness::content::digest(&parts.concat()[..])?;
        at = end;
    }
    Ok(sum)
}
