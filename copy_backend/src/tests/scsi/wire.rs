//! The target in memory at the seam where commands would go to the kernel.

use crate::scsi::{Data, Reply, ScsiTransport, TransportError};
use parking_lot::{Mutex, MutexGuard};
use scsi_target::Target;
use std::sync::Arc;
use std::time::Duration;

/// A way to one disk of a target.
#[derive(Clone)]
pub struct Wire {
    target: Arc<Mutex<Target>>,
    disk: usize,
}

impl Wire {
    /// A way to the first disk.
    pub fn new(target: Target) -> Self {
        Self { target: Arc::new(Mutex::new(target)), disk: 0 }
    }

    /// A way to another disk of the same target.
    pub fn to(&self, disk: usize) -> Self {
        Self { target: self.target.clone(), disk }
    }

    /// The target itself.
    pub fn target(&self) -> MutexGuard<'_, Target> {
        self.target.lock()
    }
}

impl ScsiTransport for Wire {
    fn execute(&self, cdb: &[u8], data: Data<'_>, _timeout: Duration) -> Result<Reply, TransportError> {
        let out = if let Data::Out(bytes) = &data { *bytes } else { &[] };
        let response = self.target.lock().execute(self.disk, cdb, out);
        let mut transferred = out.len();
        if let Data::In(room) = data {
            transferred = response.data.len().min(room.len());
            room[..transferred].copy_from_slice(&response.data[..transferred]);
        }
        Ok(Reply { status: response.status, sense: response.sense, transferred })
    }

    fn label(&self) -> String {
        format!("disk {}", self.disk)
    }

    fn wait(&self, time: Duration) {
        self.target.lock().advance(time.as_millis() as u64);
    }
}
