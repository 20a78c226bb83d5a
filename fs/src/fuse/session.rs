//! A mounted filesystem: the adaptor's threads, from the mount to the moment when the kernel lets go of it.

use super::adaptor::{Adaptor, AdaptorOptions, survive};
use super::channel::{Buffer, Channel};
use super::handshake::handshake;
use super::lanes::Crew;
use super::mountpoint::{self, Identity, MountRequest, MountType, MountpointError, Preparation};
use super::ring::{self, Running, Transport};
use super::served::Served;
use super::wire::{Request, op};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::thread::JoinHandle;
use thiserror::Error;
use zns::Processors;

type Thread = JoinHandle<std::io::Result<()>>;

/// Readahead that a root mount gives itself, in KiB: the kernel's own 128 KiB would cut sequential reads into small requests.
const READAHEAD_KIB: u32 = 1024;

/// Why a filesystem could not be served.
#[derive(Debug, Error)]
pub enum SessionError {
    /// The mount itself failed.
    #[error(transparent)]
    Mountpoint(#[from] MountpointError),
    /// The kernel and this program did not agree.
    #[error("start the FUSE session: {0}")]
    Start(std::io::Error),
    /// The mount was made but gives no answer.
    #[error("{path} is mounted but does not answer: {}", std::io::Error::from(*errno))]
    Silent {
        /// Where.
        path: PathBuf,
        /// The errno of statfs(2).
        errno: Errno,
    },
}

/// A filesystem that is being served.
pub struct Mounted {
    thread: Option<Thread>,
    over: OwnedFd,
    mountpoint: PathBuf,
    identity: Identity,
}

impl Mounted {
    /// Mounts `served` and serves it on threads of its own; returns when the mount answers.
    ///
    /// # Errors
    /// Whatever is in the way; nothing stays mounted then.
    pub fn start<S: Served>(served: Arc<S>, request: &MountRequest, options: AdaptorOptions) -> Result<Self, SessionError> {
        Self::start_prepared(served, request, request.prepare(|| Ok(())), options)
    }

    /// The same, prepared earlier (see [`MountRequest::prepare`]).
    ///
    /// # Errors
    /// Whatever is in the way; nothing stays mounted then.
    pub fn start_prepared<S: Served>(
        served: Arc<S>,
        request: &MountRequest,
        preparation: Option<Preparation>,
        options: AdaptorOptions,
    ) -> Result<Self, SessionError> {
        let connection = mountpoint::mount(request, preparation)?;
        // From here on a failure must not leave a dead mount behind.
        let mut abandoned = AbandonedMount(Some(&request.mountpoint));
        let channel = Channel::new(connection);
        let mut rings = None;
        let mut ring = |offered| {
            rings = prepare_rings(&channel, &options, offered)?;
            Ok(rings.is_some())
        };
        let is_block_mount = request.kind == MountType::Block;
        let agreed = handshake(&channel, &options, S::HAS_ACLS, is_block_mount, &mut ring).map_err(SessionError::Start)?;
        let adaptor = Arc::new(Adaptor::new(served, agreed));
        let (falls, fallen) = std::sync::mpsc::channel();
        let (threads, rings) = match rings {
            None => (options.threads, Running::default()),
            Some(rings) => {
                let rings = start_rings(rings, &adaptor, falls.clone()).map_err(SessionError::Start)?;
                // Beside rings a single thread reads the channel, unless it brings requests as well.
                (if rings.refused.is_some() { options.threads } else { 1 }, rings)
            }
        };
        let channels = channels(channel, threads);
        let over = eventfd(0, EventfdFlags::CLOEXEC).map_err(|errno| SessionError::Start(errno.into()))?;
        let signal = over.try_clone().map_err(SessionError::Start)?;
        let run = move || {
            let ended = serve_all(&adaptor, channels, rings.threads, options.max_write, (falls, fallen));
            // Whoever waits for the end learns of it even when it was an error.
            let _ = rustix::io::write(&signal, &1u64.to_ne_bytes());
            ended
        };
        let thread = std::thread::Builder::new().name("fuse-session".into()).spawn(run).map_err(SessionError::Start)?;
        let silent = |errno| SessionError::Silent { path: request.mountpoint.clone(), errno };
        let identity = mountpoint::apart(|| try_out(&request.mountpoint)).map_err(SessionError::Start)?.map_err(silent)?;
        raise_readahead(&identity);
        abandoned.0 = None;
        Ok(Self { thread: Some(thread), over, mountpoint: request.mountpoint.clone(), identity })
    }

    /// Becomes readable when the session is over.
    pub fn over(&self) -> BorrowedFd<'_> {
        self.over.as_fd()
    }

    /// How this mount is taken out of the tree, for another thread.
    pub fn way_out(&self) -> WayOut {
        WayOut { mountpoint: self.mountpoint.clone(), identity: self.identity }
    }

    /// See [`WayOut::unmount`].
    ///
    /// # Errors
    /// As there.
    pub fn unmount(&self, lazy: bool) -> Result<(), MountpointError> {
        self.way_out().unmount(lazy)
    }

    /// Waits until the kernel has let go: nobody has a file open any more, and every request has been answered.
    ///
    /// # Errors
    /// The error with which the session ended.
    pub fn wait(mut self) -> std::io::Result<()> {
        match self.thread.take().map(JoinHandle::join) {
            // The kernel may say that it has let go in these words, too, when a thread comes for a request while the last user leaves.
            Some(Ok(Err(error))) if is_abortion(&error) => {
                tracing::debug!("the FUSE connection ended as aborted");
                Ok(())
            }
            Some(Ok(ended)) => ended,
            Some(Err(_)) => Err(std::io::Error::other("a thread of the FUSE session panicked")),
            None => Ok(()),
        }
    }
}

/// Has the mount answer, and see whether the kernel tells of syncfs(2), which the adaptor remembers. Nothing is there yet to be made durable.
fn try_out(mountpoint: &Path) -> Result<Identity, Errno> {
    rustix::fs::statvfs(mountpoint)?;
    let identity = mountpoint::identity(mountpoint)?;
    if let Ok(root) = File::open(mountpoint) {
        let _ = rustix::fs::syncfs(root);
    }
    Ok(identity)
}

/// How a mount is taken out of the tree.
#[derive(Clone, Debug)]
pub struct WayOut {
    mountpoint: PathBuf,
    identity: Identity,
}

impl WayOut {
    /// Takes the mount out of the tree, if it is still there: somebody may have unmounted it, and something else may be
    /// mounted in its place.
    ///
    /// # Errors
    /// A mount in use (unless `lazy`), or a refusal.
    pub fn unmount(&self, lazy: bool) -> Result<(), MountpointError> {
        if mountpoint::identity(&self.mountpoint) != Ok(self.identity) {
            return Ok(());
        }
        mountpoint::unmount_own(&self.mountpoint, lazy)
    }
}

/// A descriptor of the connection for each thread; without the right to open /dev/fuse they share the one that the helper gave.
fn channels(first: Channel, threads: usize) -> Vec<Channel> {
    let mut channels = vec![first.clone()];
    for _ in 1..threads.max(1) {
        channels.push(match mountpoint::open_device() {
            Ok(device) => first.cloned_to(device).unwrap_or_else(|_| first.clone()),
            Err(_) => first.clone(),
        });
    }
    channels
}

/// Rings for the connection, if requests shall come over them.
///
/// # Errors
/// They shall, but cannot.
fn prepare_rings(channel: &Channel, options: &AdaptorOptions, offered: bool) -> std::io::Result<Option<ring::Prepared>> {
    if options.transport != Transport::Ring {
        return Ok(None);
    }
    let prepared = if offered {
        ring::Prepared::new(channel, options.max_write)
    } else {
        Err(std::io::Error::other("the kernel has no FUSE over io_uring (Linux 6.14), or /sys/module/fuse/parameters/enable_uring is off"))
    };
    prepared.map(Some).map_err(|error| std::io::Error::other(format!("transport=io_uring is not possible here: {error}")))
}

/// Has requests come over the rings, whose threads tell `falls` when one of them cannot go on.
///
/// # Errors
/// The kernel waits for entries that it will never get.
fn start_rings<S: Served>(rings: ring::Prepared, adaptor: &Arc<Adaptor<S>>, falls: Sender<std::io::Error>) -> std::io::Result<Running> {
    let answering = adaptor.clone();
    let answer: Arc<ring::Answer> = Arc::new(move |request: Request<'_>, reply| match request.header.opcode {
        op::DESTROY => answering.destroy(reply),
        _ => answering.answer(request, reply),
    });
    let running = rings.start(answer, falls)?;
    if let Some(error) = &running.refused {
        tracing::error!("the kernel takes not all requests over io_uring ({error}): they are read from /dev/fuse");
    }
    Ok(running)
}

/// Answers requests on a thread for each channel, until the kernel lets go. `beside`: threads that do so already, and say it to the `Sender` when they cannot
/// go on.
fn serve_all<S: Served>(
    adaptor: &Arc<Adaptor<S>>,
    channels: Vec<Channel>,
    beside: Vec<Thread>,
    max_write: u32,
    (falls, fallen): (Sender<std::io::Error>, Receiver<std::io::Error>),
) -> std::io::Result<()> {
    let crew = Arc::new(Crew::new(channels.len()));
    let homes = homes(&Processors::of_caller().numbers(), channels.len());
    let is_alone = !beside.is_empty() && channels.len() == 1;
    let start = |(number, channel): (usize, Channel)| {
        let (adaptor, crew, falls) = (adaptor.clone(), crew.clone(), falls.clone());
        let home = homes.get(number).copied();
        let work = move || {
            crew.join();
            home.into_iter().for_each(Processors::bind_to);
            let ended = serve(&adaptor, &channel, max_write);
            if let Err(error) = &ended
                && is_alone
                && !is_abortion(error)
            {
                let _ = falls.send(std::io::Error::other(format!("the thread that reads from /dev/fuse cannot go on: {error}")));
            }
            ended
        };
        std::thread::Builder::new().name(format!("fuse-{number}")).spawn(work)
    };
    let started: Vec<_> = channels.into_iter().enumerate().map(start).collect();
    drop(falls);
    // What is still running after a fall may wait for ever.
    let ended = await_end(started.into_iter().chain(beside.into_iter().map(Ok)), &fallen)?;
    adaptor.finish();
    ended
}

/// To which processor each of the threads is bound; none: they are not.
///
/// Left to itself the scheduler moves a thread that wakes up for a request to a processor that sleeps, whose waking takes longer than the request, and where several
/// requests come at once it keeps all threads on one processor for milliseconds while the other is idle. The kernel has those who wait for requests take turns:
/// bound to two processors, every second request finds its thread where it was asked. With more processors that is seldom, and a thread that is bound may have to wait for
/// somebody who keeps its processor, so they are left alone.
fn homes(processors: &[usize], threads: usize) -> Vec<usize> {
    if processors.len() == 2 && threads == 2 { processors.to_vec() } else { Vec::new() }
}

/// Waits for the end of all threads, which hold what `fallen` listens to: the first error that one of them ended with.
///
/// # Errors
/// One of them cannot go on. Others are not waited for then: nobody gives what it has left an answer, until the process ends and the kernel lets go.
fn await_end(
    threads: impl Iterator<Item = std::io::Result<Thread>>,
    fallen: &Receiver<std::io::Error>,
) -> std::io::Result<std::io::Result<()>> {
    if let Ok(error) = fallen.recv() {
        return Err(error);
    }
    let mut ended: std::io::Result<()> = Ok(());
    for thread in threads {
        let result =
            thread.and_then(|thread| thread.join().unwrap_or_else(|_| Err(std::io::Error::other("a thread of the FUSE session panicked"))));
        // An end by abortion is no news beside another error.
        ended = match (ended, result) {
            (Err(first), Err(next)) if is_abortion(&first) => Err(next),
            (Err(first), _) => Err(first),
            (Ok(()), result) => result,
        };
    }
    Ok(ended)
}

fn is_abortion(error: &std::io::Error) -> bool {
    error.raw_os_error() == Some(libc::ECONNABORTED)
}

/// Answers one request after the other.
fn serve<S: Served>(adaptor: &Arc<Adaptor<S>>, channel: &Channel, max_write: u32) -> std::io::Result<()> {
    let mut buffer = Buffer::new(max_write);
    while let Some(bytes) = channel.receive(&mut buffer)? {
        let request = Request::parse(bytes).map_err(std::io::Error::other)?;
        let (opcode, reply) = (request.header.opcode, channel.reply(request.header.unique));
        if opcode == op::DESTROY {
            survive(opcode, || adaptor.destroy(reply));
            return Ok(());
        }
        survive(opcode, || adaptor.answer(request, reply));
    }
    Ok(())
}

/// Unmounts when dropped with a path.
struct AbandonedMount<'a>(Option<&'a Path>);

impl Drop for AbandonedMount<'_> {
    fn drop(&mut self) {
        if let Some(path) = self.0 {
            let _ = mountpoint::unmount_own(path, true);
        }
    }
}

/// Best effort: only root may, and only where sysfs is mounted.
fn raise_readahead(identity: &Identity) {
    // In a mount of type fuseblk the name without suffix is that of the block device.
    for suffix in ["-fuseblk", ""] {
        let knob = format!("/sys/class/bdi/{}{suffix}/read_ahead_kb", identity.device());
        if let Ok(mut knob) = OpenOptions::new().write(true).open(knob) {
            let _ = knob.write_all(READAHEAD_KIB.to_string().as_bytes());
            break;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::EventfdFlags;
    use std::io::{Error, Result};
    use std::sync::mpsc::channel;

    #[test]
    fn two_threads_have_each_one_of_two_processors() {
        assert_eq!(homes(&[3, 5], 2), [3, 5]);
        for (processors, threads) in [(&[0][..], 2), (&[0, 1], 1), (&[0, 1], 3), (&[0, 1, 2], 2), (&[0, 1, 2, 3], 4), (&[], 2)] {
            assert!(homes(processors, threads).is_empty(), "{threads} on {processors:?}");
        }
    }

    #[test]
    fn the_session_ends_when_a_thread_of_a_ring_cannot_go_on() {
        let (falls, fallen) = channel();
        let (never, asked) = channel::<()>();
        let waits = falls.clone();
        let other = std::thread::spawn(move || {
            let (_alive, _) = (waits, asked.recv());
            Ok(())
        });
        falls.send(Error::other("it cannot go on")).unwrap();
        let ended = await_end(std::iter::once(Ok(other)), &fallen);
        assert_eq!(ended.unwrap_err().to_string(), "it cannot go on", "though others still wait");
        drop(never);
    }

    #[test]
    fn the_session_ends_with_its_threads_and_an_abortion_is_no_news_beside_another_error() {
        let end = |results: Vec<fn() -> Result<()>>| {
            let (falls, fallen) = channel();
            let start = |work: fn() -> Result<()>| {
                let alive = falls.clone();
                Ok(std::thread::spawn(move || (work(), alive).0))
            };
            let threads: Vec<Result<Thread>> = results.into_iter().map(start).collect();
            drop(falls);
            await_end(threads.into_iter(), &fallen).unwrap()
        };
        let aborted = || Err(Error::from_raw_os_error(libc::ECONNABORTED));
        assert!(end(vec![|| Ok(()), || Ok(())]).is_ok());
        assert!(is_abortion(&end(vec![|| Ok(()), aborted]).unwrap_err()));
        assert_eq!(end(vec![aborted, || Err(Error::other("first")), || Err(Error::other("second"))]).unwrap_err().to_string(), "first");
        assert!(end(vec![|| panic!("a panic that the test wants")]).unwrap_err().to_string().contains("panicked"));
    }

    #[test]
    fn rings_are_for_those_who_want_them_and_a_kernel_that_has_them() {
        let channel = Channel::new(eventfd(0, EventfdFlags::CLOEXEC).unwrap());
        let prepare = |transport, offered| {
            let options = AdaptorOptions { transport, ..AdaptorOptions::default() };
            prepare_rings(&channel, &options, offered).map(|rings| rings.is_some())
        };
        assert!(!prepare(Transport::Device, true).unwrap());
        assert!(!prepare(Transport::Best, true).unwrap());
        let refused = prepare(Transport::Ring, false).unwrap_err().to_string();
        assert!(refused.contains("transport=io_uring is not possible here") && refused.contains("enable_uring"), "{refused}");
        // Where io_uring itself cannot be had it is refused, too, and in the same words.
        if let Err(error) = prepare(Transport::Ring, true) {
            assert!(error.to_string().contains("transport=io_uring is not possible here"), "{error}");
        }
    }
}
