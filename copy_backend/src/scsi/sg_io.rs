//! SG_IO of Linux (`scsi/sg.h`): the way to a real logical unit, through its block device.

use crate::scsi::transport::{Data, Reply, ScsiTransport, TransportError};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// `SG_IO` of `scsi/sg.h`.
const SG_IO: libc::c_ulong = 0x2285;
const SG_DXFER_NONE: i32 = -1;
const SG_DXFER_TO_DEV: i32 = -2;
const SG_DXFER_FROM_DEV: i32 = -3;
const SENSE_BYTES: usize = 252;
/// DRIVER_SENSE and SUGGEST_* of old kernels: sense data came along, nothing else is wrong.
const DRIVER_SENSE: u16 = 0x08;

/// `struct sg_io_hdr`.
#[repr(C)]
struct Header {
    interface_id: i32,
    dxfer_direction: i32,
    cmd_len: u8,
    mx_sb_len: u8,
    iovec_count: u16,
    dxfer_len: u32,
    dxferp: *mut libc::c_void,
    cmdp: *const u8,
    sbp: *mut u8,
    timeout: u32,
    flags: u32,
    pack_id: i32,
    usr_ptr: *mut libc::c_void,
    status: u8,
    masked_status: u8,
    msg_status: u8,
    sb_len_wr: u8,
    host_status: u16,
    driver_status: u16,
    resid: i32,
    duration: u32,
    info: u32,
}

const _: () = assert!(size_of::<Header>() == if size_of::<usize>() == 8 { 88 } else { 64 });

/// An open SCSI block device (or its generic character device).
#[derive(Debug)]
pub struct SgDevice {
    file: File,
    path: PathBuf,
}

impl SgDevice {
    /// Opens `path` for commands. Not exclusively: the block device may be in use by ourselves.
    ///
    /// # Errors
    /// The system's.
    pub fn open(path: &Path, read_only: bool) -> std::io::Result<Self> {
        let file = std::fs::OpenOptions::new().read(true).write(!read_only).open(path)?;
        Ok(Self { file, path: path.to_owned() })
    }
}

impl ScsiTransport for SgDevice {
    fn execute(&self, cdb: &[u8], data: Data<'_>, timeout: Duration) -> Result<Reply, TransportError> {
        let (direction, len, pointer) = match data {
            Data::None => (SG_DXFER_NONE, 0, std::ptr::null_mut()),
            Data::Out(bytes) => (SG_DXFER_TO_DEV, bytes.len(), bytes.as_ptr().cast_mut().cast()),
            Data::In(bytes) => (SG_DXFER_FROM_DEV, bytes.len(), bytes.as_mut_ptr().cast()),
        };
        let mut sense = vec![0; SENSE_BYTES];
        let (Ok(cmd_len), Ok(dxfer_len)) = (u8::try_from(cdb.len()), u32::try_from(len)) else {
            return Err(TransportError::System { errno: libc::EINVAL });
        };
        let mut header = Header {
            interface_id: i32::from(b'S'),
            dxfer_direction: direction,
            cmd_len,
            mx_sb_len: SENSE_BYTES as u8,
            iovec_count: 0,
            dxfer_len,
            dxferp: pointer,
            cmdp: cdb.as_ptr(),
            sbp: sense.as_mut_ptr(),
            timeout: u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX),
            flags: 0,
            pack_id: 0,
            usr_ptr: std::ptr::null_mut(),
            status: 0,
            masked_status: 0,
            msg_status: 0,
            sb_len_wr: 0,
            host_status: 0,
            driver_status: 0,
            resid: 0,
            duration: 0,
            info: 0,
        };
        // SAFETY: SG_IO reads and writes one `sg_io_hdr`, whose layout `Header` has. Its pointers lead to the command, to the data with
        // its length (written to only for SG_DXFER_FROM_DEV, which we have borrowed mutably) and to room for the sense data; all of them
        // outlive the call, which returns when the command has ended.
        let outcome = unsafe { libc::ioctl(self.file.as_raw_fd(), SG_IO as _, &raw mut header) };
        if outcome != 0 {
            return Err(refusal(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)));
        }
        let sense_only = header.driver_status & 0xf == DRIVER_SENSE;
        if header.host_status != 0 || (header.driver_status != 0 && !sense_only) {
            return Err(TransportError::Host { host: header.host_status, driver: header.driver_status });
        }
        sense.truncate(usize::from(header.sb_len_wr));
        let left = usize::try_from(header.resid).unwrap_or(0);
        Ok(Reply { status: header.status, sense, transferred: len.saturating_sub(left) })
    }

    fn label(&self) -> String {
        self.path.display().to_string()
    }
}

fn refusal(errno: i32) -> TransportError {
    match errno {
        libc::ENOTTY | libc::EINVAL | libc::EOPNOTSUPP => TransportError::NotScsi,
        libc::EPERM | libc::EACCES => TransportError::NotPermitted,
        libc::ENODEV | libc::ENXIO => TransportError::Gone,
        errno => TransportError::System { errno },
    }
}
