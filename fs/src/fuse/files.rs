//! Requests about open files and directories, and those that concern the whole filesystem.
//!
//! Those that wait for the device (fsync, copies, orders) leave one thread of the session free: see [`super::lanes`].

use super::adaptor::{Adaptor, Outcome, Taken, answer_value, caller, creator, node, plain};
use super::channel::Reply;
use super::control::{self, Header, Request as ControlRequest};
use super::fileattr;
use super::groups::{is_marked, is_outside};
use super::listing::Listing;
use super::served::{Served, WriteOptions};
use super::syncs::Waiting;
use super::translate::entry;
use super::wire::{
    CopyFileRangeIn, CopyFileRangeOut, CreateIn, EntryOut, FallocateIn, IoctlIn, IoctlOut, LseekIn, LseekOut, OPEN_DIRECT_IO,
    OPEN_KEEP_CACHE, OPEN_KILL_SUIDGID, OPEN_NO_FLUSH, OpenIn, OpenOut, ReadIn, ReleaseIn, Request, WRITE_CACHE, WRITE_KILL_SUIDGID,
    WriteIn, WriteOut, op,
};
use crate::core::ops::flags::{check_grows, check_loose};
use crate::error::{FsError, Result};
use crate::ids::Ino;
use crate::volume::{Attr, Caller, DirEntry, SetAttr};
use rustix::io::Errno;
use std::sync::Arc;
use zerocopy::IntoBytes;

/// Entries asked for at a time while a listing is filled: what fits into one page of it.
const READDIR_BATCH: usize = 128;
const READDIRPLUS_BATCH: usize = 24;

impl<S: Served> Adaptor<S> {
    pub(super) fn open(&self, request: &mut Request<'_>, reply: Reply) -> Taken {
        let node = node(request);
        // Without ATOMIC_O_TRUNC the kernel empties a file itself.
        let flags = request.take::<OpenIn>()?.flags & !libc::O_TRUNC;
        let opened = self.call("open", node, |s| {
            let mut in_order = false;
            if writes(flags) {
                let attr = s.getattr(node)?;
                check_open(&attr, flags)?;
                in_order = comes_in_order(&attr, flags);
            }
            s.open(node).map(|()| in_order)
        });
        answer_value(reply, opened.map(|in_order| self.opened(in_order)))
    }

    /// Makes a file and opens it.
    pub(super) fn create(&self, request: &mut Request<'_>, reply: Reply) -> Taken {
        let parent = node(request);
        let asked: CreateIn = request.take()?;
        let (name, who) = (request.name()?, creator(request, asked.umask));
        let created = self.call("create", parent, |s| entry(&make(s, parent, plain(name)?, &asked, &who)?));
        self.answer_created(reply, created)
    }

    /// Makes a file without a name and opens it (O_TMPFILE).
    pub(super) fn tmpfile(&self, request: &mut Request<'_>, reply: Reply) -> Taken {
        let parent = node(request);
        let asked: CreateIn = request.take()?;
        let who = creator(request, asked.umask);
        let created = self.call("tmpfile", parent, |s| entry(&s.tmpfile(parent, libc::S_IFREG | asked.mode & 0o7777, &who)?));
        self.answer_created(reply, created)
    }

    fn answer_created(&self, reply: Reply, created: Outcome<EntryOut>) -> Taken {
        match created {
            Ok(entry) => {
                let opened = self.opened(false);
                reply.send(&[entry.as_bytes(), opened.as_bytes()]);
            }
            Err(errno) => reply.error(errno),
        }
        Ok(())
    }

    /// The kernel keeps what it has of the file: nobody changes it but through this kernel. And closing a file is nothing to tell us of: what was written
    /// was accepted for good, and what goes wrong with it later only fsync can report. `in_order`: see [`comes_in_order`].
    fn opened(&self, in_order: bool) -> OpenOut {
        let keep = if self.served.may_keep_pages() { OPEN_KEEP_CACHE } else { 0 };
        let direct = if in_order { OPEN_DIRECT_IO } else { 0 };
        OpenOut { fh: self.handle(), open_flags: keep | direct | OPEN_NO_FLUSH, backing_id: 0 }
    }

    pub(super) fn opendir(&self, reply: Reply) -> Taken {
        // The kernel's own cache of listings is not used: when a directory changes under a reader it starts over by
        // position, and an entry may be missed.
        reply.value(&OpenOut { fh: self.handle(), open_flags: 0, backing_id: 0 });
        Ok(())
    }

    pub(super) fn read(&self, request: &mut Request<'_>, reply: Reply) -> Taken {
        let node = node(request);
        let asked: ReadIn = request.take()?;
        let unnoticed = asked.flags & libc::O_NOATIME != 0;
        let read = |s: &S| match unnoticed {
            true => s.read_unnoticed(node, asked.offset, asked.size),
            false => s.read(node, asked.offset, asked.size),
        };
        match self.call("read", node, read) {
            Ok(data) => reply.send(&[&data]),
            Err(errno) => reply.error(errno),
        }
        Ok(())
    }

    pub(super) fn write(self: &Arc<Self>, request: &mut Request<'_>, reply: Reply) -> Taken {
        let node = node(request);
        let asked: WriteIn = request.take()?;
        let data = request.bytes(asked.size)?;
        let options = WriteOptions {
            sync: false,
            kill_suid: asked.write_flags & WRITE_KILL_SUIDGID != 0,
            // The kernel holds the inode's lock and knows the size: it has already chosen the offset.
            append: false,
        };
        // The kernel takes it as written whatever the answer says: what is missing must be an error.
        let must_be_whole = asked.write_flags & WRITE_CACHE != 0;
        let written = self.call("write", node, |s| match s.write(node, asked.offset, data, &options)? {
            written if must_be_whole && written < data.len() => Err(FsError::NoSpace),
            written => Ok(written),
        });
        let answer = |written| WriteOut { size: u32::try_from(written).unwrap_or(u32::MAX), padding: 0 };
        // O_SYNC contains the bit of O_DSYNC. Recent kernels send an fsync behind such a write, older ones do not; the second request finds nothing left
        // to do. It waits where every fsync does.
        match written {
            Ok(written) if asked.flags & libc::O_DSYNC != 0 => {
                self.await_durability(Waiting { what: "write", node, reply, written: Some(answer(written)) });
                Ok(())
            }
            written => {
                // Over a ring the answer goes to the kernel only when this thread comes to it.
                let is_ahead = written.is_ok() && self.rhythm.wrote(node) && !reply.is_over_ring();
                let taken = answer_value(reply, written.map(answer));
                if is_ahead {
                    self.lanes.run_if_free(|| self.syncs.get_ahead(node, |what, node| self.call(what, node, S::sync)));
                }
                taken
            }
        }
    }

    /// A descriptor of the file is being closed. Not asked for (OPEN_NO_FLUSH), but by kernels that do not know that.
    pub(super) fn flush(&self, request: &mut Request<'_>, reply: Reply) -> Taken {
        let node = node(request);
        self.answer_done("flush", node, reply, |s| s.flush(node))
    }

    pub(super) fn release(&self, request: &mut Request<'_>, reply: Reply) -> Taken {
        let node = node(request);
        self.answers.closed(request.take::<ReleaseIn>()?.fh);
        self.answer_done("release", node, reply, |s| {
            s.release(node);
            Ok(())
        })
    }

    pub(super) fn releasedir(&self, request: &mut Request<'_>, reply: Reply) -> Taken {
        self.answers.closed(request.take::<ReleaseIn>()?.fh);
        reply.done();
        Ok(())
    }

    /// Whether the times of the file shall be durable, too, makes no difference: all is.
    pub(super) fn fsync(self: &Arc<Self>, request: &mut Request<'_>, reply: Reply) -> Taken {
        self.rhythm.synced(node(request));
        self.await_durability(Waiting { what: "fsync", node: node(request), reply, written: None });
        Ok(())
    }

    /// syncfs(2), and sync(1) for this filesystem. Linux asks mounts of type fuseblk only.
    pub(super) fn syncfs(self: &Arc<Self>, request: &mut Request<'_>, reply: Reply) -> Taken {
        self.answers.told_of_sync();
        self.await_durability(Waiting { what: "syncfs", node: node(request), reply, written: None });
        Ok(())
    }

    /// Has somebody answered when all that was acknowledged before is durable.
    fn await_durability(self: &Arc<Self>, waiting: Waiting) {
        // An answer over a ring goes by way of the thread that took the request: it is kept for no others than those it waits with.
        let once = waiting.reply.is_over_ring();
        if self.syncs.join(waiting) {
            let adaptor = self.clone();
            self.lanes.run(move || adaptor.make_durable(once));
        }
    }

    /// Sees to those who wait for that.
    fn make_durable(self: &Arc<Self>, once: bool) {
        if self.syncs.attend(once, |what, node| self.call(what, node, S::sync)) {
            let adaptor = self.clone();
            self.lanes.hand_over(move || adaptor.make_durable(false));
        }
    }

    pub(super) fn readdir(&self, request: &mut Request<'_>, reply: Reply) -> Taken {
        let node = node(request);
        let asked: ReadIn = request.take()?;
        let filled = self.call("readdir", node, |s| {
            note_listing(s, node, &asked);
            fill(s, node, &asked, READDIR_BATCH, |listing, found| Ok(listing.add(found)))
        });
        answer_listing(reply, filled)
    }

    pub(super) fn readdirplus(&self, request: &mut Request<'_>, reply: Reply) -> Taken {
        let node = node(request);
        let asked: ReadIn = request.take()?;
        let filled = self.call("readdirplus", node, |s| {
            note_listing(s, node, &asked);
            fill(s, node, &asked, READDIRPLUS_BATCH, |listing, found| match s.getattr(found.ino) {
                // Removed since the listing was read.
                Err(FsError::NotFound) => Ok(true),
                attr => Ok(listing.add_with(found, attr.as_ref().ok())),
            })
        });
        answer_listing(reply, filled)
    }

    pub(super) fn ioctl(self: &Arc<Self>, request: &mut Request<'_>, reply: Reply) -> Taken {
        let (node, who) = (node(request), caller(request));
        let asked: IoctlIn = request.take()?;
        let data = request.bytes(asked.in_size)?;
        let room = asked.out_size as usize;
        match asked.cmd {
            control::CALL if room >= Header::BYTES => {
                let Some(order) = ControlRequest::decode(data) else {
                    reply.error(Errno::INVAL);
                    return Ok(());
                };
                let adaptor = self.clone();
                self.lanes.run(move || {
                    let (served, over_ring) = (adaptor.served.clone(), reply.is_over_ring());
                    let carry_out = move || served.control(node, &order);
                    let header = adaptor.answers.call(asked.fh, who.uid, over_ring, order, &adaptor.lanes, carry_out);
                    answer_ioctl(reply, 0, &header.encode());
                });
            }
            control::FETCH if room >= control::FETCH_BYTES => match self.answers.piece(asked.fh, data) {
                Ok(piece) => answer_ioctl(reply, i32::try_from(piece.len()).unwrap_or(0), &piece),
                Err(errno) => reply.error(errno),
            },
            command if fileattr::is_change(command) && self.agreed.minor < fileattr::CHECKED_SINCE => reply.error(Errno::OPNOTSUPP),
            command => match self.call("ioctl", node, |s| fileattr::ioctl(s, node, command, data).transpose()) {
                Ok(Some(out)) => {
                    // Its time of change, which the kernel takes for none of its business in this call.
                    if fileattr::is_change(command) {
                        reply.attributes_changed(node.0);
                    }
                    answer_ioctl(reply, 0, &out[..out.len().min(room)]);
                }
                Ok(None) => reply.error(Errno::NOTTY),
                Err(errno) => reply.error(errno),
            },
        }
        Ok(())
    }

    pub(super) fn fallocate(&self, request: &mut Request<'_>, reply: Reply) -> Taken {
        let node = node(request);
        let asked: FallocateIn = request.take()?;
        self.answer_done("fallocate", node, reply, |s| s.fallocate(node, asked.mode, asked.offset, asked.length))
    }

    pub(super) fn lseek(&self, request: &mut Request<'_>, reply: Reply) -> Taken {
        let node = node(request);
        let asked: LseekIn = request.take()?;
        let found = self.call("lseek", node, |s| {
            let offset = u64::try_from(asked.offset).map_err(|_| FsError::NoSuchOffset)?;
            s.seek(node, offset, asked.whence)
        });
        answer_value(reply, found.map(|offset| LseekOut { offset }))
    }

    pub(super) fn copy_file_range(self: &Arc<Self>, request: &mut Request<'_>, reply: Reply) -> Taken {
        let from = node(request);
        let asked: CopyFileRangeIn = request.take()?;
        // The older of the two requests is answered in 32 bits; of either the kernel asks again for the rest.
        let len = asked.len.min(u64::from(u32::MAX) & !0xfff);
        let wide = request.header.opcode == op::COPY_FILE_RANGE_64;
        let adaptor = self.clone();
        self.lanes.run(move || {
            let to = Ino(asked.nodeid_out);
            match adaptor.call("copy_file_range", from, |s| s.copy_file_range(from, asked.off_in, to, asked.off_out, len)) {
                Ok(copied) if wide => reply.value(&CopyFileRangeOut { bytes_copied: copied }),
                Ok(copied) => reply.value(&WriteOut { size: u32::try_from(copied).unwrap_or(u32::MAX), padding: 0 }),
                Err(errno) => reply.error(errno),
            }
        });
        Ok(())
    }

    /// The kernel lets go of a filesystem that has a block device: nobody can open it for himself before this is answered, so that everything we write has
    /// been written by then.
    pub fn destroy(&self, reply: Reply) {
        let _ = self.call("destroy", Ino::ROOT, |s| {
            s.ending();
            Ok(())
        });
        self.syncs.drain();
        self.lanes.drain();
        let _ = self.call("destroy", Ino::ROOT, |s| {
            s.end();
            Ok(())
        });
        reply.done();
    }

    /// The session is over: whatever was handed to other threads is finished.
    pub fn finish(&self) {
        let _ = self.call("finish", Ino::ROOT, |s| {
            s.ending();
            Ok(())
        });
        self.syncs.drain();
        self.lanes.drain();
    }
}

fn make<S: Served>(s: &S, parent: Ino, name: &[u8], asked: &CreateIn, who: &Caller) -> Result<Attr> {
    match s.mknod(parent, name, libc::S_IFREG | asked.mode & 0o7777, 0, who) {
        // Somebody was faster, and the caller does not insist on being first.
        Err(FsError::Exists) if asked.flags & libc::O_EXCL == 0 => {
            let attr = s.lookup(parent, name)?;
            if !attr.is_file() {
                return Err(FsError::Exists);
            }
            if writes(asked.flags) {
                check_open(&attr, asked.flags)?;
            }
            s.open(attr.ino)?;
            let truncates = asked.flags & libc::O_TRUNC != 0;
            let opened = if truncates { empty(s, &attr, asked.open_flags, who) } else { s.getattr(attr.ino) };
            opened.inspect_err(|_| s.release(attr.ino))
        }
        Err(error) => Err(error),
        Ok(attr) => s.open(attr.ino).map(|()| attr),
    }
}

/// Empties a file that is being opened. `open_flags` say whether set-id bits go with what was in it.
fn empty<S: Served>(s: &S, attr: &Attr, open_flags: u32, who: &Caller) -> Result<Attr> {
    let kill_suid = open_flags & OPEN_KILL_SUIDGID != 0;
    let kill_sgid = kill_suid && is_marked(attr) && is_outside(who, attr.gid);
    s.setattr(attr.ino, &SetAttr { size: Some(0), kill_suid, kill_sgid, ..SetAttr::default() })
}

fn writes(flags: i32) -> bool {
    flags & libc::O_TRUNC != 0 || flags & libc::O_ACCMODE != libc::O_RDONLY
}

/// May a file with these flags be opened for writing? What is append-only, by those who append.
fn check_open(attr: &Attr, flags: i32) -> Result<()> {
    if flags & libc::O_APPEND != 0 && flags & libc::O_TRUNC == 0 { check_grows(attr) } else { check_loose(attr) }
}

/// Must pieces of a large write come one after the other? Those of O_DIRECT come in any order (ASYNC_DIO), and of an append-only file only what is at the
/// end is an append. Then the kernel is told to go past its pages in any case, which it does piece by piece, but for asynchronous calls.
fn comes_in_order(attr: &Attr, flags: i32) -> bool {
    flags & libc::O_DIRECT != 0 && check_loose(attr).is_err()
}

/// A listing that begins is an access of the directory.
fn note_listing<S: Served>(s: &S, dir: Ino, asked: &ReadIn) {
    if asked.offset == 0 && asked.flags & libc::O_NOATIME == 0 {
        s.accessed(dir);
    }
}

/// Fills a listing from `asked.offset` on until it is full or the directory ends.
fn fill<S: Served>(
    s: &S,
    dir: Ino,
    asked: &ReadIn,
    batch: usize,
    mut add: impl FnMut(&mut Listing, &DirEntry) -> Result<bool>,
) -> Result<Vec<u8>> {
    let mut listing = Listing::new(asked.size);
    let mut cookie = asked.offset;
    loop {
        let entries = match s.readdir(dir, cookie, batch) {
            // What was found before comes first; whoever goes on from there meets the error.
            Err(_) if !listing.is_empty() => return Ok(listing.into_bytes()),
            entries => entries?,
        };
        for found in &entries {
            if !add(&mut listing, found)? {
                return Ok(listing.into_bytes());
            }
            cookie = found.cookie;
        }
        // What went since, and was left out, must not make the listing look complete.
        if entries.is_empty() || entries.len() < batch && !listing.is_empty() {
            return Ok(listing.into_bytes());
        }
    }
}

fn answer_listing(reply: Reply, filled: Outcome<Vec<u8>>) -> Taken {
    match filled {
        Ok(bytes) => reply.send(&[&bytes]),
        Err(errno) => reply.error(errno),
    }
    Ok(())
}

fn answer_ioctl(reply: Reply, result: i32, data: &[u8]) {
    reply.send(&[IoctlOut { result, ..IoctlOut::default() }.as_bytes(), data]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::rig::formatted;
    use zns::sim::{SimConfig, SimDrive};

    /// Who creates a file that somebody else has made just before empties that one, and it loses what a truncation takes.
    #[test]
    fn creating_what_is_there_empties_it_and_takes_set_id_bits() {
        let volume = formatted(&SimDrive::new(SimConfig::zoned(64, 1)));
        let who = |gid| Caller { uid: 1000, gid, pid: 0, umask: 0 };
        for (mode, kill, gid, left) in [
            (0o6777, OPEN_KILL_SUIDGID, 1000, 0o777),
            (0o6777, 0, 1000, 0o6777),
            (0o6766, OPEN_KILL_SUIDGID, 1000, 0o766),
            (0o6766, OPEN_KILL_SUIDGID, 7, 0o2766),
        ] {
            let name = format!("{mode:o} {kill} {gid}");
            let made = volume.mknod(Ino::ROOT, name.as_bytes(), libc::S_IFREG | 0o600, 0, &Caller::default()).expect("made").ino;
            volume.write(made, 0, b"something", &WriteOptions::default()).expect("written");
            volume.setattr(made, &SetAttr { gid: Some(7), ..SetAttr::default() }).expect("given");
            volume.setattr(made, &SetAttr { mode: Some(mode), ..SetAttr::default() }).expect("set");
            let asked = |flags| CreateIn { flags: libc::O_WRONLY | libc::O_CREAT | flags, mode: 0o644, umask: 0, open_flags: kill };
            let create = |flags| make(&*volume, Ino::ROOT, name.as_bytes(), &asked(flags), &who(gid));
            let untouched = create(0).expect("opened");
            assert_eq!((untouched.ino, untouched.size, untouched.mode & 0o7777), (made, 9, mode));
            let emptied = create(libc::O_TRUNC).expect("opened");
            assert_eq!((emptied.ino, emptied.size, emptied.mode & 0o7777), (made, 0, left), "{name}");
            assert!(matches!(create(libc::O_EXCL), Err(FsError::Exists)));
            volume.release(made);
            volume.release(made);
        }
    }
}
