//! The seam: a command goes to one logical unit, its status comes back.

use std::time::Duration;
use thiserror::Error;

/// What a command carries.
#[derive(Debug)]
pub enum Data<'a> {
    /// Nothing.
    None,
    /// Parameters for the device.
    Out(&'a [u8]),
    /// Room for the device's answer.
    In(&'a mut [u8]),
}

/// How a command ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// The SCSI status: 0 is GOOD, 2 CHECK CONDITION.
    pub status: u8,
    /// Sense data as it came; empty where there is none.
    pub sense: Vec<u8>,
    /// Bytes moved in the direction of the data.
    pub transferred: usize,
}

/// A command that got no status.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum TransportError {
    /// What is asked takes no SCSI commands (ENOTTY, EINVAL).
    #[error("it takes no SCSI commands")]
    NotScsi,
    /// The kernel does not let us send this command.
    #[error("the kernel does not permit the command: it needs CAP_SYS_RAWIO and a descriptor open for writing")]
    NotPermitted,
    /// The device is gone.
    #[error("the device is gone")]
    Gone,
    /// The host adapter or the kernel's SCSI layer failed the command (DID_* and DRIVER_* of Linux). It may have been carried out.
    #[error("the transport failed (host status {host:#x}, driver status {driver:#x})")]
    Host {
        /// DID_*.
        host: u16,
        /// DRIVER_*.
        driver: u16,
    },
    /// Another error of the system.
    #[error("{}", std::io::Error::from_raw_os_error(*.errno))]
    System {
        /// Its number.
        errno: i32,
    },
}

/// A way to one logical unit.
pub trait ScsiTransport: Send + Sync {
    /// Carries out one command and waits for it.
    ///
    /// # Errors
    /// Only when there is no SCSI status to report.
    fn execute(&self, cdb: &[u8], data: Data<'_>, timeout: Duration) -> Result<Reply, TransportError>;

    /// A path or name for people.
    fn label(&self) -> String;

    /// Lets time pass while the device works.
    fn wait(&self, time: Duration) {
        std::thread::sleep(time);
    }
}
