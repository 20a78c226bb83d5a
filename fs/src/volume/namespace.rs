//! Names and attributes: the plans of `core::ops`, run. Nothing is decided here but what a plan may cost and, with the last name of an inode,
//! that it waits for its last user from the same moment on.

use crate::core::halt::Planned;
use crate::core::ops::{self, Unlinked};
use crate::core::txn::Txn;
use crate::error::Result;
use crate::format::item::Timestamp;
use crate::ids::Ino;
use crate::volume::Volume;
use crate::volume::attr::{Attr, Caller, RenameFlags};
use crate::volume::load::Cost;
use crate::volume::state::State;

/// Blocks that an access control list takes: its pieces fill half a node at least.
const ACL_BLOCKS: u64 = crate::format::acl::MAX_BYTES.div_ceil(crate::BLOCK / 2) as u64;
/// A new file and the two lists that it may inherit.
const CREATE: Cost = Cost { blocks: Cost::METADATA.blocks + 2 * ACL_BLOCKS, ..Cost::METADATA };

impl Volume {
    /// The inode that `name` leads to in `parent`; `.` and `..` included.
    ///
    /// # Errors
    /// `NotFound`, `NotADirectory`, `NameTooLong`; those of loading.
    pub fn lookup(&self, parent: Ino, name: &[u8]) -> Result<Attr> {
        self.look(|txn| ops::lookup(txn, parent, name))
    }

    /// The attributes of an inode.
    ///
    /// # Errors
    /// `NotFound`; those of loading.
    pub fn getattr(&self, ino: Ino) -> Result<Attr> {
        self.look(|txn| ops::getattr(txn, ino))
    }

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// `NotFound`, `Invalid` (not a symbolic link); those of loading.
    pub fn readlink(&self, ino: Ino) -> Result<Vec<u8>> {
        self.look(|txn| ops::readlink(txn, ino))
    }

    /// Makes a file of any kind but a directory or a symbolic link.
    ///
    /// # Errors
    /// Those of [`ops::mknod`]; `NoSpace`, `ReadOnly`; those of loading.
    pub fn mknod(&self, parent: Ino, name: &[u8], mode: u32, rdev: u32, caller: &Caller) -> Result<Attr> {
        self.run(CREATE, |txn| ops::mknod(txn, parent, name, mode, rdev, caller))
    }

    /// Makes a directory.
    ///
    /// # Errors
    /// Those of [`ops::mkdir`]; `NoSpace`, `ReadOnly`; those of loading.
    pub fn mkdir(&self, parent: Ino, name: &[u8], mode: u32, caller: &Caller) -> Result<Attr> {
        self.run(CREATE, |txn| ops::mkdir(txn, parent, name, mode, caller))
    }

    /// Makes a symbolic link.
    ///
    /// # Errors
    /// Those of [`ops::symlink()`]; `NoSpace`, `ReadOnly`; those of loading.
    pub fn symlink(&self, parent: Ino, name: &[u8], target: &[u8], caller: &Caller) -> Result<Attr> {
        self.run(Cost::METADATA, |txn| ops::symlink(txn, parent, name, target, caller))
    }

    /// Makes a regular file without a name, and opens it.
    ///
    /// # Errors
    /// Those of [`ops::tmpfile`]; `NoSpace`, `ReadOnly`; those of loading.
    pub fn tmpfile(&self, parent: Ino, mode: u32, caller: &Caller) -> Result<Attr> {
        self.with_space_of_orphans(|| {
            self.admit(CREATE)?;
            self.change(|state: &mut State| {
                let made = self.try_run(state, CREATE, |txn: &mut Txn<'_>| ops::tmpfile(txn, parent, mode, caller))?;
                state.orphans.insert(made.ino, Default::default());
                *state.opens.entry(made.ino).or_insert(0) += 1;
                Ok(made)
            })
        })
    }

    /// Gives a file another name, or one that was made without a name its first.
    ///
    /// # Errors
    /// Those of [`ops::link()`]; `NoSpace`, `ReadOnly`; those of loading.
    pub fn link(&self, ino: Ino, parent: Ino, name: &[u8]) -> Result<Attr> {
        self.with_space_of_orphans(|| {
            self.admit(Cost::METADATA)?;
            self.change(|state: &mut State| {
                let linked = self.try_run(state, Cost::METADATA, |txn: &mut Txn<'_>| ops::link(txn, ino, parent, name))?;
                state.orphans.remove(&ino);
                Ok(linked)
            })
        })
    }

    /// Removes a name that does not lead to a directory.
    ///
    /// # Errors
    /// Those of [`ops::unlink()`]; `ReadOnly`; those of loading.
    pub fn unlink(&self, parent: Ino, name: &[u8]) -> Result<()> {
        self.run_and_note(Cost::DELETION, |txn| ops::unlink(txn, parent, name), |gone| Some(*gone)).map(drop)
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// Those of [`ops::rmdir`]; `ReadOnly`; those of loading.
    pub fn rmdir(&self, parent: Ino, name: &[u8]) -> Result<()> {
        self.run_and_note(Cost::DELETION, |txn| ops::rmdir(txn, parent, name), |gone| Some(*gone)).map(drop)
    }

    /// Moves a name, over another one if there is one. On a full volume, too: an entry that is no longer than the one that goes, or takes the place of another,
    /// takes no space in the end, and longer ones have what is kept back from others. Only where directories are left thin, on and on, there is an end to it.
    ///
    /// # Errors
    /// Those of [`ops::rename()`]; `NoSpace` (a longer name, a whiteout), `ReadOnly`; those of loading.
    pub fn rename(&self, parent: Ino, name: &[u8], newparent: Ino, newname: &[u8], flags: RenameFlags) -> Result<()> {
        let plan = |txn: &mut Txn<'_>| ops::rename(txn, parent, name, newparent, newname, flags);
        let cost = match () {
            () if flags.whiteout => Cost::METADATA,
            () if newname.len() <= name.len() || self.lookup(newparent, newname).is_ok() => Cost::MOVED_NAME,
            () => Cost::LONGER_NAME,
        };
        self.run_and_note(cost, plan, |renamed| renamed.replaced).map(drop)
    }

    /// The value of an extended attribute.
    ///
    /// # Errors
    /// Those of [`ops::getxattr`]; those of loading.
    pub fn getxattr(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>> {
        self.look(|txn| ops::getxattr(txn, ino, name))
    }

    /// Sets an extended attribute. `flags`: XATTR_CREATE, XATTR_REPLACE or 0.
    ///
    /// # Errors
    /// Those of [`ops::setxattr`]; `NoSpace`, `ReadOnly`; those of loading.
    pub fn setxattr(&self, ino: Ino, name: &[u8], value: &[u8], flags: i32) -> Result<()> {
        // Pieces of a value fill a node to three quarters at least, and half a node after a split.
        let blocks = Cost::METADATA.blocks + (value.len() / (crate::BLOCK / 2)) as u64;
        self.run(Cost { blocks, ..Cost::METADATA }, |txn| ops::setxattr(txn, ino, name, value, flags))
    }

    /// Sets an access control list. `drop_setgid`: who asks may not keep the setgid bit.
    ///
    /// # Errors
    /// Those of [`ops::set_acl`]; `NoSpace`, `ReadOnly`; those of loading.
    pub fn set_acl(&self, ino: Ino, name: &[u8], value: &[u8], drop_setgid: bool) -> Result<()> {
        self.run(Cost { blocks: Cost::METADATA.blocks + ACL_BLOCKS, ..Cost::METADATA }, |txn| {
            ops::set_acl(txn, ino, name, value, drop_setgid)
        })
    }

    /// Sets the flags of a file or directory (`FS_IOC_SETFLAGS`).
    ///
    /// # Errors
    /// Those of [`ops::set_flags`]; `NoSpace`, `ReadOnly`; those of loading.
    pub fn set_flags(&self, ino: Ino, flags: u32) -> Result<()> {
        self.run(Cost::METADATA, |txn| ops::set_flags(txn, ino, flags))
    }

    /// The names of all extended attributes, each with a zero byte behind it.
    ///
    /// # Errors
    /// `NotFound`; those of loading.
    pub fn listxattr(&self, ino: Ino) -> Result<Vec<u8>> {
        self.look(|txn| ops::listxattr(txn, ino))
    }

    /// Removes an extended attribute.
    ///
    /// # Errors
    /// Those of [`ops::removexattr`]; `ReadOnly`; those of loading.
    pub fn removexattr(&self, ino: Ino, name: &[u8]) -> Result<()> {
        self.run(Cost::DELETION, |txn| ops::removexattr(txn, ino, name))
    }

    /// Runs a plan that changes nothing: on a read-only volume too.
    fn look<T>(&self, plan: impl Fn(&mut Txn<'_>) -> Planned<T>) -> Result<T> {
        self.ask(|state| plan(&mut self.reader(state)))
    }

    /// What a plan that changes nothing reads.
    pub(super) fn reader<'a>(&self, state: &'a State) -> Txn<'a> {
        let mut txn = Txn::new(&state.tree, Timestamp::default(), state.next_ino, self.identity.hash_key);
        state.lost.stand_in().into_iter().for_each(|root| txn.put_inode(root));
        txn
    }

    /// Runs a plan that may take the last name of an inode. That the inode waits for its last user is noted before anyone else can see that
    /// the name is gone, so that no release and no forget comes too early to free it.
    fn run_and_note<T>(&self, cost: Cost, plan: impl Fn(&mut Txn<'_>) -> Planned<T>, gone: impl Fn(&T) -> Option<Unlinked>) -> Result<T> {
        let attempt = || {
            self.admit(cost)?;
            self.change(|state: &mut State| {
                let done = self.try_run(state, cost, &plan)?;
                if let Some(Unlinked { ino, orphaned: true }) = gone(&done) {
                    state.orphans.insert(ino, Default::default());
                }
                Ok(done)
            })
        };
        if cost.deletion { attempt() } else { self.with_space_of_orphans(attempt) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::FsError;
    use crate::volume::rig::{formatted, make};
    use crate::volume::{SetAttr, WriteOptions};
    use zns::sim::{SimConfig, SimDrive};

    /// Where nothing more can be made, names still change, files get shorter and everything can go.
    #[test]
    fn a_full_volume_lets_rename_shorten_and_remove() {
        let volume = formatted(&SimDrive::new(SimConfig::zoned(64, 1)));
        let caller = Caller::default();
        let dir = volume.mkdir(Ino::ROOT, b"dir", 0o755, &caller).expect("made").ino;
        let big = make(&volume, "big");
        volume.write(big, 0, &vec![7; 4 << 20], &WriteOptions::default()).expect("written");
        volume.setxattr(big, b"user.goes", &[1; 300], 0).expect("set");
        for n in 0..1000 {
            make(&volume, &format!("{n:04}"));
        }
        let mut size = 4 << 20;
        for step in [1u64 << 20, 1 << 16, 4096] {
            while volume.fallocate(big, 0, size, step).is_ok() {
                size += step;
            }
        }
        let mut more = 0;
        let full = loop {
            match volume.mknod(Ino::ROOT, format!("more {more}").as_bytes(), libc::S_IFREG | 0o644, 0, &caller) {
                Ok(_) => more += 1,
                Err(error) => break error,
            }
        };
        assert!(matches!(full, FsError::NoSpace), "{full}");
        let plain = RenameFlags::default();
        // There is a little room for names that become longer.
        for n in 0..100 {
            let (old, new) = (format!("{n:04}"), format!("{n:04}.old"));
            volume
                .rename(Ino::ROOT, old.as_bytes(), Ino::ROOT, new.as_bytes(), plain)
                .unwrap_or_else(|error| panic!("{n}, longer: {error}"));
        }
        // What is there is written anew in single blocks, which takes metadata: now hardly anything is left even of that.
        for n in 0..1000u64 {
            volume.write(big, n * 7 % 1024 * 4096, &[n as u8; 4096], &WriteOptions::default()).expect("overwritten");
        }
        for n in 100..1000 {
            let (old, new) = (format!("{n:04}"), format!("{:04}", 9999 - n));
            let to = if n % 2 == 0 { dir } else { Ino::ROOT };
            volume.rename(Ino::ROOT, old.as_bytes(), to, new.as_bytes(), plain).unwrap_or_else(|error| panic!("{n}: {error}"));
        }
        // What an inode says of itself changes, too.
        let now = Some(crate::volume::SetTime::Now);
        for set in [
            SetAttr { mode: Some(0o600), ..SetAttr::default() },
            SetAttr { uid: Some(7), gid: Some(8), ..SetAttr::default() },
            SetAttr { atime: now, mtime: now, ..SetAttr::default() },
        ] {
            for ino in [big, dir] {
                volume.setattr(ino, &set).unwrap_or_else(|error| panic!("{set:?}: {error}"));
            }
        }
        volume.removexattr(big, b"user.goes").expect("removed");
        let exchange = RenameFlags { exchange: true, ..plain };
        volume.rename(dir, b"9899", Ino::ROOT, b"0000.old", exchange).expect("exchanged");
        volume.rename(dir, b"9897", Ino::ROOT, b"0001.old", plain).expect("replaced by a shorter one");
        volume.rename(Ino::ROOT, b"0000.old", Ino::ROOT, b"9898", plain).expect("replaced");
        // Names that move again and again may leave leaves thin, here as if so many had been left: before that is felt by checkpoints, it ends.
        let before = {
            let mut state = volume.state.lock();
            let before = state.zones.promised();
            let free = state.free();
            let beyond = state.zones.total() / 63;
            state.zones.set_promised(before + free + beyond + 1);
            before
        };
        let refused = volume.rename(Ino::ROOT, b"9898", Ino::ROOT, b"8989", plain);
        assert!(matches!(refused, Err(FsError::NoSpace)), "{refused:?}");
        volume.state.lock().zones.set_promised(before);
        volume.rename(Ino::ROOT, b"9898", Ino::ROOT, b"8989", plain).expect("there is room again");
        // A new name is refused still.
        assert!(matches!(volume.mkdir(Ino::ROOT, b"another", 0o755, &caller), Err(FsError::NoSpace)));
        for size in [size - 1, 4 << 20, 999_999, 5, 0] {
            volume.setattr(big, &SetAttr { size: Some(size), ..SetAttr::default() }).unwrap_or_else(|error| panic!("{size}: {error}"));
        }
        for entry in
            volume.readdir(dir, 0, usize::MAX).expect("listed").into_iter().filter(|entry| !matches!(&entry.name[..], b"." | b".."))
        {
            volume.unlink(dir, &entry.name).expect("removed");
        }
        volume.rmdir(Ino::ROOT, b"dir").expect("removed");
        volume.shutdown().expect("unmounted");
    }
}
