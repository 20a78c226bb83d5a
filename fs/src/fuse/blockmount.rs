//! A mount of type `fuseblk`: the only one for which Linux tells the daemon of syncfs(2) and sync(1), and whose unmounting waits for its last answer.
//!
//! Such a mount wants a block device that nobody else uses, which it opens exclusively and never reads. Ours are in use already (by ourselves, exclusively,
//! which keeps strangers away until the last checkpoint is written), may be several, or may be an image, which is no device at all. So the kernel gets a
//! token: a loop device over a few blocks of memory, which disappears with the mount.
//!
//! The mount is still to be known by what the user named. The kernel shows the path at which it found the block device; so a thread with a mount
//! namespace of its own binds the token over that path, where nobody else sees it, and makes the mount there, detached (fsopen(2), fsmount(2)). It is then
//! attached in the namespace of everybody else.

use super::mountpoint::MountRequest;
use crate::volume::AtimeMode;
use rustix::fs::{CWD, MemfdFlags, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen, mount_bind, mount_change, move_mount,
};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use thiserror::Error;

/// Bytes of a token.
const TOKEN_BYTES: u64 = 64 << 10;
/// Attempts at a free loop device: others look for one, too.
const ATTEMPTS: u32 = 20;

/// Why there is no mount of this type here; one of type `fuse` is made instead.
#[derive(Debug, Error)]
#[error("{step}: {}", std::io::Error::from(*errno))]
pub struct NoBlockMount {
    step: &'static str,
    errno: Errno,
}

type Result<T> = std::result::Result<T, NoBlockMount>;

fn at<T>(step: &'static str, result: std::result::Result<T, Errno>) -> Result<T> {
    result.map_err(|errno| NoBlockMount { step, errno })
}

/// Mounts what `connection` (an open /dev/fuse) will serve.
///
/// # Errors
/// The first step that is not possible here; nothing is left of the others.
pub fn mount(request: &MountRequest, connection: BorrowedFd<'_>, parameters: &[(&str, String)]) -> Result<()> {
    let token = Token::new(&request.source)?;
    let detached = std::thread::scope(|scope| {
        let make = || make_detached(request, connection, parameters, &token.path);
        let thread = std::thread::Builder::new().name("mount".into()).spawn_scoped(scope, make);
        let thread = thread.map_err(|_| NoBlockMount { step: "start a thread", errno: Errno::AGAIN })?;
        thread.join().unwrap_or(Err(NoBlockMount { step: "mount", errno: Errno::IO }))
    })?;
    at("attach the mount", move_mount(&detached, "", CWD, &request.mountpoint, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH))
}

/// Runs on a thread of its own: what happens to its mounts is seen by nobody.
fn make_detached(request: &MountRequest, connection: BorrowedFd<'_>, parameters: &[(&str, String)], token: &str) -> Result<OwnedFd> {
    at("make a mount namespace", unshare_mounts())?;
    at("keep mounts private", mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC))?;
    at("bind the loop device", mount_bind(token, request.source.as_str()))?;
    let context = at("open fuseblk", fsopen("fuseblk", FsOpenFlags::FSOPEN_CLOEXEC))?;
    let set = |key: &str, value: &str| at("set an option of fuseblk", fsconfig_set_string(context.as_fd(), key, value));
    set("source", &request.source)?;
    set("fd", &connection.as_raw_fd().to_string())?;
    for (key, value) in parameters {
        if value.is_empty() {
            at("set an option of fuseblk", fsconfig_set_flag(context.as_fd(), *key))?;
        } else {
            set(key, value)?;
        }
    }
    if request.read_only {
        at("set an option of fuseblk", fsconfig_set_flag(context.as_fd(), "ro"))?;
    }
    at("make the mount", fsconfig_create(context.as_fd()))?;
    let mut attributes = MountAttrFlags::empty();
    attributes.set(MountAttrFlags::MOUNT_ATTR_RDONLY, request.read_only);
    attributes.set(MountAttrFlags::MOUNT_ATTR_NOSUID, request.no_suid);
    attributes.set(MountAttrFlags::MOUNT_ATTR_NODEV, request.no_dev);
    attributes.set(MountAttrFlags::MOUNT_ATTR_NOEXEC, request.no_exec);
    attributes.set(MountAttrFlags::MOUNT_ATTR_NOSYMFOLLOW, request.no_sym_follow);
    attributes.set(MountAttrFlags::MOUNT_ATTR_NODIRATIME, !request.atimes.directories);
    attributes.set(MountAttrFlags::MOUNT_ATTR_NOATIME, request.atimes.mode == AtimeMode::None);
    attributes.set(MountAttrFlags::MOUNT_ATTR_STRICTATIME, request.atimes.mode == AtimeMode::Strict);
    at("make the mount", fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes))
}

fn unshare_mounts() -> std::result::Result<(), Errno> {
    // SAFETY: the flag unshares the mount namespace, and with it the root and working directory, of this thread alone; it has no other effect on the
    // process, and this thread ends when the mount is made.
    if unsafe { libc::unshare(libc::CLONE_NEWNS) } == 0 { Ok(()) } else { Err(last_errno()) }
}

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// A loop device over memory, gone when its last user is: first this, then the mount.
struct Token {
    path: String,
    _device: OwnedFd,
}

/// `struct loop_info64` of linux/loop.h.
#[repr(C)]
struct LoopInfo {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}
const _: () = assert!(size_of::<LoopInfo>() == 232);

/// `struct loop_config` of linux/loop.h.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo,
    reserved: [u64; 8],
}
const _: () = assert!(size_of::<LoopConfig>() == 304);

const LOOP_CTL_GET_FREE: libc::c_ulong = 0x4c82;
const LOOP_CONFIGURE: libc::c_ulong = 0x4c0a;
const LO_FLAGS_AUTOCLEAR: u32 = 4;

impl Token {
    /// `named` is what losetup(8) shows as its file.
    fn new(named: &str) -> Result<Self> {
        let control = at("open /dev/loop-control", open("/dev/loop-control"))?;
        let memory = at("take memory for a loop device", rustix::fs::memfd_create("ferryfs mount", MemfdFlags::CLOEXEC))?;
        at("take memory for a loop device", rustix::fs::ftruncate(&memory, TOKEN_BYTES))?;
        let mut refusal = Errno::BUSY;
        for _ in 0..ATTEMPTS {
            let number = at("find a free loop device", free_loop(&control))?;
            let path = format!("/dev/loop{number}");
            match open(&path).and_then(|device| configure(&device, &memory, named).map(|()| device)) {
                Ok(device) => return Ok(Self { path, _device: device }),
                // Somebody else took it; or its node is not there yet.
                Err(errno) => refusal = errno,
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        Err(NoBlockMount { step: "set up a loop device", errno: refusal })
    }
}

fn open(path: &str) -> std::result::Result<OwnedFd, Errno> {
    rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
}

fn free_loop(control: &OwnedFd) -> std::result::Result<RawFd, Errno> {
    // SAFETY: the command takes no argument and returns a number.
    let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) };
    if number < 0 { Err(last_errno()) } else { Ok(number) }
}

fn configure(device: &OwnedFd, memory: &OwnedFd, named: &str) -> std::result::Result<(), Errno> {
    let mut file_name = [0; 64];
    let shown = format!("ferryfs:{named}");
    let len = shown.len().min(file_name.len() - 1);
    file_name[..len].copy_from_slice(&shown.as_bytes()[..len]);
    let info = LoopInfo {
        device: 0,
        inode: 0,
        rdevice: 0,
        offset: 0,
        size_limit: 0,
        number: 0,
        encrypt_type: 0,
        encrypt_key_size: 0,
        flags: LO_FLAGS_AUTOCLEAR,
        file_name,
        crypt_name: [0; 64],
        encrypt_key: [0; 32],
        init: [0; 2],
    };
    let config = LoopConfig { fd: memory.as_raw_fd().unsigned_abs(), block_size: 0, info, reserved: [0; 8] };
    // SAFETY: the command reads a `struct loop_config`, which this is, and keeps no pointer to it.
    let done = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE, &raw const config) };
    if done < 0 { Err(last_errno()) } else { Ok(()) }
}
