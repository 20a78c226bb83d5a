//! Namespaces as Linux gives them: the character device (/dev/ngXnY) with a ring, else ioctls, at need on the block device.
//!
//! Commands are only ever sent to whole namespaces; the topology has seen to that. Linux, drivers/nvme/host/ioctl.c.

use super::command::IoCommand;
use super::ring::{Ring, TIMEOUT_MS};
use super::wire::{AdminCommand, Answer, Port, Tag, Wire};
use crate::backend::NoRoad;
use crate::topology::RealDevice;
use crate::workers::{Lost, Workers};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use zns::Ticket;

/// `_IO('N', 0x40)`.
const NVME_IOCTL_ID: u64 = 0x4e40;
/// `_IOWR('N', 0x47, struct nvme_passthru_cmd64)` and 0x48.
const NVME_IOCTL_ADMIN64_CMD: u64 = 0xc050_4e47;
const NVME_IOCTL_IO64_CMD: u64 = 0xc050_4e48;
/// Commands side by side where there is no ring.
const THREADS: usize = 8;

/// This computer.
#[derive(Clone, Copy, Debug, Default)]
pub struct LinuxPort;

impl Port for LinuxPort {
    fn open(&self, device: &RealDevice) -> Result<Arc<dyn Wire>, NoRoad> {
        let name = &device.name;
        let Some(rest) = name.strip_prefix("nvme").filter(|rest| rest.starts_with(|c: char| c.is_ascii_digit())) else {
            return Err(NoRoad::foreign(format!("{name} is not an NVMe namespace")));
        };
        let open = |path: &Path| OpenOptions::new().read(true).write(true).open(path);
        let character = format!("/dev/ng{rest}");
        let (file, ring) = match open(Path::new(&character)).and_then(|file| is_generic(&file, rest).map(|()| file)) {
            Ok(file) => {
                let ring = file.try_clone().and_then(Ring::new);
                if let Err(error) = &ring {
                    tracing::info!(%name, %error, "no io_uring with large entries: copies go by ioctl");
                }
                (file, ring.ok())
            }
            // The node may be missing where the block device's is not.
            Err(first) => match open(&device.path) {
                Ok(file) => (file, None),
                Err(second) => {
                    let why = |path: &Path, error| zns::permission::not_opened_io(path, true, error);
                    let (first, second) = (why(Path::new(&character), &first), why(&device.path, &second));
                    return Err(format!("{first}; {second}").into());
                }
            },
        };
        let ioctls = Workers::new("copy-nvme", THREADS);
        Ok(Arc::new(LinuxWire { file: Arc::new(file), ring, ioctls, flying: Mutex::default(), next: AtomicU64::new(0) }))
    }
}

/// A node in /dev may be older than the drive that has its name now; a command by such a node would go to another drive.
fn is_generic(file: &File, rest: &str) -> io::Result<()> {
    let number = file.metadata()?.rdev();
    let named = std::fs::read_to_string(format!("/sys/class/nvme-generic/ng{rest}/dev"))?;
    if named.trim() == format!("{}:{}", rustix::fs::major(number), rustix::fs::minor(number)) {
        return Ok(());
    }
    Err(io::Error::other(format!("it is not the device that the kernel calls ng{rest} (number {})", named.trim())))
}

enum Flying {
    /// In the ring; kept to be sent again should the kernel not know the way.
    Ring(Box<IoCommand>),
    Ioctl(Ticket),
}

struct LinuxWire {
    file: Arc<File>,
    ring: Option<Ring>,
    ioctls: Workers<Answer>,
    flying: Mutex<HashMap<u64, Flying>>,
    next: AtomicU64,
}

/// `struct nvme_passthru_cmd64`.
#[repr(C)]
#[derive(Default)]
struct Passthrough {
    opcode: u8,
    flags: u8,
    reserved: u16,
    nsid: u32,
    cdw2: [u32; 2],
    metadata: u64,
    addr: u64,
    metadata_len: u32,
    data_len: u32,
    cdw10: [u32; 6],
    timeout_ms: u32,
    reserved2: u32,
    result: u64,
}
const _: () = assert!(std::mem::size_of::<Passthrough>() == 80);

fn passthrough(file: &File, request: u64, mut command: Passthrough, data: &mut [u8]) -> Answer {
    command.addr = data.as_mut_ptr().addr() as u64;
    command.data_len = data.len() as u32;
    command.timeout_ms = TIMEOUT_MS;
    // SAFETY: the request takes a `struct nvme_passthru_cmd64`; its address and length are those of `data`, which is borrowed
    // exclusively and outlives the call, so that the kernel may read and write it.
    let outcome = unsafe { libc::ioctl(file.as_raw_fd(), request as _, &raw mut command) };
    match outcome {
        ..0 => Answer::Kernel { errno: io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO) },
        status => Answer::Device { status: (status & 0x7fff) as u16, dw0: command.result as u32 },
    }
}

/// Why a namespace does not say its number. This is the first thing that a kernel, or the filter of a container, is asked of passthrough.
fn no_namespace(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ENOTTY | libc::ENOSYS | libc::EOPNOTSUPP) => {
            format!("there is no passthrough of NVMe commands for programs here ({error})")
        }
        _ => format!("it does not say its namespace: {error}"),
    }
}

fn io_by_ioctl(file: &File, command: &IoCommand) -> Answer {
    let IoCommand { opcode, nsid, cdw2, cdw10, ref data } = *command;
    passthrough(file, NVME_IOCTL_IO64_CMD, Passthrough { opcode, nsid, cdw2, cdw10, ..Passthrough::default() }, &mut data.clone())
}

impl Lost for Answer {
    fn lost() -> Self {
        Self::Kernel { errno: libc::EIO }
    }
}

impl Wire for LinuxWire {
    fn nsid(&self) -> Result<u32, String> {
        // SAFETY: the request takes no argument.
        let nsid = unsafe { libc::ioctl(self.file.as_raw_fd(), NVME_IOCTL_ID as _) };
        match u32::try_from(nsid) {
            Ok(nsid) if nsid > 0 => Ok(nsid),
            Ok(_) => Err("it says that its namespace is number 0".into()),
            Err(_) => Err(no_namespace(&io::Error::last_os_error())),
        }
    }

    fn admin(&self, command: AdminCommand, data: &mut [u8]) -> Answer {
        let AdminCommand { opcode, nsid, cdw10, cdw11 } = command;
        let command = Passthrough { opcode, nsid, cdw10: [cdw10, cdw11, 0, 0, 0, 0], ..Passthrough::default() };
        passthrough(&self.file, NVME_IOCTL_ADMIN64_CMD, command, data)
    }

    fn start(&self, command: IoCommand) -> Tag {
        let tag = self.next.fetch_add(1, Ordering::Relaxed);
        let flying = match &self.ring {
            Some(ring) => {
                ring.start(tag, &command);
                Flying::Ring(Box::new(command))
            }
            None => {
                let file = self.file.clone();
                Flying::Ioctl(self.ioctls.submit(move || io_by_ioctl(&file, &command)))
            }
        };
        self.flying.lock().insert(tag, flying);
        Tag(tag)
    }

    fn finish(&self, tag: Tag) -> Answer {
        let flying = self.flying.lock().remove(&tag.0);
        match (flying, &self.ring) {
            (Some(Flying::Ioctl(ticket)), _) => self.ioctls.complete(ticket),
            (Some(Flying::Ring(command)), Some(ring)) => match ring.finish(tag.0) {
                // A kernel that does not know this way has sent nothing.
                Answer::Kernel { errno: libc::EOPNOTSUPP | libc::ENOTTY | libc::ENOSYS } => io_by_ioctl(&self.file, &command),
                answer => answer,
            },
            _ => Answer::lost(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// /dev/zero takes no command by io_uring (EOPNOTSUPP) and none by ioctl (ENOTTY): the second answer says that both ways were gone.
    #[test]
    fn a_kernel_that_takes_no_command_by_the_ring_is_asked_by_ioctl() {
        let file = File::open("/dev/zero").unwrap();
        let ring = Ring::new(file.try_clone().unwrap()).expect("a ring with large entries");
        let command = || IoCommand { opcode: 0x19, nsid: 1, cdw2: [0; 2], cdw10: [0; 6], data: vec![0; 64] };
        ring.start(1, &command());
        assert!(matches!(ring.finish(1), Answer::Kernel { errno: libc::EOPNOTSUPP }), "what the ring alone says");
        let ioctls = Workers::new("test", 1);
        let wire = LinuxWire { file: Arc::new(file), ring: Some(ring), ioctls, flying: Mutex::default(), next: AtomicU64::new(2) };
        let tag = wire.start(command());
        assert!(matches!(wire.finish(tag), Answer::Kernel { errno: libc::ENOTTY }));
    }

    /// Whatever stands in the place of a drive's character device is not asked.
    #[test]
    fn a_node_of_another_device_is_not_taken() {
        let file = File::open("/dev/zero").unwrap();
        assert!(is_generic(&file, "12345n1").is_err());
    }
}
