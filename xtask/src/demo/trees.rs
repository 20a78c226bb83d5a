//! Real trees of files: found, copied into the mount, and compared with the original byte for byte.

use crate::interrupt;
use anyhow::{Context, Result, bail, ensure};
use harness::bytes::human;
use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// A crate that cargo downloaded.
pub struct Package {
    /// Directory name, `name-version`.
    pub name: String,
    /// Its unpacked sources.
    pub source: PathBuf,
    /// The archive as it was downloaded, if it is still there.
    pub archive: Option<PathBuf>,
}

/// The crates that `cargo metadata` says come from a registry.
pub fn downloaded(metadata: &serde_json::Value) -> Vec<Package> {
    let packages = metadata["packages"].as_array().into_iter().flatten();
    packages
        .filter(|package| package["source"].as_str().is_some_and(|source| source.starts_with("registry+")))
        .filter_map(|package| {
            let source = Path::new(package["manifest_path"].as_str()?).parent()?.to_path_buf();
            let name = source.file_name()?.to_str()?.to_owned();
            // .../registry/src/INDEX/NAME beside .../registry/cache/INDEX/NAME.crate
            let index = source.parent()?;
            let registry = index.parent()?.parent()?;
            let archive = registry.join("cache").join(index.file_name()?).join(format!("{name}.crate"));
            Some(Package { name, archive: archive.is_file().then_some(archive), source })
        })
        .collect()
}

/// Files, directories and links, each with its original and its place in the mount.
#[derive(Default)]
pub struct Tree {
    entries: Vec<Entry>,
}

struct Entry {
    original: PathBuf,
    copy: PathBuf,
    kind: Kind,
    bytes: u64,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Directory,
    Link,
    File,
}

impl Tree {
    /// Adds everything below `original` that `wanted` admits, to be copied to `copy`.
    pub fn add(&mut self, original: &Path, copy: &Path, wanted: impl Fn(&Path) -> bool) -> Result<TreePart<'_>> {
        let from = self.entries.len();
        walk(original, &mut |path, metadata| {
            let relative = path.strip_prefix(original).unwrap_or(path);
            if wanted(relative) {
                self.entries.push(Entry::new(path, &copy.join(relative), metadata));
            }
            Ok(())
        })?;
        Ok(TreePart { entries: &self.entries[from..] })
    }

    /// Adds a tree that was unpacked at `copy` already: what is there is compared with its original later.
    pub fn add_unpacked(&mut self, original: &Path, copy: &Path) -> Result<()> {
        walk(copy, &mut |path, metadata| {
            let relative = path.strip_prefix(copy).unwrap_or(path);
            self.entries.push(Entry::new(&original.join(relative), path, metadata));
            Ok(())
        })
    }

    /// Adds a toolchain up to `limit` bytes: the compiler with its libraries, then what else there is room for; documentation is left out.
    pub fn add_within(&mut self, sysroot: &Path, copy: &Path, limit: u64) -> Result<()> {
        let mut all = Vec::new();
        walk(sysroot, &mut |path, metadata| {
            all.push(Entry::new(path, &copy.join(path.strip_prefix(sysroot).unwrap_or(path)), metadata));
            Ok(())
        })?;
        let rank = |entry: &Entry| {
            let relative = entry.original.strip_prefix(sysroot).unwrap_or(&entry.original);
            let text = relative.to_string_lossy();
            match () {
                () if entry.kind == Kind::Directory => 0,
                () if text == "bin/rustc" || (text.starts_with("lib/") && !text.starts_with("lib/rustlib/")) => 1,
                () if text.starts_with("lib/rustlib/") && text.contains("/lib/") => 2,
                () if text.starts_with("share/doc") => 4,
                () => 3,
            }
        };
        all.sort_by_cached_key(|entry| (rank(entry), entry.original.clone()));
        let mut left = limit;
        let mut used = std::collections::BTreeSet::new();
        let mut kept = Vec::new();
        for entry in all.iter().filter(|e| e.kind != Kind::Directory && rank(e) < 4) {
            if entry.bytes <= left {
                left -= entry.bytes;
                used.extend(entry.original.ancestors().skip(1).map(Path::to_path_buf));
                kept.push(entry.original.clone());
            }
        }
        used.extend(kept);
        self.entries.extend(all.into_iter().filter(|e| used.contains(&e.original)));
        Ok(())
    }

    /// Whether a file is part of it.
    pub fn holds(&self, copy: &Path) -> bool {
        self.entries.iter().any(|entry| entry.copy == copy)
    }

    /// Bytes in files.
    pub fn bytes(&self) -> u64 {
        self.entries.iter().map(|entry| entry.bytes).sum()
    }

    /// Number of files.
    pub fn files(&self) -> usize {
        self.entries.iter().filter(|entry| entry.kind == Kind::File).count()
    }

    /// One line about it.
    pub fn summary(&self, time: Duration) -> String {
        let seconds = time.as_secs_f64();
        format!(
            "{} files, {} in {seconds:.1} s, {}/s",
            self.files(),
            human(self.bytes()),
            human((self.bytes() as f64 / seconds.max(1e-6)) as u64)
        )
    }

    /// Copies all of it.
    pub fn copy(&self, progress: impl FnMut(u64) -> Result<()>) -> Result<()> {
        TreePart { entries: &self.entries }.copy(progress)
    }

    /// Compares every entry with its original, with as many threads as there are processors.
    pub fn compare(&self, progress: &(impl Fn(u64) -> Result<()> + Sync)) -> Result<()> {
        let next = AtomicUsize::new(0);
        let failed: Mutex<Option<anyhow::Error>> = Mutex::new(None);
        let work = || {
            while let Some(entry) = self.entries.get(next.fetch_add(1, Ordering::Relaxed)) {
                let result = entry.compare().and_then(|()| progress(entry.bytes));
                if let Err(error) = result {
                    next.store(self.entries.len(), Ordering::Relaxed);
                    failed.lock().unwrap_or_else(|e| e.into_inner()).get_or_insert(error);
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..std::thread::available_parallelism().map_or(2, |n| n.get()) {
                scope.spawn(work);
            }
        });
        failed.into_inner().unwrap_or_else(|e| e.into_inner()).map_or(Ok(()), Err)
    }
}

/// Entries of a tree that were added together.
pub struct TreePart<'a> {
    entries: &'a [Entry],
}

impl TreePart<'_> {
    /// Copies them to their place.
    pub fn copy(&self, mut progress: impl FnMut(u64) -> Result<()>) -> Result<()> {
        for entry in self.entries {
            interrupt::check()?;
            entry.copy().with_context(|| format!("copying {} to {}", entry.original.display(), entry.copy.display()))?;
            progress(entry.bytes)?;
        }
        Ok(())
    }
}

impl Entry {
    fn new(original: &Path, copy: &Path, metadata: &Metadata) -> Entry {
        let (kind, bytes) = match () {
            () if metadata.is_dir() => (Kind::Directory, 0),
            () if metadata.is_symlink() => (Kind::Link, 0),
            () => (Kind::File, metadata.len()),
        };
        Entry { original: original.into(), copy: copy.into(), kind, bytes }
    }

    fn copy(&self) -> Result<()> {
        match self.kind {
            Kind::Directory => std::fs::create_dir_all(&self.copy)?,
            Kind::Link => symlink(std::fs::read_link(&self.original)?, &self.copy)?,
            Kind::File => {
                let mut from = File::open(&self.original)?;
                let mut to = File::create_new(&self.copy)?;
                // Plain reads and writes: what the kernel's own shortcuts do is another test.
                let mut buffer = vec![0; 1 << 20];
                loop {
                    let n = from.read(&mut buffer)?;
                    if n == 0 {
                        break;
                    }
                    std::io::Write::write_all(&mut to, &buffer[..n])?;
                }
                to.set_permissions(PermissionsExt::from_mode(from.metadata()?.mode() & 0o777))?;
            }
        }
        Ok(())
    }

    fn compare(&self) -> Result<()> {
        let (original, copy) = (self.original.display(), self.copy.display());
        let context = || format!("comparing {copy} with {original}");
        let theirs = std::fs::symlink_metadata(&self.original).with_context(context)?;
        let ours = std::fs::symlink_metadata(&self.copy).with_context(context)?;
        ensure!(ours.file_type() == theirs.file_type(), "{copy} is of another kind than {original}");
        match self.kind {
            Kind::Directory => Ok(()),
            Kind::Link => {
                ensure!(std::fs::read_link(&self.copy)? == std::fs::read_link(&self.original)?, "{copy} points elsewhere");
                Ok(())
            }
            Kind::File => {
                ensure!(ours.len() == theirs.len(), "{copy} has {} bytes, {original} {}", ours.len(), theirs.len());
                let same = same_bytes(File::open(&self.copy)?, File::open(&self.original)?).with_context(context)?;
                ensure!(same, "{copy} differs from {original}");
                Ok(())
            }
        }
    }
}

fn same_bytes(mut a: File, mut b: File) -> std::io::Result<bool> {
    let (mut left, mut right) = (vec![0; 256 << 10], vec![0; 256 << 10]);
    loop {
        let n = a.read(&mut left)?;
        if n == 0 {
            return Ok(b.read(&mut right)? == 0);
        }
        if b.read_exact(&mut right[..n]).is_err() || left[..n] != right[..n] {
            return Ok(false);
        }
    }
}

fn walk(path: &Path, visit: &mut impl FnMut(&Path, &Metadata) -> Result<()>) -> Result<()> {
    let metadata = std::fs::symlink_metadata(path).with_context(|| path.display().to_string())?;
    if !metadata.is_dir() && !metadata.is_file() && !metadata.is_symlink() {
        bail!("{} is neither file, directory nor link", path.display());
    }
    visit(path, &metadata)?;
    if metadata.is_dir() {
        let mut children: Vec<PathBuf> = std::fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
        children.sort();
        for child in children {
            walk(&child, visit)?;
        }
    }
    Ok(())
}
