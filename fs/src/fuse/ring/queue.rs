//! One thread's ring: entries go to the kernel, come back with requests, and go again with answers.

use super::super::channel::{Channel, Reply};
use super::super::lanes::{Crew, owes_answers};
use super::super::wire::{self, Request, RingCommand};
use super::Answer;
use super::entry::{self, Answered, Awaiting, Desk, Memory};
use super::uring::{Submission, Uring};
use rustix::event::{EventfdFlags, eventfd};
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use zerocopy::IntoBytes;

/// Most entries of a thread in its own queue: so many requests may be with other threads at once, less one.
const MOST_ENTRIES: usize = 32;
/// The completion of the bell.
const BELL: u64 = u64::MAX;
/// An entry that the kernel refuses so often is given up.
const MOST_REFUSALS: u32 = 3;

/// What a thread has to do.
#[derive(Clone, Debug)]
pub(super) struct Seat {
    /// Queues that it has an entry in; its own is the first.
    pub(super) queues: Vec<u16>,
    /// Those who take requests of its own.
    pub(super) crew: Arc<Crew>,
}

impl Seat {
    pub(super) fn new(cpu: usize, crew: Arc<Crew>) -> Self {
        Self { queues: u16::try_from(cpu).into_iter().collect(), crew }
    }

    /// The queue of its processor.
    pub(super) fn home(&self) -> u16 {
        self.queues.first().copied().unwrap_or(0)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The kernel has it.
    Offered,
    /// Its request is being answered.
    Taken,
    /// Neither, for good.
    Gone,
}

struct Entry {
    memory: Arc<Memory>,
    /// What the kernel reads when it is told of the memory.
    parts: Box<[libc::iovec; 2]>,
    queue: u16,
    state: State,
    /// By which the kernel knows the request that is being answered; 0: none was taken yet.
    commit_id: u64,
    refusals: u32,
}

/// A ring and its entries.
pub(super) struct Queue {
    ring: Uring,
    seat: Seat,
    connection: Channel,
    room: usize,
    desk: Arc<Desk>,
    rung: Box<u64>,
    entries: Vec<Entry>,
    /// Completions that are still to be looked at.
    done: Vec<(u64, i32)>,
}

impl Queue {
    /// That of the calling thread.
    ///
    /// # Errors
    /// No io_uring, or none for us.
    pub(super) fn new(seat: Seat, connection: Channel, room: usize) -> io::Result<Self> {
        // An entry in each queue, others in the own one, and the bell.
        let entries = (seat.queues.len() + MOST_ENTRIES).next_power_of_two();
        let ring = Uring::new(entries as u32)?;
        ring.register_file(connection.as_fd())?;
        let desk = Arc::new(Desk::new(eventfd(0, EventfdFlags::CLOEXEC)?));
        let mut queue = Self { ring, seat, connection, room, desk, rung: Box::default(), entries: Vec::new(), done: Vec::new() };
        for number in queue.seat.queues.clone() {
            queue.add(number)?;
        }
        // Shows, too, that we may submit anything at all.
        queue.listen()?;
        queue.ring.submit(0)?;
        Ok(queue)
    }

    fn add(&mut self, queue: u16) -> io::Result<usize> {
        let memory = Arc::new(Memory::new(self.room)?);
        let parts = Box::new(memory.parts());
        self.entries.push(Entry { memory, parts, queue, state: State::Gone, commit_id: 0, refusals: 0 });
        Ok(self.entries.len() - 1)
    }

    /// Waits for the bell.
    fn listen(&mut self) -> io::Result<()> {
        let at: *mut u64 = &raw mut *self.rung;
        let read = Submission::read(self.desk.bell.as_fd(), at.cast(), size_of::<u64>() as u32, BELL);
        self.push(&read)
    }

    fn push(&mut self, submission: &Submission) -> io::Result<()> {
        // SAFETY: what it points to (the number that was rung, the parts and the memory of an entry) lives as long as this value, and is leaked by its drop
        // while the kernel may have it. Of an entry that was offered nobody uses the memory before it is completed.
        let pushed = unsafe { self.ring.push(submission) };
        // There is room for each entry and the bell.
        if pushed { Ok(()) } else { Err(io::Error::other("the ring is full")) }
    }

    /// Offers an entry to the kernel: a new one, or one with an answer.
    fn offer(&mut self, number: usize) -> io::Result<()> {
        let entry = &mut self.entries[number];
        let is_new = entry.commit_id == 0;
        let (code, parts) = if is_new { (wire::RING_REGISTER, &entry.parts[..]) } else { (wire::RING_COMMIT_AND_FETCH, &[][..]) };
        let command = RingCommand { flags: 0, commit_id: entry.commit_id, qid: entry.queue, padding: [0; 6] };
        let command = Submission::command(code, parts, command.as_bytes(), number as u64);
        entry.state = State::Offered;
        self.push(&command)
    }

    /// Has the kernel know the first entries.
    ///
    /// # Errors
    /// It does not want them.
    pub(super) fn register(&mut self) -> io::Result<()> {
        for number in 0..self.entries.len() {
            self.offer(number)?;
        }
        self.ring.submit(0)?;
        self.ring.reap(&mut self.done);
        // What is to be tried again is so by `serve`.
        match self.done.iter().find(|(number, result)| *number != BELL && *result < 0 && *result != -libc::EAGAIN) {
            Some((_, errno)) => Err(io::Error::from_raw_os_error(-errno)),
            None => Ok(()),
        }
    }

    /// Answers requests until the kernel wants no entry any more.
    ///
    /// # Errors
    /// The ring does not work any more.
    pub(super) fn serve(&mut self, answer: &Answer) -> io::Result<()> {
        let mut done = Vec::new();
        let mut answered = Vec::new();
        loop {
            done.append(&mut self.done);
            for (number, result) in done.drain(..) {
                self.completed(number, result, answer)?;
            }
            self.desk.take(&mut answered);
            for answered in answered.drain(..) {
                self.give(&answered)?;
            }
            if self.entries.iter().all(|entry| entry.state == State::Gone) {
                return Ok(());
            }
            self.keep_one_offered();
            self.wait()?;
        }
    }

    /// An entry has its answer.
    fn give(&mut self, answered: &Answered) -> io::Result<()> {
        let entry = &self.entries[answered.entry];
        // SAFETY: the answer has been given, so the request is not looked at any more.
        unsafe { answered.complete(&entry.memory) };
        self.offer(answered.entry)
    }

    /// Where all entries of the own queue are with other threads there must be another one.
    fn keep_one_offered(&mut self) {
        let home = self.seat.home();
        let mut of_home = self.entries.iter().filter(|entry| entry.queue == home);
        // The last entry goes when the connection does: the kernel wants no other one then.
        let is_wanted = of_home.clone().any(|entry| entry.state == State::Taken) && of_home.all(|entry| entry.state != State::Offered);
        if !is_wanted || self.entries.len() - self.seat.queues.len() >= MOST_ENTRIES - 1 {
            return;
        }
        // Without it requests wait until one of those that are away is answered.
        if let Err(error) = self.add(home).and_then(|number| self.offer(number)) {
            tracing::debug!("no further entry for the ring of processor {home}: {error}");
        }
    }

    /// Submits what there is and waits for a completion.
    fn wait(&mut self) -> io::Result<()> {
        loop {
            match self.ring.submit(1) {
                Ok(()) => break,
                Err(error) => match error.raw_os_error() {
                    // Completions are in the way of others.
                    Some(libc::EBUSY) => break,
                    Some(libc::EINTR) => {}
                    // No memory for a moment.
                    Some(libc::EAGAIN | libc::ENOMEM) => std::thread::sleep(std::time::Duration::from_millis(1)),
                    _ => return Err(error),
                },
            }
        }
        self.ring.reap(&mut self.done);
        Ok(())
    }

    fn completed(&mut self, number: u64, result: i32, answer: &Answer) -> io::Result<()> {
        if number == BELL {
            return self.listen();
        }
        let number = number as usize;
        let Some(entry) = self.entries.get_mut(number) else { return Ok(()) };
        match -result {
            0 => {
                entry.state = State::Taken;
                entry.refusals = 0;
                self.request(number, answer);
                Ok(())
            }
            libc::EAGAIN | libc::EINTR => self.offer(number),
            libc::ENOTCONN | libc::ECONNABORTED | libc::ECANCELED | libc::ENODEV => {
                entry.state = State::Gone;
                Ok(())
            }
            errno => {
                let error = io::Error::from_raw_os_error(errno);
                let what = if entry.commit_id == 0 { "no entry" } else { "an answer not" };
                tracing::error!("the kernel takes {what} in queue {} of the ring: {error}", entry.queue);
                entry.state = State::Gone;
                entry.refusals += 1;
                // An answer that nobody awaits has lost its entry; a new one takes its place.
                let was_known = std::mem::take(&mut entry.commit_id) != 0;
                if was_known && entry.refusals < MOST_REFUSALS { self.offer(number) } else { Ok(()) }
            }
        }
    }

    /// Has the request in an entry answered, now or later.
    fn request(&mut self, number: usize, answer: &Answer) {
        let entry = &mut self.entries[number];
        // SAFETY: the kernel has completed the entry, and its answer has not begun.
        let heads = unsafe { entry.memory.heads() };
        let told = entry::in_out(&heads);
        entry.commit_id = told.commit_id;
        let memory = entry.memory.clone();
        let brought = told.payload_sz > 0;
        let awaiting = Awaiting::new(self.desk.clone(), memory.clone(), number, brought);
        // SAFETY: until the answer is completed, which this thread does later, nobody writes to the payload.
        let payload = if brought { unsafe { memory.payload(told.payload_sz as usize) } } else { Some(&[][..]) };
        // What cannot be read is answered with EIO by the end of its reply.
        let reply = |unique| Reply::over_ring(self.connection.clone(), awaiting, unique);
        owes_answers(self.entries.iter().filter(|entry| entry.state == State::Taken).count() > 1);
        match payload.ok_or(wire::Malformed).and_then(|payload| Request::in_parts(&heads, payload)) {
            Ok(request) => answer(request, reply(request.header.unique)),
            Err(malformed) => {
                tracing::error!("a request of the kernel: {malformed}");
                drop(reply(told.commit_id));
            }
        }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // The kernel may still write into what it was offered, even while it is told that the ring ends.
        for entry in &self.entries {
            if entry.state == State::Offered {
                std::mem::forget(entry.memory.clone());
            }
        }
        // The bell is always awaited.
        std::mem::forget(std::mem::take(&mut self.rung));
    }
}
