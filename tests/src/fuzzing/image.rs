//! A volume that somebody else wrote: one of the golden images is changed as the fuzzer says, with or without the checksums that the
//! changed blocks should have, and is then checked, dumped, mounted read-only and for writing, walked, scrubbed and written to; half of them are repaired before.
//!
//! Nothing may panic, go on without end or take memory by what the image says, and nothing but the image may be written.

use flate2::read::DeflateDecoder;
use fs::check::repair::repair;
use fs::check::{CheckOptions, check};
use fs::dump::{DumpOptions, dump};
use fs::format::item::Timestamp;
use fs::fuzzing::Script;
use fs::fuzzing::anatomy::{Anatomy, Blocks, Part};
use fs::volume::scrub::{MOST_BYTES, ScrubAt};
use fs::volume::{Attr, Caller, Clock, GcMode, MountOptions, RenameFlags, SetAttr, Volume, WriteOptions};
use fs::{BLOCK, FsError, Ino};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use zns::ZonedDevice;
use zns::open::{OpenOptions, open_device};

const GOLDEN: [&[u8]; 2] =
    [include_bytes!("../../../fs/tests/golden/v3-zns.golden"), include_bytes!("../../../fs/tests/golden/v3-conventional.golden")];
const MIB: u64 = 1 << 20;
const ZONE_BLOCKS: u64 = MIB / BLOCK as u64;
/// Changes to an image for one input.
const MOST_CHANGES: usize = 16;
/// Nodes of a tree that a walk looks at: the images have some three hundred.
const MOST_NODES: usize = 2000;
/// Steps of a scrub: the images are done in a few.
const MOST_STEPS: u32 = 100;
/// Bytes of metadata kept in memory.
const CACHE: u64 = 4 << 20;

struct Original {
    bytes: u64,
    blocks: Blocks,
    anatomy: Anatomy,
    /// What is changed: metadata, the image's own blocks, some data.
    targets: Vec<u64>,
}

fn originals() -> &'static [Original; 2] {
    static ORIGINALS: OnceLock<[Original; 2]> = OnceLock::new();
    ORIGINALS.get_or_init(|| [Original::of(GOLDEN[0], MIB / BLOCK as u64), Original::of(GOLDEN[1], 0)])
}

/// The blocks of a golden image that are not zero, and its length.
fn unpacked(golden: &[u8]) -> (u64, Blocks) {
    let mut packed = DeflateDecoder::new(golden);
    let mut number = [0; 8];
    packed.read_exact(&mut number).expect("a length");
    let bytes = u64::from_le_bytes(number);
    let mut blocks = Blocks::new();
    while packed.read_exact(&mut number).is_ok() {
        let mut block = Box::new([0; BLOCK]);
        packed.read_exact(&mut block[..]).expect("a whole block");
        blocks.insert(u64::from_le_bytes(number), block);
    }
    (bytes, blocks)
}

impl Original {
    fn of(golden: &[u8], first: u64) -> Self {
        let (bytes, blocks) = unpacked(golden);
        let anatomy = Anatomy::of(&blocks, first, ZONE_BLOCKS).expect("a golden image is sound");
        let others = blocks.keys().filter(|number| !anatomy.parts.contains_key(number));
        let (own, data): (Vec<u64>, Vec<u64>) = others.partition(|number| **number < first);
        let targets = anatomy.parts.keys().copied().chain(own).chain(data.into_iter().take(8)).collect();
        Self { bytes, blocks, anatomy, targets }
    }

    fn reseal(&self, blocks: &mut Blocks) {
        self.anatomy.reseal(blocks);
        for block in blocks.values_mut() {
            zns::image::fuzzing::reseal(block);
        }
    }

    fn change(&self, blocks: &mut Blocks, script: &mut Script) {
        let target = self.targets[usize::from(script.u16()) % self.targets.len()];
        let other = **blocks.get(&self.targets[usize::from(script.byte()) % self.targets.len()]).expect("it is there");
        let block = blocks.get_mut(&target).expect("it is there");
        // Headers are short, so their bytes are chosen more often than others.
        let reach = if script.byte().is_multiple_of(4) { BLOCK } else { 256 };
        let at = usize::from(script.u16()) % (reach - 8);
        match script.byte() % 8 {
            0 => block[at] = script.byte(),
            1 => block[at..at + 4].copy_from_slice(&(script.number() as u32).to_le_bytes()),
            2 => block[at..at + 8].copy_from_slice(&script.number().to_le_bytes()),
            3 => block.fill(0),
            4 => **block = other,
            5 => block[at] ^= 1 << (script.byte() % 8),
            _ if matches!(self.anatomy.parts.get(&target), Some(Part::Node(_))) => change_item(block, script),
            _ => block[at..at + 2].copy_from_slice(&script.u16().to_le_bytes()),
        }
    }
}

/// Changes an item of a node that is sound otherwise.
fn change_item(block: &mut [u8; BLOCK], script: &mut Script) {
    use fs::core::page::{Page, validate};
    let mut page = Page::from_bytes(*block);
    if validate(block, page.id()).is_err() || page.is_empty() {
        return;
    }
    let i = usize::from(script.byte()) % page.count();
    let mut value = page.value(i).to_vec();
    match script.byte() % 5 {
        0 if page.level() == 0 => page.remove(i),
        1 if page.level() == 0 => {
            value.resize(usize::from(script.u16()) % 1200, script.byte());
            let _ = page.replace(i, &value);
        }
        _ if value.is_empty() => return,
        2 => {
            let at = usize::from(script.byte()) % value.len();
            let bytes = script.number().to_le_bytes();
            let len = bytes.len().min(value.len() - at);
            value[at..at + len].copy_from_slice(&bytes[..len]);
            let _ = page.replace(i, &value);
        }
        _ => {
            let at = usize::from(script.byte()) % value.len();
            value[at] = script.byte();
            let _ = page.replace(i, &value);
        }
    }
    *block = *page.bytes();
}

/// A file with an image, written anew for each input and alone in its directory.
struct Place {
    directory: tempfile::TempDir,
    path: PathBuf,
}

impl Place {
    fn new() -> Self {
        // In memory where there is such a place: each input syncs the file many times.
        let shared = Path::new("/dev/shm");
        let directory = if shared.is_dir() { tempfile::tempdir_in(shared) } else { tempfile::tempdir() }.expect("a directory");
        let path = directory.path().join("image");
        Self { directory, path }
    }

    fn fill(&self, bytes: u64, blocks: &Blocks) {
        let file = File::create(&self.path).expect("created");
        file.set_len(bytes).expect("sized");
        for (number, block) in blocks {
            file.write_all_at(&block[..], number * BLOCK as u64).expect("written");
        }
    }

    fn devices(&self, read_only: bool) -> Option<Vec<Arc<dyn ZonedDevice>>> {
        let options = OpenOptions { read_only, zone_size: Some(MIB), discard: false };
        open_device(&self.path, &options).ok().map(|device| vec![device])
    }

    /// Nothing was written but the image, and that not beyond its end.
    fn judge(&self, bytes: u64) {
        assert_eq!(std::fs::metadata(&self.path).expect("there").len(), bytes, "the image has another length");
        assert_eq!(std::fs::read_dir(self.directory.path()).expect("there").count(), 1, "there is another file beside the image");
    }
}

/// The input chooses one of the images, says whether checksums are corrected, whether it is repaired, and what is changed.
pub fn mutated(data: &[u8]) {
    let mut script = Script::new(data);
    let choice = script.byte();
    let original = &originals()[usize::from(choice & 1)];
    let mut blocks = original.blocks.clone();
    for _ in 0..MOST_CHANGES {
        if script.is_empty() {
            break;
        }
        original.change(&mut blocks, &mut script);
    }
    if choice & 2 != 0 {
        original.reseal(&mut blocks);
    }
    let place = Place::new();
    place.fill(original.bytes, &blocks);
    drop(blocks);
    look(&place);
    if choice & 4 != 0 {
        mend_it(&place);
    }
    use_it(&place);
    place.judge(original.bytes);
}

/// The golden images themselves are whole after their checksums were made anew: else what is changed would never be reached.
pub fn resealed_originals_are_whole() {
    for original in originals() {
        let mut blocks = original.blocks.clone();
        original.reseal(&mut blocks);
        assert!(blocks == original.blocks, "the checksums of a sound image are made otherwise");
        let place = Place::new();
        place.fill(original.bytes, &blocks);
        let report = check(place.devices(true).expect("opens"), CheckOptions::default()).expect("a volume");
        assert!(report.clean && report.replayed > 0, "{report}");
    }
}

/// Blocks of the golden images of the kind that `of` chooses; images first, then by number.
pub fn blocks_of(of: impl Fn(Option<Part>, &[u8; BLOCK]) -> bool) -> Vec<Vec<u8>> {
    let chosen = originals().iter().flat_map(|original| {
        original.blocks.iter().filter(|(number, block)| of(original.anatomy.parts.get(number).copied(), block)).map(|(_, block)| block)
    });
    chosen.map(|block| block[..block.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)].to_vec()).collect()
}

/// How often each kind of block is hit is decided by what there is.
pub fn kinds_of_targets() -> BTreeSet<String> {
    let kind = |part: &Part| if let Part::Node(_) = part { "Node".into() } else { format!("{part:?}") };
    originals().iter().flat_map(|original| original.anatomy.parts.values().map(kind)).collect()
}

fn options(read_only: bool) -> MountOptions {
    let clock = Clock(Arc::new(|| Timestamp { sec: 1_500_000_000, nsec: 0 }));
    MountOptions { read_only, clock, secret: Some([9; 32]), gc: GcMode::Manual, cache_size: CACHE, ..MountOptions::default() }
}

/// As fsck, dump and a read-only mount look at it.
fn look(place: &Place) {
    if let Some(devices) = place.devices(true) {
        let options = CheckOptions { cache_size: CACHE, window: 4096, ..CheckOptions::default() };
        if let Ok(report) = check(devices, options) {
            let _ = report.to_string();
        }
    }
    if let Some(devices) = place.devices(true) {
        let mut lines = 0;
        let _ = dump(devices, &DumpOptions::all(), &mut |value| {
            lines += 1;
            let _ = value.to_string();
            if lines < 20_000 { Ok(()) } else { Err(std::io::ErrorKind::Other.into()) }
        });
    }
    if let Some(devices) = place.devices(true)
        && let Ok(volume) = Volume::open(devices, options(true))
    {
        walk(&volume);
    }
}

/// As `fsck -y` does it. What it has mended stays mended.
fn mend_it(place: &Place) {
    let once = || {
        let devices = place.devices(false)?;
        repair(&devices, || CheckOptions { cache_size: CACHE, window: 4096, ..CheckOptions::default() }).ok()
    };
    let Some(report) = once() else { return };
    let _ = report.to_string();
    let again = once().expect("what was repaired can be looked at again");
    assert!(again.repairs.is_empty(), "a second repair found more to do:\n{again}\nafter the first:\n{report}");
}

/// As a scrub does it, as far as it comes in so many steps: an image may claim that it has any number of blocks.
fn scrub(volume: &Volume) {
    let mut at = ScrubAt::default();
    for _ in 0..MOST_STEPS {
        let Ok(step) = volume.scrub(at, MOST_BYTES) else { return };
        let Some(next) = step.next else { return };
        assert!(next != at, "a scrub that stands still");
        at = next;
    }
}

/// Everything that can be found by names from the root, and a few numbers around what is found.
fn walk(volume: &Volume) -> Vec<(Ino, Vec<u8>, Attr)> {
    let mut found = Vec::new();
    let mut seen = BTreeSet::from([Ino::ROOT]);
    let mut open = vec![Ino::ROOT];
    while let Some(dir) = open.pop() {
        let mut cookie = 0;
        while found.len() < MOST_NODES {
            let Ok(entries) = volume.readdir(dir, cookie, 100) else { break };
            let Some(last) = entries.last() else { break };
            assert!(last.cookie > cookie, "a listing goes backwards");
            cookie = last.cookie;
            for entry in entries.into_iter().filter(|entry| entry.name != b"." && entry.name != b"..") {
                let Ok(attr) = volume.lookup(dir, &entry.name) else { continue };
                if seen.insert(attr.ino) {
                    look_at(volume, &attr);
                    if attr.is_dir() {
                        open.push(attr.ino);
                    }
                }
                found.push((dir, entry.name, attr));
            }
        }
    }
    let _ = (volume.statfs(), volume.status(), volume.zones());
    scrub(volume);
    found
}

fn look_at(volume: &Volume, attr: &Attr) {
    let ino = attr.ino;
    let _ = (volume.getattr(ino), volume.readlink(ino), volume.seek(ino, 0, libc::SEEK_DATA), volume.seek(ino, 0, libc::SEEK_HOLE));
    if let Ok(names) = volume.listxattr(ino) {
        for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()).take(20) {
            let _ = volume.getxattr(ino, name);
        }
    }
    for name in ["user.short", "user.long", "system.posix_acl_access"] {
        let _ = volume.getxattr(ino, name.as_bytes());
    }
    let mut places: Vec<u64> = volume.map(ino).unwrap_or_default().into_iter().map(|entry| entry.file_offset).take(100).collect();
    places.extend([0, attr.size.saturating_sub(5000), attr.size / 2]);
    for place in places {
        let _ = volume.read(ino, place, 128 << 10);
    }
}

/// Mounts it for writing, if that is possible, and does a little of everything.
fn use_it(place: &Place) {
    let Some(devices) = place.devices(false) else { return };
    let Ok(volume) = Volume::open(devices, options(false)) else { return };
    let found = walk(&volume);
    let caller = Caller { uid: 0, gid: 0, pid: 1, umask: 0o22 };
    let plain = WriteOptions { sync: false, kill_suid: true, append: false };
    for (n, (dir, name, attr)) in found.iter().enumerate().step_by(1 + found.len() / 12) {
        let ino = attr.ino;
        let _ = match n % 6 {
            0 => volume.write(ino, attr.size / 2, &[7; 9000], &plain).map(drop),
            1 => volume.unlink(*dir, name).map(|()| volume.forget(ino)),
            2 => volume.rename(*dir, name, Ino::ROOT, b"renamed", RenameFlags::default()),
            3 => volume.setattr(ino, &SetAttr { size: Some(attr.size / 3), ..SetAttr::default() }).map(drop),
            4 => volume.setxattr(ino, b"user.fuzz", &[1; 3000], 0),
            _ => volume.fallocate(ino, 0, 5000, 200_000),
        };
        let _ = volume.rmdir(*dir, name);
    }
    if let Ok(made) = volume.mknod(Ino::ROOT, b"made here", libc::S_IFREG | 0o600, 0, &caller) {
        let _ = volume.write(made.ino, 0, &[5; 300_000], &plain);
        let _ = volume.link(made.ino, Ino::ROOT, b"linked here");
        if let Some((.., from)) = found.iter().find(|(.., attr)| attr.is_file() && attr.size > 0) {
            let _ = volume.copy_file_range(from.ino, 0, made.ino, 8192, 1 << 20);
        }
    }
    let _ = (volume.mkdir(Ino::ROOT, b"new", 0o755, &caller), volume.symlink(Ino::ROOT, b"sl", b"x", &caller));
    let _ = (volume.sync(), volume.gc(false), volume.checkpoint(), volume.gc(false), volume.status(), volume.zones());
    if volume.is_writable() && volume.read_only_reason().is_none() && volume.shutdown().is_ok() {
        drop(volume);
        again(place);
    }
}

/// What was unmounted without a complaint can be mounted again.
fn again(place: &Place) {
    let devices = place.devices(false).expect("an image that was just closed opens");
    match Volume::open(devices, options(false)) {
        Ok(volume) => drop(walk(&volume)),
        Err(FsError::Volume(reason)) => panic!("a volume that was unmounted cleanly is refused: {reason}"),
        Err(_) => {}
    }
}
