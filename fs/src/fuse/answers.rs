//! Answers of the control protocol: each belongs to the open file that asked, and goes when that file is closed.

use super::control::{self, FETCH_BYTES, Header, Hello, OVER_DEVICE, OVER_RING, PATIENCE, Request};
use super::errno::errno;
use super::lanes::Lanes;
use crate::error::Result;
use parking_lot::{Condvar, Mutex};
use rustix::io::Errno;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

enum Answer {
    /// Somebody works on it.
    Pending,
    /// The errno, and the answer or the text of the error.
    Ready(i32, Vec<u8>),
}

#[derive(Default)]
struct Table {
    answers: Mutex<HashMap<u64, Answer>>,
    ready: Condvar,
    /// Entries of the table: closing a file need not take the lock while there are none.
    held: AtomicUsize,
}

/// The answers of a mount.
pub(super) struct Answers {
    table: Arc<Table>,
    owner: u32,
    /// The kernel has told us of a syncfs(2).
    synced: AtomicBool,
}

impl Default for Answers {
    fn default() -> Self {
        Self { table: Arc::default(), owner: rustix::process::geteuid().as_raw(), synced: AtomicBool::new(false) }
    }
}

impl Answers {
    /// The kernel tells of syncfs(2).
    pub(super) fn told_of_sync(&self) {
        self.synced.store(true, Ordering::Relaxed);
    }

    /// Answers a CALL: `carry_out` does what is asked, on another thread, and this waits for it a moment. `over_ring`: so the call has come.
    pub(super) fn call(
        &self,
        handle: u64,
        uid: u32,
        over_ring: bool,
        request: Request,
        lanes: &Lanes,
        carry_out: impl FnOnce() -> Result<serde_json::Value> + Send + 'static,
    ) -> Header {
        if request.is_order() && uid != 0 && uid != self.owner {
            return self.put(handle, libc::EPERM, b"only root and the owner of the mount may order this".to_vec());
        }
        match request {
            Request::Hello => {
                let version = env!("CARGO_PKG_VERSION").to_owned();
                let hello = Hello {
                    version,
                    pid: std::process::id(),
                    pid_namespace: control::pid_namespace(),
                    uid: self.owner,
                    synced: self.synced.load(Ordering::Relaxed),
                    transport: if over_ring { OVER_RING } else { OVER_DEVICE }.into(),
                };
                let (code, bytes) = encoded(serde_json::to_value(&hello));
                self.put(handle, code, bytes)
            }
            Request::Wait => self.wait(handle),
            _ => {
                if !self.start(handle) {
                    return Header { errno: libc::EBUSY.unsigned_abs(), len: 0 };
                }
                let table = self.table.clone();
                lanes.hand_over(move || {
                    let (code, bytes) = match catch_unwind(AssertUnwindSafe(carry_out)) {
                        Ok(Ok(value)) => encoded(Ok(value)),
                        Ok(Err(error)) => (errno(&error), error.to_string().into_bytes()),
                        Err(_) => (libc::EIO, b"the daemon failed in this request: this is a bug".to_vec()),
                    };
                    // A file that was closed in the meantime wants no answer.
                    if let Some(answer) = table.answers.lock().get_mut(&handle) {
                        *answer = Answer::Ready(code, bytes);
                    }
                    table.ready.notify_all();
                });
                self.wait(handle)
            }
        }
    }

    /// Notes that an answer is being worked on; `false` if one is already.
    fn start(&self, handle: u64) -> bool {
        let mut answers = self.table.answers.lock();
        match answers.insert(handle, Answer::Pending) {
            Some(Answer::Pending) => return false,
            Some(Answer::Ready(..)) => {}
            None => {
                self.table.held.fetch_add(1, Ordering::Relaxed);
            }
        }
        true
    }

    fn put(&self, handle: u64, code: i32, bytes: Vec<u8>) -> Header {
        let header = Header { errno: code.unsigned_abs(), len: bytes.len() as u64 };
        if self.table.answers.lock().insert(handle, Answer::Ready(code, bytes)).is_none() {
            self.table.held.fetch_add(1, Ordering::Relaxed);
        }
        header
    }

    fn wait(&self, handle: u64) -> Header {
        let deadline = Instant::now() + PATIENCE;
        let mut answers = self.table.answers.lock();
        loop {
            match answers.get(&handle) {
                Some(Answer::Ready(code, bytes)) => return Header { errno: code.unsigned_abs(), len: bytes.len() as u64 },
                None => return Header { errno: libc::EINVAL.unsigned_abs(), len: 0 },
                Some(Answer::Pending) => {}
            }
            if self.table.ready.wait_until(&mut answers, deadline).timed_out() {
                return Header { errno: libc::EINPROGRESS.unsigned_abs(), len: 0 };
            }
        }
    }

    /// The piece of an answer that a FETCH asks for.
    pub(super) fn piece(&self, handle: u64, asked: &[u8]) -> std::result::Result<Vec<u8>, Errno> {
        let offset = asked.first_chunk().map(|bytes| u64::from_le_bytes(*bytes)).ok_or(Errno::INVAL)?;
        let answers = self.table.answers.lock();
        let Some(Answer::Ready(_, answer)) = answers.get(&handle) else { return Err(Errno::INVAL) };
        let start = usize::try_from(offset).ok().filter(|start| *start <= answer.len()).ok_or(Errno::INVAL)?;
        let end = answer.len().min(start + FETCH_BYTES);
        Ok(answer[start..end].to_vec())
    }

    /// The open file is closed.
    pub(super) fn closed(&self, handle: u64) {
        if self.table.held.load(Ordering::Relaxed) > 0 && self.table.answers.lock().remove(&handle).is_some() {
            self.table.held.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

fn encoded(value: serde_json::Result<serde_json::Value>) -> (i32, Vec<u8>) {
    match value.and_then(|value| serde_json::to_vec(&value)) {
        Ok(bytes) => (0, bytes),
        Err(error) => (libc::EIO, error.to_string().into_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::FsError;
    use std::sync::mpsc::channel;

    const FILE: u64 = 7;

    fn fetch(answers: &Answers, header: Header) -> String {
        let piece = answers.piece(FILE, &0u64.to_le_bytes()).unwrap();
        assert_eq!(piece.len() as u64, header.len);
        String::from_utf8(piece).unwrap()
    }

    /// What becomes of an answer that may not be there yet.
    fn settled(answers: &Answers, lanes: &Lanes, mut header: Header) -> Header {
        while header.errno == libc::EINPROGRESS.unsigned_abs() {
            header = answers.call(FILE, 0, false, Request::Wait, lanes, || Ok(0.into()));
        }
        header
    }

    #[test]
    fn orders_are_for_root_and_the_owner() {
        let (answers, lanes) = (Answers::default(), Lanes::default());
        let stranger = answers.owner + 1;
        let header = answers.call(FILE, stranger, false, Request::Sync, &lanes, || panic!("it must not be carried out"));
        assert_eq!(header.errno, libc::EPERM.unsigned_abs());
        assert!(fetch(&answers, header).contains("only root"));
        let header = answers.call(FILE, stranger, false, Request::Status, &lanes, || Ok(1.into()));
        assert_eq!((header.errno, fetch(&answers, header).as_str()), (0, "1"));
    }

    #[test]
    fn a_long_order_is_waited_for_in_turns() {
        let (answers, lanes) = (Answers::default(), Lanes::default());
        let (finish, finished) = channel::<()>();
        let order = Request::Gc { until_clean: true };
        let in_progress = libc::EINPROGRESS.unsigned_abs();
        let header = answers.call(FILE, 0, false, order, &lanes, move || {
            finished.recv().unwrap();
            Ok("done".into())
        });
        assert_eq!(header.errno, in_progress);
        assert_eq!(answers.call(FILE, 0, false, order, &lanes, || Ok(0.into())).errno, libc::EBUSY.unsigned_abs());
        assert!(answers.piece(FILE, &[0; 8]).is_err());
        finish.send(()).unwrap();
        assert_eq!(fetch(&answers, settled(&answers, &lanes, header)), "\"done\"");
        answers.closed(FILE);
        assert!(answers.piece(FILE, &[0; 8]).is_err());
        assert_eq!(answers.table.held.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn how_a_call_came_is_how_requests_come() {
        let (answers, lanes) = (Answers::default(), Lanes::default());
        for (over_ring, expected) in [(true, OVER_RING), (false, OVER_DEVICE)] {
            let header = answers.call(FILE, 0, over_ring, Request::Hello, &lanes, || panic!("the adaptor answers this"));
            let hello: Hello = serde_json::from_str(&fetch(&answers, header)).unwrap();
            assert_eq!(hello.transport, expected);
        }
    }

    #[test]
    fn errors_and_panics_are_answers() {
        let (answers, lanes) = (Answers::default(), Lanes::default());
        let header = answers.call(FILE, 0, false, Request::Map, &lanes, || Err(FsError::IsADirectory));
        assert_eq!(header.errno, libc::EISDIR.unsigned_abs());
        assert_eq!(fetch(&answers, header), "is a directory");
        let header = answers.call(FILE, 0, false, Request::Zones, &lanes, || panic!("a panic that the test wants"));
        assert_eq!(settled(&answers, &lanes, header).errno, libc::EIO.unsigned_abs());
        assert_eq!(answers.call(8, 0, false, Request::Wait, &lanes, || Ok(0.into())).errno, libc::EINVAL.unsigned_abs());
    }
}
