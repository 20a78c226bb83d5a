//! Attaching a FUSE connection to the tree of names, and detaching it.
//!
//! We call mount(2) ourselves; without the right to mount, the setuid helper fusermount3 does it and hands the connection over a socket.

use super::blockmount::{NoBlockMount, Place};
use crate::volume::{AtimeMode, Atimes};
use rustix::fs::{Mode, OFlags, StatxAttributes, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::net::{AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType};
use std::ffi::CString;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use thiserror::Error;

/// The types under which a mount appears, and mount(8) finds its helper: with a block device of its own, and without.
pub const FILESYSTEM_TYPES: [&str; 2] = ["fuseblk.ferryfs", "fuse.ferryfs"];
/// The second of them.
const PLAIN_TYPE: &str = FILESYSTEM_TYPES[1];
const SUBTYPE: &str = "ferryfs";
const DEVICE: &str = "/dev/fuse";

/// Which of the two types a mount is to have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MountType {
    /// `fuseblk` where it can be had, else `fuse`.
    #[default]
    Best,
    /// `fuse`: as in every version of Linux and for every user, but sync(1) and syncfs(2) do nothing.
    Plain,
    /// `fuseblk` or none.
    Block,
}

/// What the kernel is to know of a mount.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MountRequest {
    /// An absolute path without symbolic links.
    pub mountpoint: PathBuf,
    /// What findmnt(8) shows as the source.
    pub source: String,
    /// No writes at all.
    pub read_only: bool,
    /// Set-id bits have no effect.
    pub no_suid: bool,
    /// Device nodes have no effect.
    pub no_dev: bool,
    /// Nothing can be executed.
    pub no_exec: bool,
    /// No symbolic link is followed.
    pub no_sym_follow: bool,
    /// Which accesses count.
    pub atimes: Atimes,
    /// Other users than the one who mounts may enter.
    pub allow_other: bool,
    /// Its type.
    pub kind: MountType,
}

/// Why a mount could not be made or removed.
#[derive(Debug, Error)]
pub enum MountpointError {
    /// The kernel has no FUSE.
    #[error("{DEVICE} does not exist: this kernel has no FUSE (try: modprobe fuse), or the container does not pass it on")]
    NoFuse,
    /// No right to use it.
    #[error("{DEVICE} cannot be opened: permission denied")]
    FuseForbidden,
    /// A path that cannot be handed to the kernel.
    #[error("{0:?} contains a zero byte")]
    ZeroByte(PathBuf),
    /// mount(2) refused.
    #[error("mount on {path}: {}", std::io::Error::from(*errno))]
    Refused {
        /// Where.
        path: PathBuf,
        /// Why.
        errno: Errno,
    },
    /// A mount of type fuseblk was asked for, and is not possible.
    #[error(
        "a mount of type fuseblk is not possible here ({0}); -o fuse_type=fuse mounts without it, and sync(1) then makes nothing durable"
    )]
    NoBlock(NoBlockMount),
    /// Neither root nor a helper.
    #[error("only root may mount without fusermount3, which is not installed (package fuse3)")]
    NoHelper,
    /// The helper refused.
    #[error("fusermount3: {0}")]
    Helper(String),
    /// Talking to the helper failed.
    #[error("{0}: {1}")]
    System(&'static str, std::io::Error),
    /// Somebody has a file in it open.
    #[error("{path} is in use: a program has a file open in it or works in it (fuser -vm {path} tells which)")]
    Busy {
        /// Where.
        path: PathBuf,
    },
}

type Result<T> = std::result::Result<T, MountpointError>;

/// Is there a FUSE that we may use?
///
/// # Errors
/// The sentence to print.
pub fn check_fuse() -> Result<()> {
    match std::fs::metadata(DEVICE) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(MountpointError::NoFuse),
        _ => Ok(()),
    }
}

/// Another descriptor for FUSE, not connected yet.
///
/// # Errors
/// No FUSE, or no right to use it.
pub fn open_device() -> Result<OwnedFd> {
    rustix::fs::open(DEVICE, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(|errno| match errno {
        Errno::NOENT | Errno::NODEV | Errno::NXIO => MountpointError::NoFuse,
        Errno::ACCESS | Errno::PERM => MountpointError::FuseForbidden,
        errno => MountpointError::System("open /dev/fuse", errno.into()),
    })
}

/// What a mount of type fuseblk needs capabilities for that a daemon gives up afterwards.
pub struct Preparation(std::result::Result<Place, NoBlockMount>);

impl MountRequest {
    /// To be called before capabilities are given up, by `give_up` on a thread of the preparation's own. None: the mount will not be of type fuseblk. What is
    /// in the way is said when the mount is made.
    pub fn prepare(&self, give_up: impl FnOnce() -> rustix::io::Result<()> + Send + 'static) -> Option<Preparation> {
        let may_be_block = self.kind == MountType::Block || self.kind == MountType::Best && kernel_tells_of_sync();
        may_be_block.then(|| Preparation(Place::new(&self.source, give_up)))
    }
}

/// Mounts, and returns the connection over which the kernel will ask.
///
/// # Errors
/// Everything that can be in the way, in a sentence.
pub fn mount(request: &MountRequest, preparation: Option<Preparation>) -> Result<OwnedFd> {
    check_fuse()?;
    if let Some(Preparation(place)) = preparation {
        match mount_as_block(request, place) {
            Err(MountpointError::NoBlock(reason)) if request.kind == MountType::Best => {
                tracing::info!(
                    "sync(1) and syncfs(2) will make nothing durable, for a mount of type fuseblk is not possible here: {reason}"
                );
            }
            other => return other,
        }
    }
    match mount_directly(request) {
        Err(MountpointError::Refused { errno: Errno::PERM, .. } | MountpointError::FuseForbidden) => mount_by_helper(request),
        other => other,
    }
}

/// Does Linux tell mounts of type fuseblk of sync(1)? It does since 6.18; without that the type has no use, and before it a daemon could wait for itself when
/// asynchronous direct I/O outlives its file (mended in 6.18, too).
fn kernel_tells_of_sync() -> bool {
    std::fs::read_to_string("/proc/sys/kernel/osrelease").is_ok_and(|release| is_at_least(&release, (6, 18)))
}

fn is_at_least(release: &str, least: (u32, u32)) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|digits| digits.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= least
}

fn mount_as_block(request: &MountRequest, place: std::result::Result<Place, NoBlockMount>) -> Result<OwnedFd> {
    let connection = match open_device() {
        Err(MountpointError::FuseForbidden) if request.kind == MountType::Best => {
            return mount_by_helper(request);
        }
        other => other?,
    };
    let mut parameters = kernel_parameters(request);
    parameters.push(("subtype", SUBTYPE.into()));
    parameters.push(("blksize", crate::BLOCK.to_string()));
    place.and_then(|place| place.mount(request, &connection, parameters)).map_err(MountpointError::NoBlock)?;
    Ok(connection)
}

fn mount_directly(request: &MountRequest) -> Result<OwnedFd> {
    let connection = open_device()?;
    let data = kernel_data(request, connection.as_raw_fd());
    let data = CString::new(data).map_err(|_| MountpointError::ZeroByte(request.mountpoint.clone()))?;
    rustix::mount::mount(request.source.as_str(), &request.mountpoint, PLAIN_TYPE, flags(request), data.as_c_str())
        .map_err(|errno| MountpointError::Refused { path: request.mountpoint.clone(), errno })?;
    Ok(connection)
}

/// The flags of mount(2).
fn flags(request: &MountRequest) -> MountFlags {
    let mut flags = MountFlags::empty();
    flags.set(MountFlags::RDONLY, request.read_only);
    flags.set(MountFlags::NOSUID, request.no_suid);
    flags.set(MountFlags::NODEV, request.no_dev);
    flags.set(MountFlags::NOEXEC, request.no_exec);
    flags.set(MountFlags::NOSYMFOLLOW, request.no_sym_follow);
    flags.set(MountFlags::NODIRATIME, !request.atimes.directories);
    flags |= match request.atimes.mode {
        AtimeMode::Relatime => MountFlags::RELATIME,
        AtimeMode::Strict => MountFlags::STRICTATIME,
        AtimeMode::None => MountFlags::NOATIME,
    };
    flags
}

/// Gives the mount at `request.mountpoint` the flags of `request`; of the rest, which only a new mount can have, nothing changes.
///
/// # Errors
/// The refusal; EBUSY: a file is open for writing, and it was to become read-only.
pub fn remount(request: &MountRequest) -> std::result::Result<(), Errno> {
    rustix::mount::mount_remount(&request.mountpoint, flags(request), "")
}

/// Most bytes that one read request asks for. What is read is checked and copied to the kernel while it is in the processor's second-level cache, and
/// readahead keeps several threads busy: sequential reading was 13 % faster than with requests of 1 MiB.
const MAX_READ: u32 = 256 << 10;

/// What the kernel is told besides the flags of mount(2): names with their values, none for those that have none.
fn kernel_parameters(request: &MountRequest) -> Vec<(&'static str, String)> {
    let mut parameters = vec![
        ("rootmode", "40000".into()),
        ("user_id", rustix::process::geteuid().as_raw().to_string()),
        ("group_id", rustix::process::getegid().as_raw().to_string()),
        // The kernel checks permissions by mode, owner and group: it does so for every filesystem and does it right.
        ("default_permissions", String::new()),
        ("max_read", MAX_READ.to_string()),
    ];
    if request.allow_other {
        parameters.push(("allow_other", String::new()));
    }
    parameters
}

/// The option string of mount(2).
fn kernel_data(request: &MountRequest, connection: i32) -> String {
    let word = |(name, value): (&str, String)| if value.is_empty() { format!(",{name}") } else { format!(",{name}={value}") };
    std::iter::once(format!("fd={connection}")).chain(kernel_parameters(request).into_iter().map(word)).collect()
}

/// The option string of fusermount3, in which a comma or backslash of a name is escaped.
fn helper_options(request: &MountRequest) -> String {
    let source = request.source.replace('\\', "\\\\").replace(',', "\\,");
    let mut options = format!("fsname={source},subtype={SUBTYPE},default_permissions,max_read={MAX_READ}");
    for (wanted, name) in [
        (request.read_only, "ro"),
        (request.no_exec, "noexec"),
        (request.atimes.mode == AtimeMode::None, "noatime"),
        (request.allow_other, "allow_other"),
        // Set-id bits and device nodes of an image that an ordinary user made must not take effect; the helper insists on
        // it as well.
        (true, "nosuid"),
        (true, "nodev"),
    ] {
        if wanted {
            options.push(',');
            options.push_str(name);
        }
    }
    options
}

fn mount_by_helper(request: &MountRequest) -> Result<OwnedFd> {
    if request.no_sym_follow {
        return Err(MountpointError::Helper("it knows no option nosymfollow; only root can have it".into()));
    }
    let failed = |what| move |errno: Errno| MountpointError::System(what, errno.into());
    // The helper inherits its end of the socket, so that end is not closed on exec.
    let pair = || rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::empty(), None);
    let (ours, theirs) = pair().map_err(failed("make a socket for fusermount3"))?;
    rustix::io::fcntl_setfd(&ours, rustix::io::FdFlags::CLOEXEC).map_err(failed("make a socket for fusermount3"))?;
    let child = Command::new("fusermount3")
        .arg("-o")
        .arg(helper_options(request))
        .arg("--")
        .arg(&request.mountpoint)
        .env("_FUSE_COMMFD", theirs.as_raw_fd().to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn();
    drop(theirs);
    let child = child.map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => MountpointError::NoHelper,
        _ => MountpointError::System("run fusermount3", error),
    })?;
    let connection = receive(&ours);
    let output = child.wait_with_output().map_err(|error| MountpointError::System("wait for fusermount3", error))?;
    match connection {
        Ok(Some(connection)) => Ok(connection),
        Ok(None) => {
            let said = String::from_utf8_lossy(&output.stderr).trim().trim_start_matches("fusermount3: ").to_owned();
            Err(MountpointError::Helper(if said.is_empty() { "it gave no reason".to_owned() } else { said }))
        }
        Err(errno) => Err(MountpointError::System("receive the connection from fusermount3", errno.into())),
    }
}

/// The descriptor that the helper sends, `None` if it ended without sending one.
fn receive(socket: impl AsFd) -> std::result::Result<Option<OwnedFd>, Errno> {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    loop {
        match rustix::net::recvmsg(&socket, &mut [IoSliceMut::new(&mut byte)], &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            Err(Errno::CONNRESET) => return Ok(None),
            Err(errno) => return Err(errno),
            Ok(_) => break,
        }
    }
    Ok(ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    }))
}

/// Runs `ask`, a call that a mount served by this very process has to answer.
///
/// Whoever waits for such an answer in the kernel cannot be killed. So it is a thread that has no descriptor of the connection: if the process is killed
/// meanwhile, its other threads end, with them the connection, and with that the wait.
///
/// # Errors
/// No thread can be made.
pub fn apart<T: Send>(ask: impl FnOnce() -> T + Send) -> std::io::Result<T> {
    let alone = || {
        // SAFETY: both calls concern this thread's own table of descriptors, which nobody else uses from here on; nothing in it is used any more but the
        // standard streams.
        let alone = unsafe { libc::unshare(libc::CLONE_FILES) == 0 && libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) == 0 };
        if !alone {
            tracing::debug!("a mount is asked with all descriptors open: {}", std::io::Error::last_os_error());
        }
        ask()
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("apart".into()).spawn_scoped(scope, alone)?;
        thread.join().map_err(|_| std::io::Error::other("a thread panicked"))
    })
}

/// [`unmount`] for a process that serves the mount itself, and may have to give the last answer.
///
/// # Errors
/// As [`unmount`].
pub fn unmount_own(path: &Path, lazy: bool) -> Result<()> {
    apart(|| unmount(path, lazy)).unwrap_or_else(|error| Err(MountpointError::System("unmount", error)))
}

/// Unmounts. `lazy`: it disappears from the tree at once, and from memory when the last open file is closed.
///
/// # Errors
/// [`MountpointError::Busy`] unless lazy, or the refusal.
pub fn unmount(path: &Path, lazy: bool) -> Result<()> {
    let flags = if lazy { UnmountFlags::DETACH } else { UnmountFlags::empty() } | UnmountFlags::NOFOLLOW;
    match rustix::mount::unmount(path, flags) {
        Ok(()) => Ok(()),
        Err(Errno::BUSY) => Err(MountpointError::Busy { path: path.to_owned() }),
        Err(Errno::PERM) => unmount_by_helper(path, lazy),
        Err(errno) => Err(MountpointError::System("unmount", errno.into())),
    }
}

fn unmount_by_helper(path: &Path, lazy: bool) -> Result<()> {
    let mut command = Command::new("fusermount3");
    command.arg("-u");
    if lazy {
        command.arg("-z");
    }
    let output = command.arg("--").arg(path).stdin(Stdio::null()).output().map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => MountpointError::NoHelper,
        _ => MountpointError::System("run fusermount3", error),
    })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().trim_start_matches("fusermount3: ").to_owned();
    if said.contains("busy") { Err(MountpointError::Busy { path: path.to_owned() }) } else { Err(MountpointError::Helper(said)) }
}

/// Which filesystem is mounted at a path, without asking the one that is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    device: (u32, u32),
    /// Is the path the root of a mount?
    pub is_mount_root: bool,
}

impl Identity {
    /// Device number, as `major:minor` in /proc/self/mountinfo.
    pub fn device(&self) -> String {
        format!("{}:{}", self.device.0, self.device.1)
    }
}

/// What is mounted at `path` now. Does not wait for a daemon that hangs.
///
/// # Errors
/// The errno of statx(2): ENOTCONN where a daemon died and left its mount behind.
pub fn identity(path: &Path) -> std::result::Result<Identity, Errno> {
    use rustix::fs::{AtFlags, CWD};
    let found =
        rustix::fs::statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC, StatxFlags::TYPE)?;
    let is_mount_root = StatxAttributes::from_bits_retain(found.stx_attributes.bits()).contains(StatxAttributes::MOUNT_ROOT);
    Ok(Identity { device: (found.stx_dev_major, found.stx_dev_minor), is_mount_root })
}

/// A line of /proc/self/mountinfo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountLine {
    /// Device number.
    pub device: String,
    /// Where.
    pub path: PathBuf,
    /// Filesystem type with subtype.
    pub kind: String,
    /// What is mounted.
    pub source: String,
    /// Options of the mount, separated by commas.
    pub options: String,
    /// Options of the filesystem, of the same kind.
    pub filesystem_options: String,
}

impl MountLine {
    /// Is it a mounted FerryFS?
    pub fn is_ours(&self) -> bool {
        FILESYSTEM_TYPES.contains(&self.kind.as_str())
    }
}

/// All mounts of this process's namespace, the latest last.
///
/// # Errors
/// /proc that cannot be read.
pub fn mounts() -> std::io::Result<Vec<MountLine>> {
    mounts_in(Path::new("/proc/self"))
}

/// Those of the namespace of a process, given by its directory in /proc.
fn mounts_in(process: &Path) -> std::io::Result<Vec<MountLine>> {
    Ok(std::fs::read(process.join("mountinfo"))?.split(|b| *b == b'\n').filter_map(parse_mount_line).collect())
}

/// Where else the mount of `line` is after it was unmounted in one place, in words; `None`: nowhere that can be seen.
pub fn is_elsewhere(line: &MountLine) -> Option<String> {
    let same = |mounts: std::io::Result<Vec<MountLine>>| {
        let is_same = |other: &MountLine| (&other.device, &other.source, &other.kind) == (&line.device, &line.source, &line.kind);
        mounts.ok()?.into_iter().rfind(is_same)
    };
    if let Some(other) = same(mounts()) {
        return Some(format!("at {}", other.path.display()));
    }
    let namespace = |process: &Path| std::fs::read_link(process.join("ns/mnt")).ok();
    let mut seen: std::collections::HashSet<PathBuf> = namespace(Path::new("/proc/self")).into_iter().collect();
    for entry in std::fs::read_dir("/proc").ok()?.flatten() {
        let (process, number) = (entry.path(), entry.file_name());
        let is_process = number.to_str().is_some_and(|number| number.bytes().all(|b| b.is_ascii_digit()));
        if is_process
            && namespace(&process).is_some_and(|namespace| seen.insert(namespace))
            && let Some(other) = same(mounts_in(&process))
        {
            let name = std::fs::read_to_string(process.join("comm")).unwrap_or_default();
            let (number, name) = (number.display(), name.trim());
            return Some(format!("at {} in the mount namespace of process {number} ({name})", other.path.display()));
        }
    }
    None
}

fn parse_mount_line(line: &[u8]) -> Option<MountLine> {
    use std::os::unix::ffi::OsStringExt;
    let mut fields = line.split(|b| *b == b' ');
    let device = String::from_utf8(fields.nth(2)?.to_vec()).ok()?;
    let path = PathBuf::from(std::ffi::OsString::from_vec(unescape(fields.nth(1)?)));
    let options = String::from_utf8_lossy(fields.next()?).into_owned();
    let mut rest = fields.skip_while(|field| *field != b"-").skip(1);
    let kind = String::from_utf8(unescape(rest.next()?)).ok()?;
    let source = String::from_utf8_lossy(&unescape(rest.next()?)).into_owned();
    let filesystem_options = String::from_utf8_lossy(rest.next().unwrap_or_default()).into_owned();
    Some(MountLine { device, path, kind, source, options, filesystem_options })
}

/// Undoes the kernel's octal escapes (space, tab, newline, backslash).
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut at = 0;
    while at < field.len() {
        let octal = field.get(at + 1..at + 4).filter(|_| field[at] == b'\\');
        let value = octal
            .and_then(|digits| digits.iter().try_fold(0u32, |sum, d| (b'0'..=b'7').contains(d).then(|| sum * 8 + u32::from(d - b'0'))));
        match value.and_then(|value| u8::try_from(value).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 4;
            }
            None => {
                out.push(field[at]);
                at += 1;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_lines_are_read_with_their_escapes() {
        let line = br"36 35 0:45 / /mnt/two\040words rw,noatime shared:1 master:2 - fuse.ferryfs /tmp/a\134b rw,user_id=0";
        let parsed = parse_mount_line(line).unwrap();
        assert_eq!(parsed.device, "0:45");
        assert_eq!(parsed.path, PathBuf::from("/mnt/two words"));
        assert_eq!(parsed.kind, "fuse.ferryfs");
        assert!(parsed.is_ours());
        assert_eq!(parsed.source, r"/tmp/a\b");
        assert_eq!((parsed.options.as_str(), parsed.filesystem_options.as_str()), ("rw,noatime", "rw,user_id=0"));
        assert_eq!(parse_mount_line(b""), None);
        assert_eq!(parse_mount_line(b"1 2 3"), None);
        assert_eq!(unescape(br"\9\04"), br"\9\04");
    }

    #[test]
    fn versions_of_the_kernel_are_compared_by_number() {
        for (release, expected) in [
            ("6.18.44-generic", true),
            ("7.3.0-rc1+deb14", true),
            ("10.0", true),
            ("6.9.1", false),
            ("6.12.38+deb13-amd64", false),
            ("", false),
        ] {
            assert_eq!(is_at_least(release, (6, 18)), expected, "{release}");
        }
    }

    #[test]
    fn options_for_the_kernel_and_for_the_helper() {
        let request = MountRequest { source: r"/a,b\c".into(), allow_other: true, read_only: true, ..MountRequest::default() };
        assert!(kernel_data(&request, 7).starts_with("fd=7,rootmode=40000,"));
        assert!(kernel_data(&request, 7).ends_with(",default_permissions,max_read=262144,allow_other"));
        assert_eq!(
            helper_options(&request),
            r"fsname=/a\,b\\c,subtype=ferryfs,default_permissions,max_read=262144,ro,allow_other,nosuid,nodev"
        );
    }

    #[test]
    fn proc_is_the_root_of_a_mount_and_a_file_in_it_is_not() {
        assert!(identity(Path::new("/proc")).unwrap().is_mount_root);
        assert!(!identity(Path::new("/proc/self")).unwrap().is_mount_root);
        assert!(mounts().unwrap().iter().any(|line| line.path == Path::new("/proc")));
    }
}
