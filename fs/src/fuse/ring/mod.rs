//! The connection over io_uring: requests are taken and answers are given by commands of a ring, one system call for an answer and the next request.
//!
//! The kernel has a queue for each processor, and a request goes to that of the processor on which somebody asks. Each processor has a few threads here, each
//! with a ring of its own and one entry in it to begin with. So an entry is offered to the kernel only while its thread waits: what is asked meanwhile goes to
//! another thread or lies in the queue of the kernel. A request that is handed to another thread (`lanes`) takes its entry with it, and the thread of the ring
//! offers another one; both are offered again when they are answered, so after the first such request a short one may lie behind a thread that is busy.
//!
//! What the kernel tells without awaiting an answer (FORGET, INTERRUPT), and what we tell it unasked, goes by the channel as before.

mod cpus;
mod entry;
mod queue;
mod uring;

use super::channel::{Channel, Reply};
use super::lanes::Crew;
use super::wire::Request;
pub(super) use entry::Awaiting;
use queue::{Queue, Seat};
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

/// Threads for each processor: while one waits for the device, another one takes requests.
const THREADS_PER_CPU: usize = 2;
/// More processors than that have one thread each: there are enough of them.
const FEW_CPUS: usize = 8;
/// Above that many the memory of the kernel and the threads cost more than they bring.
const MOST_CPUS: usize = 256;

/// How requests are to come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// As is best as far as it was measured: so far by read(2) from /dev/fuse, whatever the kernel offers.
    #[default]
    Best,
    /// By read(2) from /dev/fuse.
    Device,
    /// Over io_uring, or not at all.
    Ring,
}

/// Answers a request.
pub(super) type Answer = dyn Fn(Request<'_>, Reply) + Send + Sync;

type Thread = JoinHandle<io::Result<()>>;

/// The rings of a connection, made but not yet known to it.
pub(super) struct Prepared {
    threads: Vec<(Sender<Arc<Answer>>, Thread)>,
    registered: Receiver<io::Result<()>>,
}

/// Their threads at work.
#[derive(Default)]
pub(super) struct Running {
    /// They end when the kernel lets go of the connection.
    pub(super) threads: Vec<Thread>,
    /// Why the kernel has not taken them: it sends its requests by the channel.
    pub(super) refused: Option<io::Error>,
}

impl Prepared {
    /// Makes rings and threads for writes of up to `max_write` bytes.
    ///
    /// # Errors
    /// What is missing: everything that the kernel can refuse before it knows of them.
    pub(super) fn new(connection: &Channel, max_write: u32) -> io::Result<Self> {
        let room = room(max_write);
        let cpus = cpus::cpus()?;
        if cpus.possible > MOST_CPUS {
            return Err(io::Error::other(format!("{} processors are too many", cpus.possible)));
        }
        let (report, reports) = channel();
        let mut threads = Vec::new();
        for seat in seats(&cpus) {
            let (go, start) = channel();
            let (report, connection) = (report.clone(), connection.clone());
            let name = format!("fuse-ring-{}", seat.home());
            let work = move || work(seat, connection, room, &report, &start);
            threads.push((go, std::thread::Builder::new().name(name).spawn(work)?));
        }
        drop(report);
        let prepared = Self { threads, registered: reports };
        prepared.all()?;
        Ok(prepared)
    }

    /// Waits for a word of each thread.
    fn all(&self) -> io::Result<()> {
        let mut outcome = Ok(());
        for _ in &self.threads {
            let said = self.registered.recv().unwrap_or_else(|_| Err(io::Error::other("a thread of the ring is gone")));
            outcome = outcome.and(said);
        }
        outcome
    }

    /// Offers all entries to the kernel, which has agreed to use them and sends no request before it has them. Where it takes one not, it goes on as if nothing had been agreed on.
    pub(super) fn start(self, answer: &Arc<Answer>) -> Running {
        for (go, _) in &self.threads {
            // A thread that is gone is missed below.
            let _ = go.send(answer.clone());
        }
        let refused = self.all().err();
        Running { threads: self.threads.into_iter().map(|(_, thread)| thread).collect(), refused }
    }
}

/// What the kernel wants for a payload: the largest write, and as many of its pages as a request may have.
fn room(max_write: u32) -> usize {
    /// Of the pages that the handshake counts in.
    const PAGE: usize = 4096;
    /// FUSE_MIN_READ_BUFFER
    const LEAST: usize = 8192;
    let most = max_write as usize;
    most.div_ceil(PAGE).saturating_mul(rustix::param::page_size()).max(most).max(LEAST)
}

/// Who sits where. Queues of processors that do not run get an entry, too; nobody asks there, but the kernel wants to see it.
fn seats(cpus: &cpus::Cpus) -> Vec<Seat> {
    let online: Vec<usize> = cpus.online.iter().copied().filter(|cpu| *cpu < cpus.possible).collect();
    let each = if online.len() <= FEW_CPUS { THREADS_PER_CPU } else { 1 };
    let of = |cpu: &usize| std::iter::repeat_n(Seat::new(*cpu, Arc::new(Crew::new(each))), each);
    let mut seats: Vec<Seat> = online.iter().flat_map(of).collect();
    if let Some(first) = seats.first_mut() {
        first.queues.extend((0..cpus.possible).filter(|cpu| !online.contains(cpu)).filter_map(|cpu| u16::try_from(cpu).ok()));
    }
    seats
}

/// What a thread of a ring does.
fn work(seat: Seat, connection: Channel, room: usize, report: &Sender<io::Result<()>>, start: &Receiver<Arc<Answer>>) -> io::Result<()> {
    cpus::stay_on(usize::from(seat.home()));
    seat.crew.join();
    let mut queue = match Queue::new(seat, connection, room) {
        Ok(queue) => queue,
        Err(error) => {
            let _ = report.send(Err(error));
            return Ok(());
        }
    };
    let _ = report.send(Ok(()));
    // Nobody starts what is not wanted after all.
    let Ok(answer) = start.recv() else { return Ok(()) };
    let _ = report.send(queue.register());
    queue.serve(&*answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection() -> Channel {
        // It takes no commands, as a kernel without FUSE over io_uring.
        Channel::new(rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap())
    }

    /// Without io_uring on this machine there are none.
    fn prepared() -> Option<Prepared> {
        Prepared::new(&connection(), 1 << 20).ok()
    }

    #[test]
    fn what_the_kernel_refuses_is_told_and_the_threads_end() {
        let Some(prepared) = prepared() else { return };
        let nobody: Arc<Answer> = Arc::new(|_, _| panic!("there are no requests"));
        let running = prepared.start(&nobody);
        assert_eq!(running.refused.and_then(|error| error.raw_os_error()), Some(libc::EOPNOTSUPP));
        assert!(running.threads.into_iter().all(|thread| thread.join().unwrap().is_ok()));
    }

    #[test]
    fn rings_that_nobody_starts_end() {
        let Some(prepared) = prepared() else { return };
        let threads: Vec<_> = prepared.threads.into_iter().map(|(_go, thread)| thread).collect();
        assert!(threads.into_iter().all(|thread| thread.join().unwrap().is_ok()));
    }

    #[test]
    fn a_payload_has_room_for_every_page_of_a_request() {
        assert_eq!((room(0), room(1 << 20)), (8192, 256 * rustix::param::page_size()));
    }

    #[test]
    fn every_queue_has_an_entry_and_every_running_processor_its_threads() {
        let seats_of = |possible, online: &[usize]| seats(&cpus::Cpus { possible, online: online.to_vec() });
        let few = seats_of(4, &[0, 2]);
        let queues: Vec<&[u16]> = few.iter().map(|seat| &seat.queues[..]).collect();
        assert_eq!(queues, [&[0, 1, 3][..], &[0], &[2], &[2]]);
        let many: Vec<usize> = (0..=FEW_CPUS).collect();
        assert_eq!(seats_of(FEW_CPUS + 1, &many).len(), FEW_CPUS + 1);
    }
}
