//! One thread's ring: entries go to the kernel, come back with requests, and go again with answers.

use super::super::adaptor::survive;
use super::super::channel::{Channel, Reply};
use super::super::lanes::{Crew, owes_answers};
use super::super::wire::{self, Request, RingCommand};
use super::entry::{self, Answered, Awaiting, Desk, Memory};
use super::uring::{Submission, Uring};
use super::{Staff, Thread};
use rustix::event::{EventfdFlags, eventfd};
use std::collections::BTreeSet;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};
use zerocopy::IntoBytes;

/// Most entries of a thread in its own queue: so many requests may be with other threads at once, less one.
const MOST_ENTRIES: usize = 32;
/// The completion of the bell.
const BELL: u64 = u64::MAX;
/// When the kernel has refused so many further entries, one after the other, it is asked for no more.
const MOST_REFUSALS: u32 = 3;
/// How long the kernel may say that it is not ready for the first entries.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long nothing is asked of a kernel that has no memory for a moment, or is not ready.
const PAUSE: Duration = Duration::from_millis(1);

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
    /// Further entries that the kernel has refused since it took one.
    refusals: u32,
    /// The kernel wants no entries any more: the connection ends, or goes on without this ring.
    let_go: bool,
    /// Queues of processors that did not run when the connection began, and do now.
    awake: BTreeSet<u16>,
    /// Threads for them.
    pub(super) hired: Vec<Thread>,
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
        let mut queue = Self {
            ring,
            seat,
            connection,
            room,
            desk,
            rung: Box::default(),
            entries: Vec::new(),
            done: Vec::new(),
            refusals: 0,
            let_go: false,
            awake: BTreeSet::new(),
            hired: Vec::new(),
        };
        for number in queue.seat.queues.clone() {
            queue.add(number)?;
        }
        // Shows, too, that we may submit anything at all.
        queue.listen()?;
        queue.ring.submit(0)?;
        Ok(queue)
    }

    /// An entry to be offered in a queue: one that was given up, or another one.
    fn add(&mut self, queue: u16) -> io::Result<usize> {
        if let Some(number) = self.entries.iter().position(|entry| entry.state == State::Gone && entry.queue == queue) {
            return Ok(number);
        }
        let memory = Arc::new(Memory::new(self.room)?);
        let parts = Box::new(memory.parts());
        self.entries.push(Entry { memory, parts, queue, state: State::Gone, commit_id: 0 });
        Ok(self.entries.len() - 1)
    }

    /// Those of the own queue that are not given up.
    fn at_home(&self) -> impl Iterator<Item = &Entry> {
        let home = self.seat.home();
        self.entries.iter().filter(move |entry| entry.queue == home && entry.state != State::Gone)
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

    /// Has the kernel know the first entries; `Some`: it refuses one, and why.
    ///
    /// # Errors
    /// The ring does not work, or the kernel never becomes ready: it neither has the entries nor does without.
    pub(super) fn register(&mut self) -> io::Result<Option<io::Error>> {
        for number in 0..self.entries.len() {
            self.offer(number)?;
        }
        let started = Instant::now();
        loop {
            self.enter(0)?;
            let done = std::mem::take(&mut self.done);
            let (again, refused) = self.registered(done)?;
            if refused.is_some() || !again {
                return Ok(refused);
            }
            if started.elapsed() > PATIENCE {
                return Err(io::Error::from_raw_os_error(libc::EAGAIN));
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Looks at what became of first entries: is one to be waited for that was offered again? was one refused? Requests are left to be answered.
    fn registered(&mut self, done: Vec<(u64, i32)>) -> io::Result<(bool, Option<io::Error>)> {
        let (mut again, mut refused) = (false, None);
        for (number, result) in done {
            match -result {
                libc::EAGAIN | libc::EINTR if number != BELL => {
                    self.offer(number as usize)?;
                    again = true;
                }
                errno if number != BELL && errno > 0 && !is_end(errno) => {
                    self.entries[number as usize].state = State::Gone;
                    self.let_go = true;
                    refused.get_or_insert(io::Error::from_raw_os_error(errno));
                }
                _ => self.done.push((number, result)),
            }
        }
        Ok((again, refused))
    }

    /// Answers requests until the kernel wants no entry any more.
    ///
    /// # Errors
    /// The ring does not work any more, or the kernel wants answers otherwise than we give them.
    pub(super) fn serve(&mut self, staff: &Arc<Staff>) -> io::Result<()> {
        let mut done = Vec::new();
        let mut answered = Vec::new();
        loop {
            done.append(&mut self.done);
            for (number, result) in done.drain(..) {
                self.completed(number, result, staff)?;
            }
            self.desk.take(&mut answered);
            for answered in answered.drain(..) {
                self.give(&answered)?;
            }
            if !self.let_go && self.at_home().next().is_none() {
                return Err(io::Error::other("the kernel takes none of its entries"));
            }
            if self.entries.iter().all(|entry| entry.state == State::Gone) {
                return Ok(());
            }
            self.keep_one_offered();
            self.enter(1)?;
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
        // The last entry goes when the connection does: the kernel wants no other one then.
        let is_wanted = self.at_home().next().is_some() && self.at_home().all(|entry| entry.state == State::Taken);
        if !is_wanted || self.at_home().count() >= MOST_ENTRIES || self.refusals >= MOST_REFUSALS {
            return;
        }
        // Without it requests wait until one of those that are away is answered.
        let home = self.seat.home();
        if let Err(error) = self.add(home).and_then(|number| self.offer(number)) {
            tracing::debug!("no further entry for the ring of processor {home}: {error}");
        }
    }

    /// Submits what there is and waits for so many completions.
    fn enter(&mut self, completions: u32) -> io::Result<()> {
        loop {
            match self.ring.submit(completions) {
                Ok(()) => break,
                Err(error) => match error.raw_os_error() {
                    // Completions are in the way of others.
                    Some(libc::EBUSY) => break,
                    Some(libc::EINTR) => {}
                    // No memory for a moment.
                    Some(libc::EAGAIN | libc::ENOMEM) => std::thread::sleep(PAUSE),
                    _ => return Err(error),
                },
            }
        }
        self.ring.reap(&mut self.done);
        Ok(())
    }

    fn completed(&mut self, number: u64, result: i32, staff: &Arc<Staff>) -> io::Result<()> {
        if number == BELL {
            return self.listen();
        }
        let number = number as usize;
        let Some(entry) = self.entries.get_mut(number) else { return Ok(()) };
        match -result {
            0 => {
                entry.state = State::Taken;
                if entry.commit_id == 0 {
                    self.refusals = 0;
                }
                let queue = entry.queue;
                if queue != self.seat.home() && self.awake.insert(queue) {
                    self.hired.extend(staff.hire(queue));
                }
                self.request(number, staff);
                Ok(())
            }
            libc::EAGAIN | libc::EINTR => self.offer(number),
            errno if is_end(errno) => {
                entry.state = State::Gone;
                self.let_go = true;
                Ok(())
            }
            errno => self.refused(number, errno),
        }
    }

    /// The kernel takes a further entry not, or an answer.
    fn refused(&mut self, number: usize, errno: i32) -> io::Result<()> {
        let entry = &mut self.entries[number];
        entry.state = State::Gone;
        let was_known = std::mem::take(&mut entry.commit_id) != 0;
        let error = io::Error::from_raw_os_error(errno);
        if !was_known {
            tracing::warn!("the kernel takes no further entry in queue {} of the ring: {error}", entry.queue);
            self.refusals += 1;
            return Ok(());
        }
        match errno {
            // Nobody awaits this answer (any more). Its entry is lost; a new one takes its place.
            libc::ENOENT | libc::EIO => {
                tracing::error!("the kernel does not take an answer in queue {} of the ring: {error}", entry.queue);
                self.offer(number)
            }
            // Somebody may await it for ever.
            _ => Err(io::Error::other(format!("the kernel does not take an answer: {error}"))),
        }
    }

    /// Has the request in an entry answered, now or later.
    fn request(&mut self, number: usize, staff: &Staff) {
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
        // An entry that is offered may be given a request at any moment, though another thread of the processor sleeps; so who has several hands over what `lanes` is for.
        let foreign = self.entries.iter().filter(|entry| entry.state != State::Gone && self.awake.contains(&entry.queue));
        owes_answers(self.at_home().count() + foreign.count() > 1);
        match payload.ok_or(wire::Malformed).and_then(|payload| Request::in_parts(&heads, payload)) {
            Ok(request) => survive(request.header.opcode, || (staff.answer)(request, reply(request.header.unique))),
            Err(malformed) => {
                tracing::error!("a request of the kernel: {malformed}");
                drop(reply(told.commit_id));
            }
        }
    }
}

/// Does the kernel say that the connection is over, or that the ring is?
fn is_end(errno: i32) -> bool {
    matches!(errno, libc::ENOTCONN | libc::ECONNABORTED | libc::ECANCELED | libc::ENODEV)
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

#[cfg(test)]
mod tests {
    use super::super::super::lanes::Lanes;
    use super::super::super::wire::{EntryInOut, InHeader, OutHeader, op};
    use super::super::Answer;
    use super::super::tests::{connection, staff};
    use super::*;
    use parking_lot::Mutex;
    use std::thread::ThreadId;
    use zerocopy::FromBytes;

    const ROOM: usize = 8192;

    /// Without io_uring on this machine there is none.
    fn queue(queues: &[u16]) -> Option<Queue> {
        let seat = Seat { queues: queues.to_vec(), crew: Arc::new(Crew::new(2)) };
        seat.crew.join();
        Queue::new(seat, connection(), ROOM).ok()
    }

    /// The kernel gives entry `number` a request.
    fn ask(queue: &mut Queue, number: usize, staff: &Arc<Staff>) {
        let entry = &mut queue.entries[number];
        entry.state = State::Offered;
        let len = size_of::<InHeader>() as u32;
        let header = InHeader { len, opcode: op::STATFS, unique: 7, nodeid: 1, uid: 0, gid: 0, pid: 0, extension: 0, padding: 0 };
        let told = EntryInOut { commit_id: 7, ..EntryInOut::default() };
        // SAFETY: no kernel has this memory.
        unsafe { entry.memory.place_heads(&[(0, header.as_bytes()), (wire::RING_ENTRY_AT, told.as_bytes())]) };
        queue.completed(number as u64, 0, staff).unwrap();
    }

    /// What the request in entry `number` was answered with.
    fn answered(queue: &Queue, number: usize) -> OutHeader {
        let mut taken = Vec::new();
        queue.desk.take(&mut taken);
        assert_eq!(taken.iter().map(|answered| answered.entry).collect::<Vec<_>>(), [number]);
        // SAFETY: no kernel has this memory.
        OutHeader::read_from_prefix(&unsafe { queue.entries[number].memory.heads() }).unwrap().0
    }

    fn staff_who(answer: impl Fn(Request<'_>, Reply) + Send + Sync + 'static) -> Arc<Staff> {
        staff(Arc::new(answer) as Arc<Answer>).0
    }

    #[test]
    fn who_has_another_entry_with_the_kernel_waits_for_nothing() {
        let Some(mut queue) = queue(&[0, 1]) else { return };
        let lanes = Arc::new(Lanes::default());
        let seen: Arc<Mutex<Option<ThreadId>>> = Arc::default();
        let (slot, of_answer) = (seen.clone(), lanes.clone());
        let staff = staff_who(move |_, reply| {
            let slot = slot.clone();
            of_answer.run(move || {
                *slot.lock() = Some(std::thread::current().id());
                reply.done();
            });
        });
        let waits_here = |queue: &mut Queue, number| {
            ask(queue, number, &staff);
            lanes.drain();
            assert_eq!(answered(queue, number).error, 0);
            *seen.lock() == Some(std::thread::current().id())
        };
        queue.entries[1].state = State::Offered;
        assert!(waits_here(&mut queue, 0), "nobody asks in the queue of a processor that does not run");
        let second = queue.add(0).unwrap();
        assert!(waits_here(&mut queue, 0), "an entry that the kernel does not have");
        queue.entries[second].state = State::Offered;
        assert!(!waits_here(&mut queue, 0), "the kernel may fill the other one");
        queue.entries[second].state = State::Gone;
        assert!(waits_here(&mut queue, 0));
        ask(&mut queue, 1, &staff);
        lanes.drain();
        assert_eq!(answered(&queue, 1).error, 0);
        queue.entries[1].state = State::Offered;
        assert!(!waits_here(&mut queue, 0), "that processor runs now");
    }

    #[test]
    fn a_panic_costs_one_answer() {
        let Some(mut queue) = queue(&[0]) else { return };
        let staff = staff_who(|_, _reply| panic!("a panic that the test wants"));
        ask(&mut queue, 0, &staff);
        assert_eq!(answered(&queue, 0), OutHeader { len: 16, error: -libc::EIO, unique: 7 });
    }

    #[test]
    fn a_processor_that_runs_later_gets_threads_of_its_own() {
        let Some(mut queue) = queue(&[0, 3, 4]) else { return };
        let staff = staff_who(|_, reply| reply.done());
        ask(&mut queue, 0, &staff);
        assert_eq!((answered(&queue, 0).error, queue.hired.len()), (0, 0));
        for _ in 0..2 {
            ask(&mut queue, 1, &staff);
            assert_eq!((answered(&queue, 1).error, queue.hired.len()), (0, staff.each));
        }
        ask(&mut queue, 2, &staff);
        assert_eq!(queue.hired.len(), 2 * staff.each);
        let name = |thread: &Thread| thread.thread().name().map(str::to_owned);
        assert_eq!(name(&queue.hired[0]).as_deref(), Some("fuse-ring-3"));
        // What they are served by takes no entries: their queue goes on with the one that it has.
        assert!(queue.hired.drain(..).all(|thread| thread.join().unwrap().is_ok()));
    }

    #[test]
    fn refused_entries_are_used_again_and_do_not_count() {
        let Some(mut queue) = queue(&[0]) else { return };
        queue.entries[0].state = State::Taken;
        for refusals in 1..=MOST_REFUSALS {
            queue.keep_one_offered();
            assert_eq!((queue.entries.len(), queue.entries[1].state), (2, State::Offered));
            queue.refused(1, libc::ENOMEM).unwrap();
            assert_eq!((queue.refusals, queue.at_home().count()), (refusals, 1));
        }
        queue.keep_one_offered();
        assert_eq!(queue.entries[1].state, State::Gone, "the kernel has no room for more");
        let staff = staff_who(|_, reply| reply.done());
        ask(&mut queue, 1, &staff);
        assert_eq!((answered(&queue, 1).error, queue.refusals), (0, 0));
        for entries in 3..=MOST_ENTRIES + 1 {
            queue.entries.iter_mut().for_each(|entry| entry.state = State::Taken);
            queue.keep_one_offered();
            assert_eq!(queue.entries.len(), entries.min(MOST_ENTRIES), "so many may be away at once");
        }
    }

    #[test]
    fn an_answer_that_nobody_awaits_costs_nothing_and_another_one_ends_the_thread() {
        let Some(mut queue) = queue(&[0]) else { return };
        queue.entries[0].commit_id = 7;
        queue.refused(0, libc::ENOENT).unwrap();
        assert_eq!((queue.entries[0].state, queue.entries[0].commit_id), (State::Offered, 0), "it is registered anew");
        queue.entries[0].commit_id = 8;
        assert!(queue.refused(0, libc::EOPNOTSUPP).unwrap_err().to_string().contains("does not take an answer"));
    }

    #[test]
    fn a_kernel_that_is_not_ready_is_asked_again_and_one_that_refuses_is_not() {
        let Some(mut queue) = queue(&[0, 1]) else { return };
        let done = vec![(0, -libc::EAGAIN), (BELL, 8), (1, 0)];
        let (again, refused) = queue.registered(done).unwrap();
        assert!(again && refused.is_none() && !queue.let_go);
        assert_eq!((queue.entries[0].state, &queue.done[..]), (State::Offered, &[(BELL, 8), (1, 0)][..]));
        queue.done.clear();
        let (again, refused) = queue.registered(vec![(0, -libc::ENOTCONN)]).unwrap();
        assert!(!again && refused.is_none(), "the connection is over, which is no refusal");
        assert_eq!(queue.done, [(0, -libc::ENOTCONN)]);
        let (_, refused) = queue.registered(vec![(0, -libc::EINVAL)]).unwrap();
        assert_eq!(refused.unwrap().raw_os_error(), Some(libc::EINVAL));
        assert!(queue.let_go && queue.entries[0].state == State::Gone);
    }
}
