//! A mount of type `fuseblk`: the only one for which Linux tells the daemon of syncfs(2) and sync(1), and whose unmounting waits for its last answer.
//!
//! Such a mount wants a block device that nobody else uses, which it opens exclusively and never reads. Ours are in use already (by ourselves, exclusively,
//! which keeps strangers away until the last checkpoint is written), may be several, or may be an image, which is no device at all. So the kernel gets a
//! token: a loop device over a few blocks of memory, which disappears with the mount.
//!
//! The mount is still to be known by what the user named. The kernel shows the path at which it found the block device; so a thread with a root directory
//! of its own, an empty filesystem in memory that is mounted nowhere, makes a node of the token at that path, where nobody else sees it, and makes the mount
//! there, detached (fsopen(2), fsmount(2)). It is then attached where everybody else lives. A mount namespace for the thread would do as well, but it
//! begins as a copy of every mount there is, and holds them all while it lives: another volume that is unmounted in that moment would not end with its
//! umount(2). Both the root directory and the node need capabilities that a daemon does not keep; so a [`Place`] is made before it gives them up.

use super::mountpoint::MountRequest;
use crate::volume::AtimeMode;
use rustix::fs::{CWD, Dev, FileType, MemfdFlags, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen,
    move_mount,
};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;
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

/// A thread from which a mount of this type can be made, waiting to be told what to mount.
pub struct Place {
    jobs: SyncSender<Job>,
    thread: JoinHandle<()>,
    _token: Token,
}

type Job = Box<dyn FnOnce() + Send>;

impl Place {
    /// `source`: what the mount is to be known by, an absolute path. `give_up` is called on the thread when it needs no more than making the mount does.
    ///
    /// # Errors
    /// The first step that is not possible here; nothing is left of the others.
    pub fn new(source: &str, give_up: impl FnOnce() -> rustix::io::Result<()> + Send + 'static) -> Result<Self> {
        let token = Token::new(source)?;
        let (number, path) = (token.number, PathBuf::from(source));
        let (jobs, job) = sync_channel::<Job>(1);
        let (ready, wait) = sync_channel(1);
        let run = move || {
            let done = at("have a root directory of its own", empty_root())
                .and_then(|()| at("make a node of the loop device", node(&path, number)))
                .and_then(|()| at("give up capabilities", give_up()));
            let failed = done.is_err();
            if ready.send(done).is_ok()
                && !failed
                && let Ok(job) = job.recv()
            {
                job();
            }
        };
        let no_thread = NoBlockMount { step: "start a thread", errno: Errno::AGAIN };
        let thread = std::thread::Builder::new().name("mount".into()).spawn(run).map_err(|_| no_thread)?;
        wait.recv().unwrap_or(Err(NoBlockMount { step: "start a thread", errno: Errno::IO }))?;
        Ok(Self { jobs, thread, _token: token })
    }

    /// Mounts what `connection` (an open /dev/fuse) will serve.
    ///
    /// # Errors
    /// The first step that is not possible here; nothing is left of the others.
    pub fn mount(self, request: &MountRequest, connection: &OwnedFd, parameters: Vec<(&'static str, String)>) -> Result<()> {
        let ended = |_| NoBlockMount { step: "make the mount", errno: Errno::IO };
        let connection = connection.try_clone().map_err(|_| NoBlockMount { step: "have one more file open", errno: Errno::MFILE })?;
        let (made, wait) = sync_channel(1);
        let detached = request.clone();
        let job = move || drop(made.send(make_detached(&detached, connection.as_fd(), &parameters)));
        self.jobs.send(Box::new(job)).map_err(|_| NoBlockMount { step: "make the mount", errno: Errno::IO })?;
        let detached = wait.recv().map_err(ended)??;
        let _ = self.thread.join();
        at("attach the mount", move_mount(&detached, "", CWD, &request.mountpoint, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH))
    }
}

/// Runs on a thread whose root directory is seen by nobody else.
fn make_detached(request: &MountRequest, connection: BorrowedFd<'_>, parameters: &[(&str, String)]) -> Result<OwnedFd> {
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

/// From here on, paths of this thread (of no other) begin in an empty filesystem in memory, which disappears with the thread.
fn empty_root() -> std::result::Result<(), Errno> {
    let memory = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(memory.as_fd())?;
    let root = fsmount(memory.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    // SAFETY: the flag unshares the root and working directory of this thread alone, and has no other effect on the process; the thread ends when the mount
    // is made.
    if unsafe { libc::unshare(libc::CLONE_FS) } != 0 {
        return Err(last_errno());
    }
    rustix::process::fchdir(&root)?;
    rustix::process::chroot(".")
}

/// A node of a block device at `path`, and the directories above it.
fn node(path: &Path, device: Dev) -> std::result::Result<(), Errno> {
    for directory in path.ancestors().skip(1).collect::<Vec<_>>().into_iter().rev() {
        match rustix::fs::mkdir(directory, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            // The empty path, above a relative one.
            Err(Errno::NOENT) if directory.as_os_str().is_empty() => {}
            Err(errno) => return Err(errno),
        }
    }
    rustix::fs::mknodat(CWD, path, FileType::BlockDevice, Mode::RUSR | Mode::WUSR, device)
}

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// A loop device over memory, gone when its last user is: first this, then the mount.
struct Token {
    number: Dev,
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
                Ok(device) => {
                    let number = at("look at a loop device", rustix::fs::fstat(&device))?.st_rdev;
                    return Ok(Self { number, _device: device });
                }
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
