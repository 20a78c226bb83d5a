//! What a panic leaves behind may be half a change. It is shown, for what is on the devices is whole, but nothing is built on it any more (I11).

use super::Volume;

/// While it lives something is changed that must not stay half done: a panic makes the volume read-only.
pub(super) struct Unbroken<'a> {
    volume: &'a Volume,
    what: &'static str,
    /// It is part of the cleaning up after an earlier panic.
    was_panicking: bool,
}

impl Volume {
    pub(super) fn unbroken(&self, what: &'static str) -> Unbroken<'_> {
        Unbroken { volume: self, what, was_panicking: std::thread::panicking() }
    }
}

impl Drop for Unbroken<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() && !self.was_panicking {
            let what = self.what;
            self.volume
                .fail(format!("{what} panicked: this is a bug; what was made durable before is safe, and a new mount begins with that"));
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::error::FsError;
    use crate::volume::WriteOptions;
    use crate::volume::rig::{formatted, make, open};
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use zns::sim::{Fault, SimConfig, SimDrive};

    #[test]
    fn after_a_panic_in_a_change_nothing_is_changed_any_more_and_all_is_readable() {
        let volume = formatted(&SimDrive::new(SimConfig::zoned(64, 1)));
        let ino = make(&volume, "file");
        volume.write(ino, 0, &[5; 8192], &WriteOptions::default()).unwrap();
        volume.sync().unwrap();
        let panicked = catch_unwind(AssertUnwindSafe(|| volume.change::<()>(|_| panic!("a panic that the test wants"))));
        assert!(panicked.is_err() && !volume.is_writable());
        assert!(volume.read_only_reason().unwrap().contains("a change of the metadata panicked"));
        assert!(matches!(volume.write(ino, 0, &[6; 4096], &WriteOptions::default()), Err(FsError::ReadOnly(_))));
        assert_eq!(volume.read(ino, 0, 8192).unwrap()[..], [5; 8192]);
        volume.sync().unwrap();
    }

    /// A panic at each operation on the device that an fsync and a checkpoint consist of, one after the other.
    #[test]
    fn a_panic_at_any_operation_of_a_commit_or_a_checkpoint_loses_nothing_that_is_called_durable() {
        for is_checkpoint in [false, true] {
            for op in 0.. {
                let drive = SimDrive::new(SimConfig::zoned(64, 1));
                let volume = formatted(&drive);
                let ino = make(&volume, "file");
                volume.write(ino, 0, &[1; 8192], &WriteOptions::default()).unwrap();
                volume.sync().unwrap();
                volume.write(ino, 4096, &[2; 8192], &WriteOptions::default()).unwrap();
                drive.fail_at(drive.ops() + op, Fault::Panic);
                let make_durable = || if is_checkpoint { volume.checkpoint() } else { volume.sync() };
                let Err(_) = catch_unwind(AssertUnwindSafe(make_durable)) else {
                    assert!(op > 2, "it consists of more than {op} operations");
                    break;
                };
                assert!(!volume.is_writable(), "operation {op}");
                // Whoever asks again is told that it is durable only if it is.
                let is_durable = make_durable().is_ok();
                drop(volume);
                drive.power_cycle();
                let volume = open(&drive);
                let found = volume.read(ino, 0, 12288).unwrap();
                let (old, new) = ([[1; 4096], [1; 4096]].concat(), [[1; 4096], [2; 4096], [2; 4096]].concat());
                assert!(found[..] == new[..] || (!is_durable && found[..] == old[..]), "operation {op}");
                volume.write(ino, 0, &[3; 4096], &WriteOptions::default()).unwrap();
                volume.sync().unwrap();
            }
        }
    }
}
