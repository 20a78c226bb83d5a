//! How data gets to a block device or file and back: by io_uring where that is possible, else by calls in the submitting thread.
//!
//! Both ways take the same chains and give the same outcomes, so that devices need not know which one it is.

use crate::buffer::{AlignedBuf, BufSlice};
use crate::device::IoClass;
use crate::media::Media;
use crate::positioned::{Stopped, read_at, write_parts_at};
use crate::uring::{BatchTicket, DEFAULT_DEPTH, Executor, Outcome, Transfer};
use rustix::io::Errno;

/// An open device or file and the way to it.
#[derive(Debug)]
pub(crate) struct Transport {
    /// Before the media, so that it is dropped first: what is in flight ends before the lock does.
    way: Way,
    /// What the data lies on.
    pub media: Media,
}

#[derive(Debug)]
enum Way {
    Ring(Executor),
    /// Calls, for this reason.
    Calls(String),
}

/// Chains under way.
#[derive(Debug)]
pub(crate) enum Running {
    Ring(BatchTicket),
    Done(Vec<Outcome>),
}

impl Transport {
    pub(crate) fn new(media: Media) -> Self {
        let way = if media.in_memory {
            Way::Calls("its file system lives in memory".to_owned())
        } else if media.direct {
            Executor::new(&media.file, DEFAULT_DEPTH)
                .map_or_else(|error| Way::Calls(format!("the kernel gives us no io_uring ({error})")), Way::Ring)
        } else {
            Way::Calls("its file system takes no O_DIRECT".to_owned())
        };
        Self { way, media }
    }

    /// The way in words; where it is not the best one, with the reason.
    pub(crate) fn describe(&self) -> String {
        let cache = if self.media.direct { "direct" } else { "buffered" };
        match &self.way {
            Way::Ring(_) => format!("{cache} io_uring"),
            Way::Calls(reason) => format!("{cache} pread and pwrite, because {reason}"),
        }
    }

    /// Starts chains of transfers.
    pub(crate) fn submit(&self, chains: Vec<Vec<Transfer>>, class: IoClass) -> Running {
        match &self.way {
            Way::Ring(executor) if !chains.is_empty() => Running::Ring(executor.submit(chains, class)),
            _ => Running::Done(chains.into_iter().flat_map(|chain| self.carry_out(chain)).collect()),
        }
    }

    /// Waits for them; outcomes in the order of the transfers.
    pub(crate) fn wait(&self, running: Running) -> Vec<Outcome> {
        match (running, &self.way) {
            (Running::Done(outcomes), _) => outcomes,
            (Running::Ring(ticket), Way::Ring(executor)) => executor.wait(&ticket),
            (Running::Ring(_), Way::Calls(_)) => Vec::new(),
        }
    }

    /// A chain by calls.
    fn carry_out(&self, chain: Vec<Transfer>) -> Vec<Outcome> {
        let mut failed = false;
        let mut run = |transfer| {
            if failed {
                return Outcome { transferred: 0, errno: Some(libc::ECANCELED), buf: None };
            }
            let outcome = self.call(transfer);
            failed = outcome.errno.is_some();
            outcome
        };
        chain.into_iter().map(&mut run).collect()
    }

    fn call(&self, transfer: Transfer) -> Outcome {
        match transfer {
            Transfer::Read { offset, mut buf } => {
                let (transferred, errno) = match read_at(&self.media.file, offset, &mut buf) {
                    Ok(count) if count == buf.len() => (count, None),
                    Ok(count) => (count, Some(libc::EIO)),
                    Err(errno) => (0, Some(errno.raw_os_error())),
                };
                Outcome { transferred: transferred as u64, errno, buf: Some(buf) }
            }
            Transfer::Write { offset, data } => {
                let len = data.iter().map(|part| part.len() as u64).sum();
                let (transferred, errno) = match self.write_parts(offset, &data) {
                    Ok(()) => (len, None),
                    Err(stop) => (stop.done, Some(stop.errno.raw_os_error())),
                };
                Outcome { transferred, errno, buf: None }
            }
        }
    }

    /// Reads at once, in this thread: for one range quicker than the way through the ring.
    pub(crate) fn read(&self, offset: u64, buf: &mut AlignedBuf) -> Result<(), Errno> {
        let count = read_at(&self.media.file, offset, buf)?;
        if count < buf.len() { Err(Errno::IO) } else { Ok(()) }
    }

    /// Writes at once, in this thread.
    pub(crate) fn write(&self, offset: u64, data: &[BufSlice]) -> Result<(), Stopped> {
        self.write_parts(offset, &self.media.transferable(data))
    }

    fn write_parts(&self, offset: u64, data: &[BufSlice]) -> Result<(), Stopped> {
        write_parts_at(&self.media.file, offset, data.iter().map(|part| &part[..]))
    }
}

/// What a transfer became if its outcome is missing.
pub(crate) fn lost() -> Outcome {
    Outcome { transferred: 0, errno: Some(libc::EIO), buf: None }
}

/// Ways that are hard to come by.
#[cfg(test)]
impl Transport {
    pub(crate) fn pretend_no_ring(&mut self) {
        self.way = Way::Calls("the test says so".to_owned());
    }
    /// From now on through another descriptor.
    pub(crate) fn use_file(&mut self, file: std::fs::File) {
        if let (Way::Ring(_), Ok(executor)) = (&self.way, Executor::new(&file, 8)) {
            self.way = Way::Ring(executor);
        }
        self.media.file = file;
    }
}
