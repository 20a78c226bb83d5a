//! What a device or file stands on, as sysfs tells: loop devices on files, partitions on disks, dm and md on their members.
//!
//! Two names mean the same bytes exactly if their layers meet: in the same file or device, in spans that overlap. Files are told apart by
//! device and inode, block devices by number, never by name. Nothing is opened here.

use std::ffi::OsStr;
use std::fs::Metadata;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Layers on layers: more are a joke.
const MAX_LAYERS: usize = 64;

/// The sector of sysfs, whatever the device's block is.
const SECTOR: u64 = 512;

/// What tells one piece of storage from another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Identity {
    /// Something in a filesystem.
    File {
        /// Number of the filesystem.
        device: u64,
        /// Number of the file in it.
        inode: u64,
    },
    /// A block device, by its number.
    Block(u64),
    /// A file behind a loop device that no path leads to (deleted, or in a place that is hidden): known by the kernel's name for it only.
    Unreachable(PathBuf),
}

/// The bytes of a layer that are used; `None` if that is not known (dm and md have tables of their own).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span(Option<(u64, u64)>);

impl Span {
    const ALL: Span = Span(Some((0, u64::MAX)));
    const UNKNOWN: Span = Span(None);

    /// The same bytes one layer down, where this layer lies at `offset` and is `len` bytes long.
    fn below(self, offset: u64, len: u64) -> Span {
        let end = offset.saturating_add(len);
        Span(self.0.map(|(from, to)| (offset.saturating_add(from).min(end), offset.saturating_add(to).min(end))))
    }

    /// Do they begin where the layer begins? Then what is found there is what a user of the whole layer finds.
    pub(super) fn begins_the_layer(self) -> bool {
        matches!(self.0, Some((0, _)))
    }

    /// Is it known that they share bytes?
    fn overlaps(self, other: Span) -> bool {
        matches!((self.0, other.0), (Some(a), Some(b)) if a.0.max(b.0) < a.1.min(b.1))
    }
}

/// How a layer was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reached {
    /// It is what was named.
    Named,
    /// It is behind a loop device.
    Loop,
    /// A partition, dm or md lies on it: the kernel itself excludes other users of it.
    Kernel,
}

/// One piece of storage under a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layer {
    pub identity: Identity,
    pub path: PathBuf,
    pub span: Span,
    pub reached: Reached,
}

/// Do two stacks of layers have bytes in common?
pub(super) fn meet(a: &[Layer], b: &[Layer]) -> bool {
    a.iter().any(|a| b.iter().any(|b| a.identity == b.identity && a.span.overlaps(b.span)))
}

/// Where to look.
#[derive(Clone, Debug)]
pub(super) struct Sysfs {
    root: PathBuf,
}

impl Default for Sysfs {
    fn default() -> Self {
        Self { root: "/sys".into() }
    }
}

impl Sysfs {
    /// The layers of a path, itself first.
    pub(super) fn layers(&self, path: &Path, metadata: &Metadata) -> Vec<Layer> {
        self.stack(Layer { identity: identity(metadata), path: path.to_owned(), span: Span::ALL, reached: Reached::Named })
    }

    /// The layers of every loop device that has something behind it.
    pub(super) fn loops(&self) -> Vec<Vec<Layer>> {
        let entries = std::fs::read_dir(self.root.join("block")).into_iter().flatten().flatten();
        let loops = entries.filter(|entry| entry.path().join("loop/backing_file").exists());
        loops.filter_map(|entry| block_layer(&entry.path(), Span::ALL, Reached::Named)).map(|layer| self.stack(layer)).collect()
    }

    fn stack(&self, top: Layer) -> Vec<Layer> {
        let mut layers = vec![top];
        let mut next = 0;
        while next < layers.len() && layers.len() < MAX_LAYERS {
            let below = self.below(&layers[next]);
            layers.extend(below);
            next += 1;
        }
        layers
    }

    fn below(&self, layer: &Layer) -> Vec<Layer> {
        let Identity::Block(number) = layer.identity else { return Vec::new() };
        let link = self.root.join(format!("dev/block/{}:{}", rustix::fs::major(number), rustix::fs::minor(number)));
        let Ok(directory) = link.canonicalize() else { return Vec::new() };
        if let Some(path) = text(&directory.join("loop/backing_file")) {
            let offset = value(&directory.join("loop/offset")).unwrap_or(0);
            let limit = value(&directory.join("loop/sizelimit")).filter(|&limit| limit > 0).unwrap_or(u64::MAX);
            let path = PathBuf::from(OsStr::from_bytes(&path));
            let identity = std::fs::metadata(&path).map_or_else(|_| Identity::Unreachable(path.clone()), |found| identity(&found));
            return vec![Layer { identity, path, span: layer.span.below(offset, limit), reached: Reached::Loop }];
        }
        if directory.join("partition").exists() {
            let sectors = |name: &str| value(&directory.join(name)).map(|count| count.saturating_mul(SECTOR));
            let span = match (sectors("start"), sectors("size")) {
                (Some(start), Some(size)) => layer.span.below(start, size),
                _ => Span::UNKNOWN,
            };
            return directory.parent().and_then(|disk| block_layer(disk, span, Reached::Kernel)).into_iter().collect();
        }
        let slaves = std::fs::read_dir(directory.join("slaves")).into_iter().flatten().flatten();
        slaves.filter_map(|slave| block_layer(&slave.path(), Span::UNKNOWN, Reached::Kernel)).collect()
    }
}

/// The block device of a directory of sysfs.
fn block_layer(directory: &Path, span: Span, reached: Reached) -> Option<Layer> {
    let number = String::from_utf8(text(&directory.join("dev"))?).ok()?;
    let (major, minor) = number.split_once(':')?;
    let identity = Identity::Block(rustix::fs::makedev(major.parse().ok()?, minor.parse().ok()?));
    // The kernel writes a slash in a name as an exclamation mark.
    let name = directory.file_name()?.to_string_lossy().replace('!', "/");
    Some(Layer { identity, path: Path::new("/dev").join(name), span, reached })
}

fn identity(metadata: &Metadata) -> Identity {
    if metadata.file_type().is_block_device() {
        Identity::Block(metadata.rdev())
    } else {
        Identity::File { device: metadata.dev(), inode: metadata.ino() }
    }
}

/// An attribute without the newline at its end.
fn text(path: &Path) -> Option<Vec<u8>> {
    let mut text = std::fs::read(path).ok()?;
    text.pop_if(|last| *last == b'\n');
    (!text.is_empty()).then_some(text)
}

fn value(path: &Path) -> Option<u64> {
    String::from_utf8(text(path)?).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    const MIB: u64 = 1 << 20;

    /// A sysfs of our own, whose devices are directories.
    struct Machine {
        directory: tempfile::TempDir,
        sysfs: Sysfs,
    }

    impl Machine {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let root = directory.path().join("sys");
            fs::create_dir_all(root.join("dev/block")).unwrap();
            fs::create_dir_all(root.join("block")).unwrap();
            Self { directory, sysfs: Sysfs { root } }
        }

        fn file(&self, name: &str) -> PathBuf {
            let path = self.directory.path().join(name);
            fs::write(&path, name).unwrap();
            path
        }

        /// A device with attributes; `within`: a disk that it is a partition of.
        fn device(&self, name: &str, number: &str, within: Option<&str>, attributes: &[(&str, String)]) {
            let place = self.sysfs.root.join("block").join(within.unwrap_or("")).join(name);
            let number_and_others =
                [("dev", number.to_owned())].into_iter().chain(attributes.iter().map(|(key, value)| (*key, value.clone())));
            for (key, value) in number_and_others {
                let path = place.join(key);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, format!("{value}\n")).unwrap();
            }
            symlink(&place, self.sysfs.root.join("dev/block").join(number)).unwrap();
        }

        fn loop_over(&self, name: &str, number: &str, backing: &Path, offset: u64, limit: u64) {
            let attributes = [
                ("loop/backing_file", backing.display().to_string()),
                ("loop/offset", offset.to_string()),
                ("loop/sizelimit", limit.to_string()),
            ];
            self.device(name, number, None, &attributes);
        }

        fn partition(&self, name: &str, number: &str, disk: &str, start: u64, size: u64) {
            let sectors = |bytes: u64| (bytes / SECTOR).to_string();
            let attributes = [("partition", "1".to_owned()), ("start", sectors(start)), ("size", sectors(size))];
            self.device(name, number, Some(disk), &attributes);
        }

        fn of_file(&self, path: &Path) -> Vec<Layer> {
            self.sysfs.layers(path, &fs::metadata(path).unwrap())
        }

        fn of_device(&self, major: u32, minor: u32) -> Vec<Layer> {
            let identity = Identity::Block(rustix::fs::makedev(major, minor));
            self.sysfs.stack(Layer { identity, path: "/dev/x".into(), span: Span::ALL, reached: Reached::Named })
        }
    }

    #[test]
    fn loops_meet_in_their_file_whatever_it_is_called() {
        let machine = Machine::new();
        let (file, other) = (machine.file("a"), machine.file("b"));
        let link = machine.directory.path().join("hard link");
        fs::hard_link(&file, &link).unwrap();
        machine.loop_over("loop0", "7:0", &file, 0, 0);
        machine.loop_over("loop1", "7:1", &link, 0, 0);
        machine.loop_over("loop2", "7:2", &other, 0, 0);
        let (zero, one, two) = (machine.of_device(7, 0), machine.of_device(7, 1), machine.of_device(7, 2));
        assert!(meet(&zero, &one) && meet(&zero, &machine.of_file(&link)) && meet(&machine.of_file(&file), &one));
        assert!(!meet(&zero, &two) && !meet(&machine.of_file(&file), &two));
        assert_eq!(zero.last().unwrap().reached, Reached::Loop);
        assert!(zero.iter().all(|layer| layer.span.begins_the_layer()));
        assert_eq!(machine.sysfs.loops().len(), 3);
    }

    #[test]
    fn a_file_that_is_gone_is_known_by_the_name_it_had() {
        let machine = Machine::new();
        let gone = machine.directory.path().join("gone (deleted)");
        machine.loop_over("loop0", "7:0", &gone, 0, 0);
        machine.loop_over("loop1", "7:1", &gone, 0, 0);
        assert!(meet(&machine.of_device(7, 0), &machine.of_device(7, 1)));
    }

    #[test]
    fn parts_of_a_file_meet_only_where_they_overlap() {
        let machine = Machine::new();
        let file = machine.file("a");
        machine.loop_over("loop0", "7:0", &file, 0, 0);
        machine.partition("loop0p1", "259:0", "loop0", MIB, 9 * MIB);
        machine.partition("loop0p2", "259:1", "loop0", 10 * MIB, 10 * MIB);
        machine.loop_over("loop1", "7:1", &file, 10 * MIB, 10 * MIB);
        let (whole, first, second) = (machine.of_device(7, 0), machine.of_device(259, 0), machine.of_device(259, 1));
        let part = machine.of_device(7, 1);
        assert_eq!(first.len(), 3);
        assert!(!meet(&first, &second) && !meet(&first, &part) && meet(&second, &part));
        assert!([&first, &second, &part].into_iter().all(|part| meet(&whole, part) && meet(&machine.of_file(&file), part)));
        assert!(!first[2].span.begins_the_layer());
    }

    #[test]
    fn mappings_are_looked_through() {
        let machine = Machine::new();
        let file = machine.file("a");
        machine.loop_over("loop0", "7:0", &file, 4 * MIB, 0);
        machine.device("dm-0", "252:0", None, &[("slaves/loop0/dev", "7:0".to_owned())]);
        let mapped = machine.of_device(252, 0);
        assert_eq!(mapped.iter().map(|layer| layer.reached).collect::<Vec<_>>(), [Reached::Named, Reached::Kernel, Reached::Loop]);
        assert_eq!(mapped[2].identity, machine.of_file(&file)[0].identity);
        assert!(!meet(&mapped, &machine.of_file(&file)), "where on it is not known: two volumes of a group are two things");
        assert!(!mapped[2].span.begins_the_layer());
    }

    #[test]
    fn spans_shrink_on_the_way_down_and_never_overflow() {
        assert_eq!(Span::ALL.below(5, 10), Span(Some((5, 15))));
        assert_eq!(Span::ALL.below(5, 10).below(100, 12), Span(Some((105, 112))));
        assert_eq!(Span::ALL.below(5, 10).below(100, 3), Span(Some((103, 103))));
        assert!(!Span::ALL.below(5, 10).below(100, 3).overlaps(Span::ALL), "nothing is left of it");
        assert_eq!(Span::ALL.below(u64::MAX, u64::MAX), Span(Some((u64::MAX, u64::MAX))));
        assert_eq!(Span::UNKNOWN.below(1, 2), Span::UNKNOWN);
    }
}
