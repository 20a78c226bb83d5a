//! The connection over io_uring: requests are taken and answers are given by commands of a ring, one system call for an answer and the next request.
//!
//! The kernel has a queue for each processor, and a request goes to that of the processor on which somebody asks. Each processor has a few threads here, each
//! with a ring of its own and one entry in it to begin with. So an entry is offered to the kernel only while its thread waits: what is asked meanwhile goes to
//! another thread or lies in the queue of the kernel. A request that is handed to another thread (`lanes`) takes its entry with it, and the thread of the ring
//! offers another one; both are offered again when they are answered. From then on the thread may be given a request while it answers one, though another one
//! sleeps: so it hands over whatever is made to be (fsync, copies, orders) from then on. A write that stands in line for room is not, and keeps others waiting.
//!
//! Threads are not bound to their processors: single requests would gain by it, and many at a time lose, for all that one processor asks for would be answered there.
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
use std::panic::{AssertUnwindSafe, catch_unwind};
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

/// What threads of rings share.
pub(super) struct Staff {
    connection: Channel,
    room: usize,
    /// Threads of a processor.
    each: usize,
    answer: Arc<Answer>,
    /// Where a thread says that it cannot go on.
    falls: Sender<io::Error>,
}

impl Staff {
    /// Threads for the queue of a processor that did not run before. Without them the queue has the entry that every queue has.
    fn hire(self: &Arc<Self>, queue: u16) -> Vec<Thread> {
        let crew = Arc::new(Crew::new(self.each));
        let hired = (0..self.each).map(|_| {
            let (staff, seat) = (self.clone(), Seat::new(queue.into(), crew.clone()));
            start_thread(queue, move || join(seat, &staff))
        });
        let told = |error: io::Error| tracing::warn!("no thread for the ring of processor {queue}: {error}");
        hired.filter_map(|thread| thread.map_err(told).ok()).collect()
    }
}

/// The rings of a connection, made but not yet known to it.
pub(super) struct Prepared {
    connection: Channel,
    room: usize,
    each: usize,
    threads: Vec<(Sender<Arc<Staff>>, Thread)>,
    reports: Receiver<io::Result<Option<io::Error>>>,
}

/// Their threads at work.
#[derive(Default)]
pub(super) struct Running {
    /// They end when the kernel lets go of the connection.
    pub(super) threads: Vec<Thread>,
    /// Why the kernel has not taken an entry. Then it sends its requests by the channel, but for those of threads whose entries it may have taken already.
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
        let each = each(&cpus);
        for seat in seats(&cpus, each) {
            let (go, start) = channel();
            let (report, connection) = (report.clone(), connection.clone());
            threads.push((go, start_thread(seat.home(), move || work(seat, connection, room, &report, &start))?));
        }
        drop(report);
        let prepared = Self { connection: connection.clone(), room, each, threads, reports };
        prepared.all()?;
        Ok(prepared)
    }

    /// Waits for a word of each thread: the first refusal.
    fn all(&self) -> io::Result<Option<io::Error>> {
        let mut refused = None;
        for _ in &self.threads {
            let said = self.reports.recv().map_err(|_| io::Error::other("a thread of the ring is gone"))?;
            refused = refused.or(said?);
        }
        Ok(refused)
    }

    /// Offers all entries to the kernel, which has agreed to use them and sends no request before it has them. Where it refuses one before all its queues have
    /// one, it goes on as if nothing had been agreed on.
    ///
    /// # Errors
    /// The kernel waits for entries that it will never get.
    pub(super) fn start(self, answer: Arc<Answer>, falls: Sender<io::Error>) -> io::Result<Running> {
        let staff = Staff { connection: self.connection.clone(), room: self.room, each: self.each, answer, falls };
        let staff = Arc::new(staff);
        for (go, _) in &self.threads {
            // A thread that is gone is missed below.
            let _ = go.send(staff.clone());
        }
        let refused = self.all()?;
        Ok(Running { threads: self.threads.into_iter().map(|(_, thread)| thread).collect(), refused })
    }
}

fn start_thread(queue: u16, work: impl FnOnce() -> io::Result<()> + Send + 'static) -> io::Result<Thread> {
    std::thread::Builder::new().name(format!("fuse-ring-{queue}")).spawn(work)
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

/// Threads of a processor.
fn each(cpus: &cpus::Cpus) -> usize {
    if cpus.online.len() <= FEW_CPUS { THREADS_PER_CPU } else { 1 }
}

/// Who sits where. Queues of processors that do not run get an entry, too, for the kernel wants to see it; whoever asks there calls for threads.
fn seats(cpus: &cpus::Cpus, each: usize) -> Vec<Seat> {
    let online: Vec<usize> = cpus.online.iter().copied().filter(|cpu| *cpu < cpus.possible).collect();
    let of = |cpu: &usize| std::iter::repeat_n(Seat::new(*cpu, Arc::new(Crew::new(each))), each);
    let mut seats: Vec<Seat> = online.iter().flat_map(of).collect();
    if let Some(first) = seats.first_mut() {
        first.queues.extend((0..cpus.possible).filter(|cpu| !online.contains(cpu)).filter_map(|cpu| u16::try_from(cpu).ok()));
    }
    seats
}

/// What a thread of a ring does.
fn work(
    seat: Seat,
    connection: Channel,
    room: usize,
    report: &Sender<io::Result<Option<io::Error>>>,
    start: &Receiver<Arc<Staff>>,
) -> io::Result<()> {
    seat.crew.join();
    let mut queue = match Queue::new(seat, connection, room) {
        Ok(queue) => queue,
        Err(error) => {
            let _ = report.send(Err(error));
            return Ok(());
        }
    };
    let _ = report.send(Ok(None));
    // Nobody starts what is not wanted after all.
    let Ok(staff) = start.recv() else { return Ok(()) };
    let registered = queue.register();
    let failed = registered.is_err();
    let _ = report.send(registered);
    if failed { Ok(()) } else { serve(queue, &staff) }
}

/// What a thread does that comes while the others are at work.
fn join(seat: Seat, staff: &Arc<Staff>) -> io::Result<()> {
    seat.crew.join();
    let home = seat.home();
    let joined = Queue::new(seat, staff.connection.clone(), staff.room).and_then(|mut queue| match queue.register()? {
        None => Ok(queue),
        Some(refused) => Err(refused),
    });
    match joined {
        Ok(queue) => serve(queue, staff),
        Err(error) => {
            tracing::warn!("processor {home} runs now, and the kernel takes no ring for it: {error}");
            Ok(())
        }
    }
}

/// Answers requests. Who cannot go on says so at once: nobody else answers what his entries hold, or can be given them.
fn serve(mut queue: Queue, staff: &Arc<Staff>) -> io::Result<()> {
    let ended =
        catch_unwind(AssertUnwindSafe(|| queue.serve(staff))).unwrap_or_else(|_| Err(io::Error::other("it panicked: this is a bug")));
    let ended = ended.map_err(|error| io::Error::other(format!("a thread that takes requests over io_uring cannot go on: {error}")));
    if let Err(error) = &ended {
        let _ = staff.falls.send(io::Error::other(error.to_string()));
    }
    for thread in queue.hired.drain(..) {
        // What ended it was told.
        let _ = thread.join();
    }
    ended
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn connection() -> Channel {
        // It takes no commands, as a kernel without FUSE over io_uring.
        Channel::new(rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap())
    }

    /// Threads who answer so, and where they say that they cannot go on.
    pub(super) fn staff(answer: Arc<Answer>) -> (Arc<Staff>, Receiver<io::Error>) {
        let (falls, fallen) = channel();
        (Arc::new(Staff { connection: connection(), room: 8192, each: 2, answer, falls }), fallen)
    }

    fn nobody() -> Arc<Answer> {
        Arc::new(|_, _| panic!("there are no requests"))
    }

    /// Without io_uring on this machine there are none.
    fn prepared() -> Option<Prepared> {
        Prepared::new(&connection(), 1 << 20).ok()
    }

    #[test]
    fn what_the_kernel_refuses_is_told_and_the_threads_end() {
        let Some(prepared) = prepared() else { return };
        let (falls, fallen) = channel();
        let running = prepared.start(nobody(), falls).unwrap();
        assert_eq!(running.refused.and_then(|error| error.raw_os_error()), Some(libc::EOPNOTSUPP));
        assert!(running.threads.into_iter().all(|thread| thread.join().unwrap().is_ok()));
        assert!(fallen.recv().is_err(), "a refusal is no end of the session");
    }

    #[test]
    fn rings_that_nobody_starts_end() {
        let Some(prepared) = prepared() else { return };
        let threads: Vec<_> = prepared.threads.into_iter().map(|(_go, thread)| thread).collect();
        assert!(threads.into_iter().all(|thread| thread.join().unwrap().is_ok()));
    }

    #[test]
    fn a_thread_that_cannot_go_on_says_so() {
        let (staff, fallen) = staff(nobody());
        let Ok(queue) = Queue::new(Seat::new(0, Arc::new(Crew::new(1))), connection(), 8192) else { return };
        // The kernel has none of its entries, and has refused none.
        let ended = serve(queue, &staff).unwrap_err().to_string();
        assert!(ended.contains("over io_uring cannot go on: the kernel takes none of its entries"), "{ended}");
        assert_eq!(fallen.try_recv().unwrap().to_string(), ended);
    }

    #[test]
    fn a_payload_has_room_for_every_page_of_a_request() {
        assert_eq!((room(0), room(1 << 20)), (8192, 256 * rustix::param::page_size()));
    }

    #[test]
    fn every_queue_has_an_entry_and_every_running_processor_its_threads() {
        let seats_of = |possible, online: &[usize]| {
            let cpus = cpus::Cpus { possible, online: online.to_vec() };
            seats(&cpus, each(&cpus))
        };
        let few = seats_of(4, &[0, 2]);
        let queues: Vec<&[u16]> = few.iter().map(|seat| &seat.queues[..]).collect();
        assert_eq!(queues, [&[0, 1, 3][..], &[0], &[2], &[2]]);
        let many: Vec<usize> = (0..=FEW_CPUS).collect();
        assert_eq!(seats_of(FEW_CPUS + 1, &many).len(), FEW_CPUS + 1);
    }
}
