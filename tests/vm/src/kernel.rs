//! The kernels of guests: which there are, where Debian has them, and unpacking one once into the user's cache directory.

use crate::archive::Archive;
use crate::module_list::ModuleList;
use crate::program::{self, Need};
use anyhow::{Context, Result, bail, ensure};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(10 * 60);

/// The oldest QEMU whose NVMe drives do all that the tests ask for.
const QEMU_MAJOR: u32 = 10;
const QEMU: Need = Need { program: "qemu-system-x86_64", package: "qemu-system-x86", purpose: "guests with real devices" };

/// Drivers that no test looks at; they are most of a kernel.
const LEFT_OUT: &[&str] =
    &["sound", "drivers/gpu", "drivers/media", "drivers/net/wireless", "drivers/net/ethernet", "drivers/iio", "drivers/staging"];

/// A kernel for guests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kernel {
    /// Linux 6.12: user space may ask a drive for copies across namespaces.
    Long6_12,
    /// Linux 7.3, or what took its place in the backports: refuses that.
    New7_3,
}

impl Kernel {
    /// Every one.
    pub const ALL: [Kernel; 2] = [Kernel::Long6_12, Kernel::New7_3];

    /// Its version, as far as tests rely on it.
    pub fn version(self) -> &'static str {
        match self {
            Kernel::Long6_12 => "6.12",
            Kernel::New7_3 => "7.3",
        }
    }

    /// Where Debian may have it, best first.
    fn suites(self) -> &'static [&'static str] {
        match self {
            Kernel::Long6_12 => &["bookworm-backports", "trixie"],
            Kernel::New7_3 => &["trixie-backports"],
        }
    }

    /// Whether a kernel of this version will do. Backports go on: a later one takes the place of 7.3.
    fn accepts(self, version: &str) -> bool {
        let mut numbers = version.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse::<u32>().unwrap_or(0));
        let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        match self {
            Kernel::Long6_12 => found == (6, 12),
            Kernel::New7_3 => found >= (7, 3),
        }
    }
}

/// A kernel that is ready to boot.
#[derive(Clone, Debug)]
pub struct Unpacked {
    directory: PathBuf,
    /// Its full version, as `uname -r` says it.
    pub release: String,
}

impl Unpacked {
    fn at(directory: PathBuf) -> Option<Unpacked> {
        let release = std::fs::read_to_string(directory.join("release")).ok()?;
        Some(Unpacked { directory, release })
    }

    /// The kernel itself, not compressed: translated code would take seconds to unpack it.
    pub fn image(&self) -> PathBuf {
        self.directory.join("vmlinux")
    }

    /// What is mounted as `/lib/modules/RELEASE`.
    pub fn modules(&self) -> PathBuf {
        self.directory.join("lib/modules").join(&self.release)
    }

    /// Which module needs which.
    ///
    /// # Errors
    /// The list cannot be read.
    pub fn module_list(&self) -> Result<ModuleList> {
        ModuleList::read(&self.modules())
    }
}

/// Finds or makes ready a kernel, QEMU and the programs that guests need. What was found once is there for the rest of this process.
///
/// # Errors
/// What is missing, and how to get it.
pub fn provide(kernel: Kernel, progress: &dyn Fn(&str)) -> Result<Unpacked> {
    static READY: [OnceLock<Unpacked>; Kernel::ALL.len()] = [const { OnceLock::new() }; Kernel::ALL.len()];
    let ready = &READY[kernel as usize];
    match ready.get() {
        Some(unpacked) => Ok(unpacked.clone()),
        None => {
            let unpacked = find(kernel, progress)?;
            Ok(ready.get_or_init(|| unpacked).clone())
        }
    }
}

fn find(kernel: Kernel, progress: &dyn Fn(&str)) -> Result<Unpacked> {
    ensure!(std::env::consts::ARCH == "x86_64", "guests are machines of x86_64; this is {}", std::env::consts::ARCH);
    let cache = cache_directory()?;
    std::fs::create_dir_all(&cache).with_context(|| format!("making {}", cache.display()))?;
    let place = cache.join(kernel.version());
    // Several tests may come here at once: one does the work.
    let lock = File::create(cache.join("lock"))?;
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive)?;
    let mut archive = None;
    let open = || -> Result<Archive> {
        progress("reading Debian's package lists for guests");
        Archive::open(&cache.join("apt"))
    };
    let mut missing = program::missing(program::NEEDS);
    if !matches!(qemu_version(), Some(version) if version >= QEMU_MAJOR) {
        missing.push(QEMU);
    }
    if !missing.is_empty() {
        let archive = archive.insert(open()?);
        progress("installing what guests need");
        archive.install(&missing)?;
        let version = qemu_version().unwrap_or(0);
        ensure!(version >= QEMU_MAJOR, "QEMU {version} is too old for the tests on real devices: they need {QEMU_MAJOR} or later");
    }
    if let Some(unpacked) = Unpacked::at(place.clone()) {
        return Ok(unpacked);
    }
    let archive = match archive {
        Some(archive) => archive,
        None => open()?,
    };
    progress(&format!("fetching Linux {} for guests", kernel.version()));
    fetch(kernel, &archive, &cache, &place).with_context(|| format!("Linux {} for guests cannot be made ready", kernel.version()))
}

/// `$XDG_CACHE_HOME/ferryfs-guest`, else in `.cache` of the user's home.
pub(crate) fn cache_directory() -> Result<PathBuf> {
    let base = match std::env::var_os("XDG_CACHE_HOME").filter(|path| !path.is_empty()) {
        Some(path) => PathBuf::from(path),
        None => PathBuf::from(std::env::var_os("HOME").context("neither XDG_CACHE_HOME nor HOME says where to keep a guest's kernel")?)
            .join(".cache"),
    };
    Ok(base.join("ferryfs-guest"))
}

/// The major version of the QEMU that is installed.
fn qemu_version() -> Option<u32> {
    let program = program::find(QEMU.program)?;
    let outcome = harness::run(Command::new(program).arg("--version"), LIMIT).ok()?;
    parse_qemu_version(&outcome.stdout)
}

fn parse_qemu_version(said: &str) -> Option<u32> {
    said.split_once("version ")?.1.split('.').next()?.parse().ok()
}

fn fetch(kernel: Kernel, archive: &Archive, cache: &Path, place: &Path) -> Result<Unpacked> {
    let mut reasons = Vec::new();
    let found = kernel.suites().iter().find_map(|suite| match archive.kernel_package(suite) {
        Ok(package) if kernel.accepts(package.trim_start_matches("linux-image-")) => Some(package),
        Ok(package) => {
            reasons.push(format!("{suite} has {package}"));
            None
        }
        Err(error) => {
            reasons.push(format!("{error:#}"));
            None
        }
    });
    let Some(package) = found else { bail!("no package of it: {}", reasons.join("; ")) };
    let version = package.trim_start_matches("linux-image-");
    let work = tempfile::Builder::new().prefix("unpacking-").tempdir_in(cache)?;
    // Kernel and modules are in packages of their own since 7.x.
    let packages = [package.clone(), format!("linux-binary-{version}"), format!("linux-modules-{version}")];
    ensure!(archive.unpack(&packages, &work.path().join("package"))? > 0, "{package} could not be downloaded");
    let unpacked = work.path().join("package");
    let ready = work.path().join("ready");
    let modules = ready.join("lib/modules").join(version);
    std::fs::create_dir_all(ready.join("lib/modules"))?;
    let candidates = [unpacked.join("usr/lib/modules").join(version), unpacked.join("lib/modules").join(version)];
    let shipped = candidates.iter().find(|path| path.join("kernel").is_dir()).with_context(|| format!("{package} has no modules"))?;
    std::fs::rename(shipped, &modules)?;
    for directory in LEFT_OUT {
        let _ = std::fs::remove_dir_all(modules.join("kernel").join(directory));
    }
    decompress_modules(&modules)?;
    let depmod = program::find("depmod").context("depmod is missing (package kmod)")?;
    harness::run(Command::new(depmod).arg("-b").arg(&ready).arg(version), LIMIT)?.ok()?;
    let images = [unpacked.join("boot"), modules.clone(), unpacked.join("usr/lib/linux-image")];
    let names = [format!("vmlinuz-{version}"), "vmlinuz".to_owned()];
    let image = images.iter().flat_map(|directory| names.iter().map(move |name| directory.join(name))).find(|path| path.is_file());
    let image = image.with_context(|| format!("{package} has no kernel image"))?;
    decompress_kernel(&image, &ready.join("vmlinux"))?;
    std::fs::write(ready.join("release"), version)?;
    std::fs::rename(&ready, place)?;
    Unpacked::at(place.to_path_buf()).context("the unpacked kernel is gone")
}

/// Guests load modules in translated code: what is compressed is unpacked here, once.
fn decompress_modules(directory: &Path) -> Result<()> {
    let script = "find \"$1\" -name '*.ko.xz' -print0 | xargs -0 -r -P2 -n64 xz -dq && find \"$1\" -name '*.ko.zst' -print0 | xargs -0 -r -P2 -n64 zstd -dq --rm";
    harness::run(Command::new("sh").args(["-c", script, "sh"]).arg(directory), LIMIT)?.ok()?;
    Ok(())
}

/// Takes the kernel out of its self-extracting image (the boot protocol of x86, Documentation/arch/x86/boot.rst: `setup_sects` at 0x1f1,
/// `payload_offset` at 0x248 and `payload_length` at 0x24c, from the protected-mode code on).
fn decompress_kernel(image: &Path, target: &Path) -> Result<()> {
    let bytes = std::fs::read(image)?;
    let payload = payload(&bytes).with_context(|| format!("{} is no kernel image of x86", image.display()))?;
    let program = match payload {
        [0xfd, b'7', b'z', b'X', b'Z', ..] => "xz",
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "zstd",
        [0x1f, 0x8b, ..] => "gzip",
        _ => bail!("{} is compressed in an unknown way", image.display()),
    };
    let compressed = target.with_extension("compressed");
    std::fs::write(&compressed, payload)?;
    // The size of the kernel follows the compressed stream: programs call that garbage, and are right about all before it.
    let status = Command::new(program)
        .arg("-dcq")
        .stdin(File::open(&compressed)?)
        .stdout(File::create(target)?)
        .stderr(std::process::Stdio::null())
        .status();
    status.with_context(|| format!("starting {program}"))?;
    std::fs::remove_file(&compressed)?;
    let mut magic = [0; 4];
    std::io::Read::read_exact(&mut File::open(target)?, &mut magic)?;
    ensure!(&magic == b"\x7fELF", "{} holds no kernel that {program} can unpack", image.display());
    Ok(())
}

fn payload(image: &[u8]) -> Option<&[u8]> {
    let word = |at: usize| Some(u32::from_le_bytes(image.get(at..at + 4)?.try_into().ok()?) as usize);
    let setup_sectors = match *image.get(0x1f1)? {
        0 => 4,
        count => usize::from(count),
    };
    let start = ((setup_sectors + 1) * 512).checked_add(word(0x248)?)?;
    image.get(start..start.checked_add(word(0x24c)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_told_apart() {
        assert!(Kernel::Long6_12.accepts("6.12.95+deb12-amd64") && !Kernel::Long6_12.accepts("6.1.0-40-amd64"));
        assert!(Kernel::New7_3.accepts("7.3.4+deb13-amd64") && Kernel::New7_3.accepts("7.10.1+deb13-amd64"));
        assert!(!Kernel::New7_3.accepts("7.2.1+deb13-amd64") && !Kernel::New7_3.accepts(""));
        assert_eq!(parse_qemu_version("QEMU emulator version 10.0.2 (Debian 1:10.0.2)\n"), Some(10));
        assert_eq!(parse_qemu_version("nonsense"), None);
    }

    #[test]
    fn the_payload_of_a_kernel_image_is_found() {
        let mut image = vec![0; 4096];
        image[0x1f1] = 1;
        image[0x248..0x24c].copy_from_slice(&16u32.to_le_bytes());
        image[0x24c..0x250].copy_from_slice(&3u32.to_le_bytes());
        image[1040..1043].copy_from_slice(b"abc");
        assert_eq!(payload(&image), Some(&b"abc"[..]));
        image[0x24c..0x250].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!((payload(&image), payload(b"short")), (None, None));
    }
}
