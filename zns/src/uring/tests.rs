//! The executor over ordinary files, with and without O_DIRECT.

use super::*;
use rustix::fs::{Mode, OFlags};

/// A new file in a directory of its own, opened with `flags` in addition. None where the file system refuses them.
fn file(len: u64, flags: OFlags) -> Option<(tempfile::TempDir, File)> {
    let directory = tempfile::tempdir().unwrap();
    let flags = OFlags::RDWR | OFlags::CREATE | flags;
    let file = File::from(rustix::fs::open(directory.path().join("file"), flags, Mode::RUSR | Mode::WUSR).ok()?);
    file.set_len(len).unwrap();
    Some((directory, file))
}

/// An executor over a new file; None where the system has no io_uring for us.
fn executor(len: u64, flags: OFlags) -> Option<(tempfile::TempDir, Executor)> {
    let (directory, file) = file(len, flags)?;
    Some((directory, Executor::new(&file, 16).ok()?))
}

fn pattern(len: usize, seed: u64) -> BufSlice {
    let mut buf = AlignedBuf::zeroed(len);
    for (at, word) in buf.chunks_mut(8).enumerate() {
        word.copy_from_slice(&(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) + at as u64).to_le_bytes()[..word.len()]);
    }
    BufSlice::whole(buf)
}

fn run(executor: &Executor, chains: Vec<Vec<Transfer>>) -> Vec<Outcome> {
    let ticket = executor.submit(chains, IoClass::Foreground);
    executor.wait(&ticket)
}

fn write(offset: u64, data: Vec<BufSlice>) -> Transfer {
    Transfer::Write { offset, data }
}

fn read(offset: u64, len: usize) -> Transfer {
    Transfer::Read { offset, buf: AlignedBuf::zeroed(len) }
}

#[test]
fn many_threads_with_more_work_than_the_queue_holds_read_what_they_wrote() {
    for flags in [OFlags::empty(), OFlags::DIRECT] {
        let Some((_directory, executor)) = executor(64 << 20, flags) else { continue };
        std::thread::scope(|scope| {
            for thread in 0..4_u64 {
                let executor = &executor;
                scope.spawn(move || {
                    let base = thread * (16 << 20);
                    // Sizes on both sides of the registered slots.
                    let sizes = [4096, 16384, 65536, 131_072, 262_144];
                    let piece = |at: u64| (base + at * 262_144, sizes[at as usize % sizes.len()], thread << 32 | at);
                    let writes = (0..60).map(|at| {
                        let (offset, len, seed) = piece(at);
                        let data = pattern(len, seed);
                        vec![write(offset, vec![data.sub(0..4096), data.sub(4096..len)])]
                    });
                    for outcome in run(executor, writes.collect()) {
                        assert_eq!(outcome.errno, None);
                    }
                    let reads = (0..60).map(|at| vec![read(piece(at).0, piece(at).1)]).collect();
                    let ticket = executor.submit(reads, IoClass::Cleaning);
                    for (at, outcome) in executor.wait(&ticket).into_iter().enumerate() {
                        let (_, len, seed) = piece(at as u64);
                        assert_eq!((outcome.errno, outcome.transferred), (None, len as u64));
                        assert_eq!(&outcome.buf.unwrap()[..], &pattern(len, seed)[..]);
                    }
                });
            }
        });
    }
}

#[test]
fn a_chain_runs_in_order_and_ends_with_its_first_failure() {
    let Some((_directory, executor)) = executor(1 << 20, OFlags::empty()) else { return };
    let same_place = (0..20).map(|seed| write(0, vec![pattern(8192, seed)])).collect();
    let missing = vec![read(0, 4096), read((1 << 20) - 4096, 8192), read(0, 4096)];
    let outcomes = run(&executor, vec![same_place, missing]);
    assert_eq!(outcomes.len(), 23);
    assert!(outcomes[..21].iter().all(|outcome| outcome.errno.is_none()));
    // The file ends in the middle of the second read.
    assert_eq!((outcomes[21].errno, outcomes[21].transferred), (Some(libc::EIO), 4096));
    assert_eq!((outcomes[22].errno, outcomes[22].transferred), (Some(libc::ECANCELED), 0));
    let outcomes = run(&executor, vec![vec![read(0, 8192)]]);
    assert_eq!(&outcomes[0].buf.as_ref().unwrap()[..], &pattern(8192, 19)[..]);
}

#[test]
fn more_slices_than_one_operation_takes_are_written_in_several() {
    let Some((_directory, executor)) = executor(0, OFlags::empty()) else { return };
    let data = pattern(512 * 5000, 3);
    let slices = (0..5000).map(|at| data.sub(at * 512..(at + 1) * 512)).collect();
    let outcomes = run(&executor, vec![vec![write(0, slices)]]);
    assert_eq!((outcomes[0].errno, outcomes[0].transferred), (None, 512 * 5000));
    let outcomes = run(&executor, vec![vec![read(0, 512 * 5000)]]);
    assert_eq!(&outcomes[0].buf.as_ref().unwrap()[..], &data[..]);
}

#[test]
fn empty_batches_empty_chains_and_empty_transfers_complete() {
    let Some((_directory, executor)) = executor(4096, OFlags::empty()) else { return };
    assert!(run(&executor, Vec::new()).is_empty());
    let outcomes = run(&executor, vec![Vec::new(), vec![write(0, Vec::new()), read(0, 512)], Vec::new()]);
    assert!(outcomes.len() == 2 && outcomes.iter().all(|outcome| outcome.errno.is_none()));
    let ticket = executor.submit(vec![vec![read(0, 512)]], IoClass::Log);
    assert_eq!(executor.wait(&ticket).len(), 1);
    assert!(executor.wait(&ticket).is_empty());
}

#[test]
fn errors_of_the_file_come_back_as_errno() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    std::fs::write(&path, [0; 4096]).unwrap();
    let Ok(executor) = Executor::new(&File::open(&path).unwrap(), 8) else { return };
    let outcomes = run(&executor, vec![vec![write(0, vec![pattern(4096, 1)])], vec![read(0, 4096)]]);
    assert_eq!(outcomes[0].errno, Some(libc::EBADF));
    assert_eq!(outcomes[1].errno, None);
}

#[test]
fn work_outlives_the_thread_that_submitted_it_and_an_executor_that_is_dropped() {
    let Some((directory, executor)) = executor(16 << 20, OFlags::empty()) else { return };
    let submit = || {
        let writes = (0..64).map(|at| vec![write(at * 262_144, vec![pattern(262_144, at)])]).collect();
        executor.submit(writes, IoClass::Foreground)
    };
    let ticket = std::thread::scope(|scope| scope.spawn(submit).join().unwrap());
    assert!(executor.wait(&ticket).iter().all(|outcome| outcome.errno.is_none()));
    let path = directory.path().join("file");
    File::options().write(true).open(&path).unwrap().set_len(0).unwrap();
    let _unwaited = submit();
    drop(executor);
    let content = std::fs::read(&path).unwrap();
    for at in 0..64_usize {
        assert!(content[at * 262_144..(at + 1) * 262_144] == pattern(262_144, at as u64)[..], "piece {at}");
    }
}

#[test]
fn memory_is_registered_with_the_first_transfer_that_it_is_for() {
    let Some((_directory, executor)) = executor(1 << 20, OFlags::empty()) else { return };
    // Before Linux 5.13 it is registered at once.
    let later = executor.shared.ring.params().is_feature_resource_tagging();
    let data = pattern(256 << 10, 3);
    run(&executor, vec![vec![write(0, vec![data.clone()])]]);
    let allowed = IoUring::new(8).is_ok_and(|ring| Pool::register(&ring).is_ok());
    assert_eq!(executor.has_registered_memory(), allowed && !later);
    std::thread::scope(|scope| {
        for at in 0..4 {
            let (executor, data) = (&executor, &data);
            scope.spawn(move || {
                let outcome = run(executor, vec![vec![read(at * 4096, 4096)]]).pop().unwrap();
                assert_eq!(outcome.buf.unwrap()[..], data[at as usize * 4096..][..4096]);
            });
        }
    });
    assert_eq!(executor.has_registered_memory(), allowed);
}

#[test]
fn what_the_kernel_turned_away_is_left_to_a_worker_that_may_wait() {
    let mut table = inflight::Table::new(8, inflight::Target::Descriptor(0));
    let batch = Arc::new(Batch::new(1));
    table.enqueue(Chain::new(vec![Transfer::Read { offset: 0, buf: AlignedBuf::zeroed(8192) }], 0, batch, IoClass::Foreground));
    let may_wait = |entry: Option<io_uring::squeue::Entry>| {
        let entry = format!("{:?}", entry.expect("an operation"));
        assert!(entry.contains("flags: "), "{entry}");
        entry.contains(&format!("flags: {},", io_uring::squeue::Flags::ASYNC.bits()))
    };
    let first = table.next_entry(None);
    assert!(!may_wait(first));
    assert!(may_wait(table.completed(0, -libc::EAGAIN, None)));
    assert!(may_wait(table.completed(0, -libc::EAGAIN, None)));
    // It went on: from there it is tried as before.
    assert!(!may_wait(table.completed(0, 4096, None)));
}
