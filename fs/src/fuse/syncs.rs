//! Requests that wait until what was acknowledged is durable, answered in groups.
//!
//! The log is one for the whole filesystem, so one commit serves all who wait when it begins. Who comes while none is being made has one made at once, and waits for
//! nobody else. Those who come meanwhile are only noted, so that the thread that took their request can take the next one, and the commit after it is for all of them.
//! So commits follow one another, each for as many as came during the one before, and no thread waits for another's.

use super::adaptor::Outcome;
use super::channel::Reply;
use super::wire::WriteOut;
use crate::ids::Ino;
use parking_lot::{Condvar, Mutex};

/// Somebody who waits.
#[derive(Debug)]
pub(super) struct Waiting {
    /// What was asked for, and of which inode.
    pub(super) what: &'static str,
    pub(super) node: Ino,
    pub(super) reply: Reply,
    /// What the answer says if all is well: nothing, or how much was written.
    pub(super) written: Option<WriteOut>,
}

impl Waiting {
    fn answer(self, outcome: Outcome<()>) {
        match (outcome, self.written) {
            (Ok(()), None) => self.reply.done(),
            (Ok(()), Some(written)) => self.reply.value(&written),
            (Err(errno), _) => self.reply.error(errno),
        }
    }
}

#[derive(Debug, Default)]
struct Group {
    waiting: Vec<Waiting>,
    /// Somebody sees to them, or is about to.
    is_attended: bool,
}

/// Those who wait at one mount.
#[derive(Debug, Default)]
pub(super) struct Syncs {
    group: Mutex<Group>,
    /// Nobody sees to anybody any more.
    quiet: Condvar,
}

impl Syncs {
    /// Notes somebody who waits. `true`: nobody sees to those who wait, and the caller has [`Syncs::attend`] called.
    #[must_use]
    pub(super) fn join(&self, waiting: Waiting) -> bool {
        let mut group = self.group.lock();
        group.waiting.push(waiting);
        !std::mem::replace(&mut group.is_attended, true)
    }

    /// Has what was acknowledged made durable before anybody asks for it, and sees to those who do so meanwhile. Not while somebody is being seen to.
    pub(super) fn get_ahead(&self, node: Ino, make_durable: impl Fn(&'static str, Ino) -> Outcome<()>) {
        if std::mem::replace(&mut self.group.lock().is_attended, true) {
            return;
        }
        let attending = Attending(self);
        // Whoever asks afterwards is told if it failed: what is not durable then is not made so by asking again.
        let _ = make_durable("sync ahead", node);
        drop(attending);
        let _ = self.attend(false, make_durable);
    }

    /// Sees to those who wait, by `make_durable`, which is told who asked first, until nobody is left; `once`: to one group. `true`: others have come since, and
    /// the caller has this called again.
    #[must_use]
    pub(super) fn attend(&self, once: bool, make_durable: impl Fn(&'static str, Ino) -> Outcome<()>) -> bool {
        let _attending = Attending(self);
        loop {
            // What these wait for was acknowledged before they asked, so before the commit begins that is made now.
            let together = std::mem::take(&mut self.group.lock().waiting);
            if let Some(first) = together.first() {
                let outcome = make_durable(first.what, first.node);
                together.into_iter().for_each(|waiting| waiting.answer(outcome));
            }
            let mut group = self.group.lock();
            group.is_attended = !group.waiting.is_empty();
            if !group.is_attended {
                self.quiet.notify_all();
            }
            if once || !group.is_attended {
                return group.is_attended;
            }
        }
    }

    /// Waits until nobody is being seen to.
    pub(super) fn drain(&self) {
        let mut group = self.group.lock();
        while group.is_attended {
            self.quiet.wait(&mut group);
        }
    }
}

/// Should whoever sees to them panic, all who wait get EIO, and the next one who comes has himself seen to.
struct Attending<'a>(&'a Syncs);

impl Drop for Attending<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let given_up = std::mem::take(&mut *self.0.group.lock());
            self.0.quiet.notify_all();
            drop(given_up);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::channel::Channel;
    use super::super::wire::OutHeader;
    use super::*;
    use rustix::io::Errno;
    use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, recv, socketpair};
    use std::cell::{Cell, RefCell};
    use std::os::fd::OwnedFd;
    use zerocopy::FromBytes;

    /// A connection whose other end is ours.
    struct Kernel {
        channel: Channel,
        end: OwnedFd,
    }

    impl Kernel {
        fn new() -> Self {
            let (ours, end) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::empty(), None).unwrap();
            Self { channel: Channel::new(ours), end }
        }

        fn asks(&self, unique: u64) -> Waiting {
            Waiting { what: "fsync", node: Ino(unique), reply: self.channel.reply(unique), written: None }
        }

        /// What has been answered since: which requests, with which errno, and the length of what was said besides.
        fn answered(&self) -> Vec<(u64, i32, usize)> {
            let mut answers = Vec::new();
            let mut bytes = [0; 64];
            while let Ok((len, _)) = recv(&self.end, &mut bytes, RecvFlags::DONTWAIT) {
                let header = OutHeader::read_from_prefix(&bytes[..len]).unwrap().0;
                answers.push((header.unique, -header.error, len - size_of::<OutHeader>()));
            }
            answers
        }
    }

    fn well(uniques: impl IntoIterator<Item = u64>) -> Vec<(u64, i32, usize)> {
        uniques.into_iter().map(|unique| (unique, 0, 0)).collect()
    }

    #[test]
    fn who_comes_alone_is_seen_to_at_once_and_answered_afterwards() {
        let (syncs, kernel) = (Syncs::default(), Kernel::new());
        for unique in 1..4 {
            assert!(syncs.join(kernel.asks(unique)), "nobody else sees to him");
            let commits = Cell::new(0);
            let others_wait = syncs.attend(false, |what, node| {
                assert_eq!((what, node, kernel.answered()), ("fsync", Ino(unique), vec![]));
                commits.set(commits.get() + 1);
                Ok(())
            });
            assert_eq!((others_wait, commits.get(), kernel.answered()), (false, 1, well([unique])));
        }
    }

    #[test]
    fn those_who_come_during_a_commit_share_the_next_one() {
        let (syncs, kernel) = (Syncs::default(), Kernel::new());
        assert!(syncs.join(kernel.asks(1)));
        let seen = RefCell::new(Vec::new());
        let others_wait = syncs.attend(false, |_, _| {
            seen.borrow_mut().push(kernel.answered());
            match seen.borrow().len() {
                1 => (2..17).for_each(|unique| assert!(!syncs.join(kernel.asks(unique)), "the one who attends sees to him")),
                2 => assert!(!syncs.join(kernel.asks(17))),
                _ => {}
            }
            Ok(())
        });
        assert!(!others_wait);
        assert_eq!(seen.into_inner(), [vec![], well([1]), well(2..17)], "three commits for seventeen, and no answer before its own");
        assert_eq!(kernel.answered(), well([17]));
        assert!(syncs.join(kernel.asks(18)), "who attended has gone");
    }

    #[test]
    fn a_failure_is_told_to_all_whom_it_concerns_and_to_nobody_else() {
        let (syncs, kernel) = (Syncs::default(), Kernel::new());
        let writes = |unique| Waiting { written: Some(WriteOut { size: 4096, padding: 0 }), ..kernel.asks(unique) };
        assert!(syncs.join(writes(1)));
        let commits = Cell::new(0);
        let others_wait = syncs.attend(false, |_, _| {
            commits.set(commits.get() + 1);
            match commits.get() {
                1 => {
                    assert!(!syncs.join(writes(2)) && !syncs.join(kernel.asks(3)));
                    Ok(())
                }
                2 => {
                    assert!(!syncs.join(kernel.asks(4)));
                    Err(Errno::ROFS)
                }
                _ => Ok(()),
            }
        });
        assert!(!others_wait);
        let written = size_of::<WriteOut>();
        assert_eq!(kernel.answered(), [(1, 0, written), (2, libc::EROFS, 0), (3, libc::EROFS, 0), (4, 0, 0)]);
    }

    #[test]
    fn the_end_waits_for_whoever_sees_to_somebody() {
        let (syncs, kernel) = (Syncs::default(), Kernel::new());
        syncs.drain();
        assert!(syncs.join(kernel.asks(1)));
        std::thread::scope(|scope| {
            let drained = scope.spawn(|| {
                syncs.drain();
                kernel.answered()
            });
            assert!(!syncs.attend(false, |_, _| Ok(())));
            assert_eq!(drained.join().unwrap(), well([1]), "he was answered before");
        });
    }

    #[test]
    fn who_sees_to_one_group_says_whether_there_is_another() {
        let (syncs, kernel) = (Syncs::default(), Kernel::new());
        assert!(syncs.join(kernel.asks(1)));
        let others_wait = syncs.attend(true, |_, _| {
            assert!(!syncs.join(kernel.asks(2)));
            Ok(())
        });
        assert_eq!((others_wait, kernel.answered()), (true, well([1])));
        assert!(!syncs.join(kernel.asks(3)), "somebody is about to see to him");
        assert!(!syncs.attend(true, |_, _| Ok(())));
        assert_eq!(kernel.answered(), well([2, 3]));
        assert!(syncs.join(kernel.asks(4)));
    }

    #[test]
    fn who_asks_while_somebody_gets_ahead_is_answered_when_what_he_asks_for_is_durable_as_well() {
        let (syncs, kernel) = (Syncs::default(), Kernel::new());
        let commits = Cell::new(0);
        syncs.get_ahead(Ino(9), |what, node| {
            commits.set(commits.get() + 1);
            assert_eq!(kernel.answered(), []);
            if commits.get() == 1 {
                assert_eq!((what, node), ("sync ahead", Ino(9)));
                // He may have written after the commit began.
                assert!(!syncs.join(kernel.asks(1)));
                syncs.get_ahead(Ino(9), |_, _| panic!("somebody is there already"));
                return Err(Errno::IO);
            }
            Ok(())
        });
        assert_eq!((commits.get(), kernel.answered()), (2, well([1])));
        syncs.drain();
        assert!(syncs.join(kernel.asks(2)), "and goes when nobody waits");
    }

    #[test]
    fn nobody_waits_for_a_thread_that_has_panicked() {
        let (syncs, kernel) = (Syncs::default(), Kernel::new());
        assert!(syncs.join(kernel.asks(1)));
        let attended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            syncs.attend(false, |_, _| {
                assert!(!syncs.join(kernel.asks(2)));
                panic!("a panic that the test wants")
            })
        }));
        assert!(attended.is_err());
        let mut answered = kernel.answered();
        answered.sort_unstable();
        assert_eq!(answered, [(1, libc::EIO, 0), (2, libc::EIO, 0)]);
        assert!(syncs.join(kernel.asks(3)), "the next one has himself seen to");
    }
}
