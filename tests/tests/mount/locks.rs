//! Locks between processes: flock(2) and the byte ranges of fcntl(2).

use rustix::fs::{FlockOperation, flock};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use tests::{Mounted, errno, sys};

fn open(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).unwrap()
}

/// Tries to lock a range without waiting.
fn lock_range(file: &File, kind: libc::c_int, from: i64, length: i64) -> std::io::Result<i64> {
    use std::os::fd::AsRawFd;
    // SAFETY: an all-zero flock is a valid value of this plain C structure.
    let mut range: libc::flock = unsafe { std::mem::zeroed() };
    range.l_type = kind as libc::c_short;
    range.l_whence = libc::SEEK_SET as libc::c_short;
    range.l_start = from;
    range.l_len = length;
    // SAFETY: the descriptor is open and the structure lives through the call.
    sys(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLK, &range) })
}

/// A process of its own that holds a lock until its standard input is closed.
fn holder(path: &Path, command: &str) -> Child {
    // `flock` of util-linux takes the lock on descriptor 9 and keeps it while the shell lives.
    let script = format!("exec 9<>\"$1\"; {command}; echo locked; read line");
    let mut child = Command::new("sh").args(["-c", &script, "sh"]).arg(path).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "locked\n");
    child
}

fn release(mut child: Child) {
    drop(child.stdin.take().map(|mut stdin| stdin.write_all(b"\n")));
    child.wait().unwrap();
}

#[test]
fn flock_excludes_another_process_and_ends_with_it() {
    let Some(mounted) = Mounted::new() else {
        return;
    };
    let path = mounted.path("f");
    let file = open(&path);
    let child = holder(&path, "flock -x 9");
    let attempt = |operation| flock(&file, operation).map_err(std::io::Error::from);
    assert_eq!(errno(attempt(FlockOperation::NonBlockingLockExclusive)), libc::EWOULDBLOCK);
    assert_eq!(errno(attempt(FlockOperation::NonBlockingLockShared)), libc::EWOULDBLOCK);
    release(child);
    attempt(FlockOperation::LockExclusive).unwrap();
    attempt(FlockOperation::Unlock).unwrap();
    let child = holder(&path, "flock -s 9");
    attempt(FlockOperation::NonBlockingLockShared).unwrap();
    assert_eq!(errno(attempt(FlockOperation::NonBlockingLockExclusive)), libc::EWOULDBLOCK);
    release(child);
    drop(file);
    mounted.finish();
}

#[test]
fn a_waiting_flock_gets_its_turn() {
    let Some(mounted) = Mounted::new() else {
        return;
    };
    let path = mounted.path("f");
    let first = open(&path);
    flock(&first, FlockOperation::LockExclusive).unwrap();
    let waiter = std::thread::spawn({
        let path = path.clone();
        move || flock(open(&path), FlockOperation::LockExclusive).unwrap()
    });
    flock(&first, FlockOperation::Unlock).unwrap();
    waiter.join().unwrap();
    drop(first);
    mounted.finish();
}

#[test]
fn byte_ranges_exclude_other_processes_and_end_at_close() {
    let Some(mounted) = Mounted::new() else {
        return;
    };
    let path = mounted.path("f");
    let ours = open(&path);
    lock_range(&ours, libc::F_WRLCK, 100, 100).unwrap();
    // Locks of one process never exclude it itself: a child looks from outside, by the same call.
    let others_get = |kind: libc::c_int, from: i64, length: i64| -> i32 {
        // SAFETY: the child only opens a file, locks it and leaves; none of that needs a lock that another thread could hold.
        match unsafe { libc::fork() } {
            0 => {
                let file = std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str());
                let mut name = [0u8; 4096];
                name[..file.len()].copy_from_slice(file);
                // SAFETY: the name ends with a zero byte, the structure lives through the call, and _exit ends the child.
                unsafe {
                    let fd = libc::open(name.as_ptr().cast(), libc::O_RDWR);
                    let mut range: libc::flock = std::mem::zeroed();
                    range.l_type = kind as libc::c_short;
                    range.l_start = from;
                    range.l_len = length;
                    let got = libc::fcntl(fd, libc::F_SETLK, &range);
                    libc::_exit(if got == 0 { 0 } else { *libc::__errno_location() })
                }
            }
            pid => {
                let mut status = 0;
                // SAFETY: waits for the child made above, with a place for its status.
                sys(unsafe { libc::waitpid(pid, &mut status, 0) }).unwrap();
                libc::WEXITSTATUS(status)
            }
        }
    };
    assert_eq!(others_get(libc::F_WRLCK, 0, 100), 0);
    assert_eq!(others_get(libc::F_WRLCK, 150, 1), libc::EAGAIN);
    assert_eq!(others_get(libc::F_RDLCK, 199, 50), libc::EAGAIN);
    assert_eq!(others_get(libc::F_WRLCK, 200, 0), 0);
    lock_range(&ours, libc::F_RDLCK, 100, 50).unwrap();
    assert_eq!(others_get(libc::F_RDLCK, 100, 50), 0);
    assert_eq!(others_get(libc::F_WRLCK, 100, 50), libc::EAGAIN);
    lock_range(&ours, libc::F_UNLCK, 150, 50).unwrap();
    assert_eq!(others_get(libc::F_WRLCK, 150, 50), 0);
    // POSIX: closing any descriptor of the file drops the process's locks.
    drop(open(&path));
    assert_eq!(others_get(libc::F_WRLCK, 0, 0), 0);
    drop(ours);
    mounted.finish();
}
