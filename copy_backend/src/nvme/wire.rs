//! The seam to the kernel: one open namespace.

use super::command::IoCommand;
use crate::backend::NoRoad;
use crate::topology::RealDevice;
use std::sync::Arc;

/// What came back for a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// From the device.
    Device {
        /// Status code and type (bits 10:0) and do-not-retry (bit 14); 0: success.
        status: u16,
        /// Dword 0 of the completion.
        dw0: u32,
    },
    /// From the kernel: the device has not seen the command, or its answer is lost.
    Kernel {
        /// Why.
        errno: i32,
    },
}

/// An admin command with data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdminCommand {
    /// Opcode.
    pub opcode: u8,
    /// Namespace.
    pub nsid: u32,
    /// CDW10.
    pub cdw10: u32,
    /// CDW11.
    pub cdw11: u32,
}

/// Names a command under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tag(pub u64);

/// An open namespace.
pub trait Wire: Send + Sync {
    /// Its id.
    ///
    /// # Errors
    /// In words.
    fn nsid(&self) -> Result<u32, String>;
    /// Sends an admin command and waits; `data` goes both ways.
    fn admin(&self, command: AdminCommand, data: &mut [u8]) -> Answer;
    /// Starts an I/O command.
    fn start(&self, command: IoCommand) -> Tag;
    /// Waits for it. Each tag is finished once.
    fn finish(&self, tag: Tag) -> Answer;
}

/// Where namespaces are opened.
pub trait Port: Send + Sync {
    /// Opens the namespace that a real device is.
    ///
    /// # Errors
    /// Why not; foreign if it is no NVMe namespace at all.
    fn open(&self, device: &RealDevice) -> Result<Arc<dyn Wire>, NoRoad>;
}
