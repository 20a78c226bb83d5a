//! As much of Sun RPC as Linux's file server and client want from the host beside them: a portmapper that takes every registration (RFC 1833), and a mountd
//! that knows one handle (RFC 1813, appendix I). One server over TCP is both.

use anyhow::{Context, Result, ensure};
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

/// Where the kernel looks for a portmapper, and where it is told to look for mountd.
pub const PORT: u16 = 111;

const PORTMAPPER: u32 = 100_000;
const MOUNT: u32 = 100_005;
/// Of either program: does nothing.
const NULL: u32 = 0;
/// Of the portmapper.
const SET: u32 = 1;
const UNSET: u32 = 2;
/// Of mountd.
const MNT: u32 = 1;
const UMNT: u32 = 3;
const AUTH_SYS: u32 = 1;
/// No call of these programs is longer.
const LONGEST: u32 = 16 << 10;
const LAST_FRAGMENT: u32 = 1 << 31;

/// The server; its threads end with the process, as guests do.
#[derive(Debug)]
pub struct Server {
    handle: Vec<u8>,
    mounts: AtomicU32,
}

impl Server {
    /// Serves from now on. `handle` is that of whatever path is asked for.
    ///
    /// # Errors
    /// The port is taken.
    pub fn start(handle: Vec<u8>) -> Result<Arc<Server>> {
        let listener = TcpListener::bind(("127.0.0.1", PORT)).with_context(|| format!("port {PORT}"))?;
        let server = Arc::new(Server { handle, mounts: AtomicU32::new(0) });
        let all = Arc::clone(&server);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let server = Arc::clone(&all);
                thread::spawn(move || {
                    if let Err(error) = server.serve(stream) {
                        eprintln!("a caller of the portmapper or mountd: {error:#}");
                    }
                });
            }
        });
        Ok(server)
    }

    /// How often the handle was asked for.
    pub fn mounts(&self) -> u32 {
        self.mounts.load(Ordering::Relaxed)
    }

    fn serve(&self, mut stream: TcpStream) -> Result<()> {
        loop {
            let mut mark = [0; 4];
            match stream.read_exact(&mut mark) {
                Err(error) if matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => return Ok(()),
                read => read?,
            }
            let mark = u32::from_be_bytes(mark);
            let length = mark & !LAST_FRAGMENT;
            ensure!(mark & LAST_FRAGMENT != 0 && length <= LONGEST, "a record of {length} bytes, or in pieces");
            let mut call = vec![0; length as usize];
            stream.read_exact(&mut call)?;
            let answer = self.answer(&call)?;
            let mark = LAST_FRAGMENT | answer.len() as u32;
            stream.write_all(&[&mark.to_be_bytes()[..], &answer].concat())?;
        }
    }

    fn answer(&self, call: &[u8]) -> Result<Vec<u8>> {
        let word = |at: usize| call.get(at * 4..at * 4 + 4).map(|bytes| u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
        // Transaction, 0 for a call, version of RPC, program, its version, procedure; the rest says who calls, and with what.
        let words: Option<Vec<u32>> = (0..6).map(word).collect();
        let words = words.context("a call without a head")?;
        // Accepted, by nobody in particular, with success.
        let mut answer = vec![words[0], 1, 0, 0, 0, 0];
        match (words[3], words[5]) {
            (PORTMAPPER | MOUNT, NULL) | (MOUNT, UMNT) => {}
            (PORTMAPPER, SET | UNSET) => answer.push(1),
            (MOUNT, MNT) => {
                self.mounts.fetch_add(1, Ordering::Relaxed);
                answer.extend([0, self.handle.len() as u32]);
                // Handles are whole words as it is (nfsd's are), and so need no filling up.
                ensure!(self.handle.len().is_multiple_of(4), "a handle of {} bytes", self.handle.len());
                answer.extend(self.handle.chunks_exact(4).map(|bytes| u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])));
                answer.extend([1, AUTH_SYS]);
            }
            // No such procedure.
            _ => answer[5] = 3,
        }
        Ok(answer.into_iter().flat_map(u32::to_be_bytes).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(program: u32, procedure: u32) -> Vec<u8> {
        let server = Server { handle: vec![7; 8], mounts: AtomicU32::new(0) };
        let call: Vec<u8> = [9, 0, 2, program, 3, procedure, 0, 0, 0, 0].into_iter().flat_map(u32::to_be_bytes).collect();
        server.answer(&call).unwrap()
    }

    #[test]
    fn registrations_succeed_and_a_mount_gets_the_handle() {
        let head = [0, 0, 0, 9, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(ask(PORTMAPPER, SET), [&head[..], &[0, 0, 0, 1]].concat());
        assert_eq!(ask(MOUNT, MNT), [&head[..], &[0; 7], &[8], &[7; 8], &[0, 0, 0, 1, 0, 0, 0, 1]].concat());
        assert_eq!(ask(PORTMAPPER, NULL), head);
        let refused = ask(MOUNT, 99);
        assert_eq!(refused[20..], [0, 0, 0, 3]);
        let server = Server { handle: Vec::new(), mounts: AtomicU32::new(0) };
        assert!(server.answer(&[0; 8]).is_err());
    }
}
