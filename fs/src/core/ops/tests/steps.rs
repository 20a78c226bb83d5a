//! Intents, step by step, with crashes in between.

use super::memory::Shell;
use crate::addr::Addr;
use crate::core::key::{Class, Key};
use crate::core::ops::*;
use crate::format::item::Intent;
use crate::ids::{FileBlock, Ino};
use crate::volume::{Caller, SetAttr};
use zns::{DeviceId, ZoneId};

/// A file of `extents` extents of one block, with a hole behind each, and `block` blocks from `first` on.
fn ragged_file(shell: &mut Shell, extents: u64) -> Ino {
    let ino = shell.run(|txn| mknod(txn, Ino::ROOT, b"f", 0o644, 0, &Caller::default())).expect("a file").ino;
    for n in 0..extents {
        shell.memory.write(ino, n * 2, 1, Addr::new(DeviceId(0), ZoneId(1), n as u32));
    }
    let mut inode = shell.memory.inode(ino).expect("there");
    inode.size = extents * 8192;
    shell.memory.set(Key::inode(ino), inode.encode());
    ino
}

fn truncate(shell: &mut Shell, ino: Ino, size: u64) -> Setattr {
    let set = SetAttr { size: Some(size), ..SetAttr::default() };
    shell.run(|txn| setattr(txn, ino, &set)).expect("a length")
}

fn intents(shell: &mut Shell) -> Vec<(Key, Intent)> {
    let mut all = Vec::new();
    let mut from = Key::intent(Ino(0));
    while let Some((key, intent)) = shell.run(|txn| next_intent(txn, from)).expect("intents") {
        all.push((key, intent));
        from = Key { b: key.b + 1, ..key };
    }
    all
}

#[test]
fn freeing_takes_bounded_steps_and_each_leaves_a_sound_tree() {
    let mut shell = Shell::default();
    let ino = ragged_file(&mut shell, 100);
    shell.run(|txn| setxattr(txn, ino, b"user.big", &[1; 60_000], 0)).expect("set");
    assert_eq!(shell.run(|txn| free_step(txn, ino, 8)).expect("a step"), Step::Done, "a file with a name is left alone");
    assert_eq!(shell.memory.extents(ino).len(), 100);
    shell.run(|txn| unlink(txn, Ino::ROOT, b"f")).expect("there");
    assert_eq!(intents(&mut shell), [(Key::intent(ino), Intent::Free)]);
    let mut steps = 0;
    loop {
        let before = shell.memory.extents(ino).len();
        let step = shell.run(|txn| free_step(txn, ino, 8)).expect("a step");
        assert!(before - shell.memory.extents(ino).len() <= 8);
        shell.self_check();
        steps += 1;
        if step == Step::Done {
            break;
        }
    }
    // The last but one takes four extents and some of the 62 items of attributes.
    assert_eq!(steps, 14);
    assert!(intents(&mut shell).is_empty() && shell.memory.inode(ino).is_none());
    assert_eq!(shell.run(|txn| free_step(txn, ino, 8)).expect("a step"), Step::Done, "once more does no harm");
}

#[test]
fn large_written_extents_are_freed_piece_by_piece() {
    let mut shell = Shell::default();
    let ino = ragged_file(&mut shell, 0);
    let blocks = STEP_BLOCKS as u32 * 2 + 5;
    shell.memory.write(ino, 3, blocks, Addr::new(DeviceId(0), ZoneId(1), 0));
    shell.run(|txn| unlink(txn, Ino::ROOT, b"f")).expect("there");
    for left in [STEP_BLOCKS + 5, 5] {
        assert_eq!(shell.run(|txn| free_step(txn, ino, 8)).expect("a step"), Step::More);
        assert_eq!(shell.memory.inode(ino).expect("there").blocks, left);
        shell.self_check();
    }
    assert_eq!(shell.run(|txn| free_step(txn, ino, 8)).expect("a step"), Step::Done);
    assert_eq!(nothing_left(&shell), [0; 2]);
}

fn nothing_left(shell: &Shell) -> [usize; 2] {
    [Class::Extent, Class::Checksum].map(|class| shell.memory.keys(class).len())
}

#[test]
fn what_an_inode_left_behind_goes_even_if_it_is_gone_itself() {
    let mut shell = Shell::default();
    let ino = ragged_file(&mut shell, 5);
    shell.run(|txn| setxattr(txn, ino, b"user.big", &[1; 3000], 0)).expect("set");
    shell.run(|txn| unlink(txn, Ino::ROOT, b"f")).expect("there");
    shell.memory.unset(&Key::inode(ino));
    while shell.run(|txn| free_step(txn, ino, 2)).expect("a step") == Step::More {}
    let classes = [Class::Extent, Class::Checksum, Class::Xattr, Class::XattrValue, Class::Intent];
    assert_eq!(classes.map(|class| shell.memory.keys(class).len()), [0; 5]);
}

#[test]
fn a_large_cut_leaves_an_intent_that_growing_waits_for() {
    let mut shell = Shell::default();
    let ino = ragged_file(&mut shell, 300);
    let Setattr::Done { inode, resize: Some(resize) } = truncate(&mut shell, ino, 10 * 4096 + 1) else { panic!("planned") };
    assert_eq!((inode.size, resize.cut, resize.tail()), (10 * 4096 + 1, true, Some((10 * 4096 + 1, 4095))));
    assert_eq!(intents(&mut shell), [(Key::cut(ino), Intent::Cut { from: FileBlock(11) })]);
    shell.run(|txn| cut_step(txn, ino, 8)).expect("a step");
    assert_eq!(shell.run(|txn| pending_cut(txn, ino)).expect("an intent"), Some(FileBlock(11)));
    assert_eq!(truncate(&mut shell, ino, 11 * 4096 + 1), Setattr::CutFirst);
    let mode = libc::FALLOC_FL_KEEP_SIZE;
    assert_eq!(shell.run(|txn| fallocate(txn, ino, mode, 11 * 4096, 4096)).expect("planned"), Fallocate::CutFirst);
    assert!(matches!(truncate(&mut shell, ino, 11 * 4096), Setattr::Done { .. }), "as far as the cut it may grow");
    // A shorter cut takes the longer one's place; the name may go meanwhile.
    assert!(matches!(truncate(&mut shell, ino, 4096), Setattr::Done { resize: Some(Resize { cut: true, .. }), .. }));
    shell.run(|txn| unlink(txn, Ino::ROOT, b"f")).expect("there");
    assert_eq!(intents(&mut shell), [(Key::intent(ino), Intent::Free), (Key::cut(ino), Intent::Cut { from: FileBlock(1) })]);
    while shell.run(|txn| cut_step(txn, ino, 8)).expect("a step") == Step::More {
        shell.self_check();
    }
    assert_eq!(shell.memory.extents(ino).len(), 1);
    assert!(matches!(truncate(&mut shell, ino, 1 << 30), Setattr::Done { .. }));
    assert_eq!(intents(&mut shell), [(Key::intent(ino), Intent::Free)]);
    while shell.run(|txn| free_step(txn, ino, 8)).expect("a step") == Step::More {}
    assert!(shell.memory.keys(Class::Intent).is_empty());
}

#[test]
fn a_small_cut_is_done_at_once_and_ends_an_earlier_one() {
    let mut shell = Shell::default();
    let ino = ragged_file(&mut shell, 200);
    assert!(matches!(truncate(&mut shell, ino, 20 * 8192), Setattr::Done { resize: Some(Resize { cut: true, .. }), .. }));
    while shell.memory.extents(ino).len() > 26 {
        shell.run(|txn| cut_step(txn, ino, 7)).expect("a step");
    }
    assert!(matches!(truncate(&mut shell, ino, 16 * 8192), Setattr::Done { resize: Some(Resize { cut: false, .. }), .. }));
    assert_eq!((shell.memory.extents(ino).len(), intents(&mut shell).len()), (16, 0));
    shell.self_check();
}

#[test]
fn allocating_goes_on_behind_what_it_looked_at() {
    let mut shell = Shell::default();
    let ino = ragged_file(&mut shell, 0);
    let many = u64::from(STEP_EXTENTS) * 2 + 10;
    for n in 0..many {
        shell.memory.write(ino, n, 1, Addr::new(DeviceId(0), ZoneId(1), 2 * n as u32));
    }
    truncate(&mut shell, ino, many * 4096);
    let (mut offset, end) = (100, many * 4096 - 100);
    let mut edges = Vec::new();
    let mut preallocated = 0;
    loop {
        let Fallocate::Done(done) =
            shell.run(|txn| fallocate(txn, ino, libc::FALLOC_FL_ZERO_RANGE, offset, end - offset)).expect("planned")
        else {
            panic!("no cut")
        };
        edges.extend(done.edges);
        preallocated += done.preallocated;
        shell.self_check();
        match done.next {
            Some(next) => offset = next,
            None => break,
        }
    }
    assert_eq!(edges, [(100, 3996), ((many - 1) * 4096, 3996)]);
    assert_eq!(preallocated, many - 2);
    assert_eq!(shell.memory.inode(ino).expect("there").blocks, many);
}
