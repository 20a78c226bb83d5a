//! Whether somebody who has just written is about to ask that it be durable: programs that keep a log write and sync by turns.
//!
//! Then a commit may begin as soon as the write is answered. It goes on while the answer is on its way to him and his question on its way to us, which takes as long
//! as a commit to memory. A guess that is wrong costs a commit and a flush, so nothing is guessed before many turns in a row were alike, and all in one file:
//! where several files are written, commits had better gather what comes.

use crate::ids::Ino;
use parking_lot::Mutex;

/// Turns in a row that must have been alike.
const ALIKE: u32 = 8;

/// What was written and synced last.
#[derive(Debug, Default)]
pub(super) struct Rhythm(Mutex<Turns>);

#[derive(Debug, Default)]
struct Turns {
    /// The file that was synced last.
    file: Option<Ino>,
    /// Writes to it since, and between that sync and the one before.
    writes: u32,
    writes_before: u32,
    /// Turns in a row that had so many.
    alike: u32,
}

impl Rhythm {
    /// A file was written. `true`: it will be synced next, as far as anybody can tell.
    pub(super) fn wrote(&self, file: Ino) -> bool {
        let mut turns = self.0.lock();
        turns.writes = turns.writes.saturating_add(1);
        if turns.file != Some(file) || turns.writes > turns.writes_before {
            turns.alike = 0;
        }
        turns.alike >= ALIKE && turns.writes == turns.writes_before
    }

    /// Somebody asked for a file to be durable.
    pub(super) fn synced(&self, file: Ino) {
        let mut turns = self.0.lock();
        let is_alike = turns.file == Some(file) && turns.writes == turns.writes_before;
        let alike = if is_alike { turns.alike.saturating_add(1) } else { 0 };
        *turns = Turns { file: Some(file), writes: 0, writes_before: turns.writes, alike };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: Ino = Ino(7);

    type Disturb = fn(&Rhythm);

    /// So many writes and a sync: whether the sync was foreseen, at each write.
    fn turn(rhythm: &Rhythm, file: Ino, writes: usize) -> Vec<bool> {
        let foreseen = (0..writes).map(|_| rhythm.wrote(file)).collect();
        rhythm.synced(file);
        foreseen
    }

    #[test]
    fn a_sync_is_foreseen_when_many_turns_were_alike() {
        for writes in [1, 3] {
            let rhythm = Rhythm::default();
            let turns: Vec<Vec<bool>> = (0..20).map(|_| turn(&rhythm, FILE, writes)).collect();
            let foreseen = turns.iter().position(|turn| turn.contains(&true)).unwrap();
            // The first one is the measure.
            assert_eq!(foreseen as u32, ALIKE + 1);
            let mut at_the_last = vec![false; writes];
            at_the_last[writes - 1] = true;
            assert!(turns[foreseen..].iter().all(|turn| *turn == at_the_last), "{turns:?}");
        }
    }

    #[test]
    fn what_differs_once_is_not_foreseen_for_a_while() {
        let in_time = || {
            let rhythm = Rhythm::default();
            (0..20).for_each(|_| drop(turn(&rhythm, FILE, 2)));
            rhythm
        };
        assert_eq!(turn(&in_time(), FILE, 2), [false, true]);
        let disturbances: [(&str, Disturb); 5] = [
            ("a write more", |rhythm| drop(turn(rhythm, FILE, 3))),
            ("a write less", |rhythm| drop(turn(rhythm, FILE, 1))),
            ("nothing written", |rhythm| rhythm.synced(FILE)),
            ("another file written", |rhythm| assert!(!rhythm.wrote(Ino(8)))),
            ("another file synced", |rhythm| rhythm.synced(Ino(8))),
        ];
        for (what, disturb) in disturbances {
            let rhythm = in_time();
            disturb(&rhythm);
            assert!((0..ALIKE).all(|_| turn(&rhythm, FILE, 2) == [false, false]), "{what}");
            assert!((0..4).any(|_| turn(&rhythm, FILE, 2) == [false, true]), "{what}: it comes back");
        }
    }

    #[test]
    fn syncs_without_writes_foresee_nothing() {
        let rhythm = Rhythm::default();
        (0..20).for_each(|_| rhythm.synced(FILE));
        assert!(!rhythm.wrote(FILE));
    }

    #[test]
    fn files_that_take_turns_are_not_foreseen() {
        let rhythm = Rhythm::default();
        assert!((0..40).all(|n| turn(&rhythm, Ino(n % 2), 1) == [false]));
    }
}
