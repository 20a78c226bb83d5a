//! The volume behind the adaptor.

use super::control::Request;
use super::served::Served;
use crate::error::{FsError, Result};
use crate::ids::Ino;
use crate::volume::{AtimeMode, Attr, Caller, DirEntry, RenameFlags, SetAttr, StatFs, Volume, WriteOptions};
use serde::Serialize;

fn report(value: impl Serialize) -> Result<serde_json::Value> {
    serde_json::to_value(value).map_err(|_| FsError::Internal("a report that is no JSON"))
}

impl Served for Volume {
    type Data = crate::volume::ReadData;
    const HAS_ACLS: bool = true;

    fn lookup(&self, parent: Ino, name: &[u8]) -> Result<Attr> {
        self.lookup(parent, name)
    }
    fn getattr(&self, ino: Ino) -> Result<Attr> {
        self.getattr(ino)
    }
    fn setattr(&self, ino: Ino, change: &SetAttr) -> Result<Attr> {
        self.setattr(ino, change)
    }
    fn readlink(&self, ino: Ino) -> Result<Vec<u8>> {
        self.readlink(ino)
    }
    fn tmpfile(&self, parent: Ino, mode: u32, caller: &Caller) -> Result<Attr> {
        self.tmpfile(parent, mode, caller)
    }
    fn mknod(&self, parent: Ino, name: &[u8], mode: u32, rdev: u32, caller: &Caller) -> Result<Attr> {
        self.mknod(parent, name, mode, rdev, caller)
    }
    fn mkdir(&self, parent: Ino, name: &[u8], mode: u32, caller: &Caller) -> Result<Attr> {
        self.mkdir(parent, name, mode, caller)
    }
    fn symlink(&self, parent: Ino, name: &[u8], target: &[u8], caller: &Caller) -> Result<Attr> {
        self.symlink(parent, name, target, caller)
    }
    fn link(&self, ino: Ino, parent: Ino, name: &[u8]) -> Result<Attr> {
        self.link(ino, parent, name)
    }
    fn unlink(&self, parent: Ino, name: &[u8]) -> Result<()> {
        self.unlink(parent, name)
    }
    fn rmdir(&self, parent: Ino, name: &[u8]) -> Result<()> {
        self.rmdir(parent, name)
    }
    fn rename(&self, parent: Ino, name: &[u8], new_parent: Ino, new_name: &[u8], flags: RenameFlags) -> Result<()> {
        self.rename(parent, name, new_parent, new_name, flags)
    }
    fn readdir(&self, dir: Ino, cookie: u64, max: usize) -> Result<Vec<DirEntry>> {
        self.readdir(dir, cookie, max)
    }
    fn getxattr(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>> {
        self.getxattr(ino, name)
    }
    fn setxattr(&self, ino: Ino, name: &[u8], value: &[u8], flags: i32) -> Result<()> {
        self.setxattr(ino, name, value, flags)
    }
    fn set_acl(&self, ino: Ino, name: &[u8], value: &[u8], drop_setgid: bool) -> Result<()> {
        self.set_acl(ino, name, value, drop_setgid)
    }
    fn set_flags(&self, ino: Ino, flags: u32) -> Result<()> {
        self.set_flags(ino, flags)
    }
    fn listxattr(&self, ino: Ino) -> Result<Vec<u8>> {
        self.listxattr(ino)
    }
    fn removexattr(&self, ino: Ino, name: &[u8]) -> Result<()> {
        self.removexattr(ino, name)
    }
    fn open(&self, ino: Ino) -> Result<()> {
        // Counted first: from here on the inode cannot go.
        self.count_open(ino);
        self.getattr(ino).map(drop).inspect_err(|_| self.release(ino))
    }
    fn release(&self, ino: Ino) {
        self.release(ino);
    }
    fn forget(&self, ino: Ino) {
        self.forget(ino);
    }
    fn statfs(&self) -> Result<StatFs> {
        self.statfs()
    }
    fn read(&self, ino: Ino, offset: u64, len: u32) -> Result<Self::Data> {
        self.read(ino, offset, len)
    }
    fn read_unnoticed(&self, ino: Ino, offset: u64, len: u32) -> Result<Self::Data> {
        self.read_unnoticed(ino, offset, len)
    }
    fn accessed(&self, ino: Ino) {
        self.accessed(ino);
    }
    fn may_keep_pages(&self) -> bool {
        self.atimes().mode != AtimeMode::Strict
    }
    fn write(&self, ino: Ino, offset: u64, data: &[u8], options: &WriteOptions) -> Result<usize> {
        self.write_what_fits(ino, offset, data, options)
    }
    /// Space for acknowledged data is reserved, so no error can be waiting here but that of a volume that has failed;
    /// fsync is what reports that.
    fn flush(&self, _ino: Ino) -> Result<()> {
        Ok(())
    }
    fn sync(&self) -> Result<()> {
        self.sync()
    }
    fn ending(&self) {
        self.stop_threads();
    }
    fn end(&self) {
        // Whoever unmounted the filesystem asks once more, and reports what went wrong.
        if let Err(error) = self.shutdown() {
            tracing::error!("the last checkpoint failed: {error}");
        }
    }
    fn fallocate(&self, ino: Ino, mode: i32, offset: u64, len: u64) -> Result<()> {
        self.fallocate(ino, mode, offset, len)
    }
    fn seek(&self, ino: Ino, offset: u64, whence: i32) -> Result<u64> {
        self.seek(ino, offset, whence)
    }
    fn copy_file_range(&self, from: Ino, from_offset: u64, to: Ino, to_offset: u64, len: u64) -> Result<u64> {
        self.copy_file_range(from, from_offset, to, to_offset, len)
    }
    fn control(&self, ino: Ino, request: &Request) -> Result<serde_json::Value> {
        match *request {
            Request::Status => report(self.status()),
            Request::Zones => report(self.zones()),
            Request::Map => report(self.map(ino)?),
            Request::Gc { until_clean } => report(self.gc(until_clean)?),
            Request::Scrub { at, bytes } => report(self.scrub(at, bytes)?),
            Request::Atimes(atimes) => {
                self.set_atimes(atimes);
                report(())
            }
            Request::Sync => self.sync().and_then(|()| report(())),
            Request::Hello | Request::Wait => Err(FsError::Internal("a request that the adaptor answers")),
        }
    }
}
