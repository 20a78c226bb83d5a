//! Directory entries into the buffer of a listing.

use super::translate::{entry, is_kind};
use super::wire::{Dirent, EntryOut};
use crate::volume::{Attr, DirEntry};
use zerocopy::IntoBytes;

/// Entries are filled up to this many bytes.
const UNIT: usize = 8;

/// A listing being filled, of at most as many bytes as were asked for.
pub struct Listing {
    bytes: Vec<u8>,
    limit: usize,
}

impl Listing {
    /// An empty one of at most `limit` bytes.
    pub fn new(limit: u32) -> Self {
        // What the kernel asks for is a page or some more; a list of no size that memory could not hold.
        let limit = limit.min(1 << 20) as usize;
        Self { bytes: Vec::with_capacity(limit), limit }
    }

    /// Has nothing been added?
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The bytes of the answer.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Adds an entry; `false` if there is no room for it. One of no known kind, which only bad media can hold, is left out.
    pub fn add(&mut self, found: &DirEntry) -> bool {
        self.append(&[], found)
    }

    /// Adds an entry with the attributes of its inode. Without them (a damaged inode must not hide its neighbours) it is listed by name, and whoever looks
    /// closer asks again and gets the error.
    pub fn add_with(&mut self, found: &DirEntry, attr: Option<&Attr>) -> bool {
        let out = attr.and_then(|attr| entry(attr).ok()).unwrap_or_default();
        const _: () = assert!(size_of::<EntryOut>().is_multiple_of(UNIT));
        self.append(out.as_bytes(), found)
    }

    fn append(&mut self, before: &[u8], found: &DirEntry) -> bool {
        if !is_kind(u32::from(found.kind) << 12) {
            return true;
        }
        let len = before.len() + (size_of::<Dirent>() + found.name.len()).next_multiple_of(UNIT);
        if self.bytes.len() + len > self.limit {
            return false;
        }
        let end = self.bytes.len() + len;
        let head = Dirent { ino: found.ino.0, off: found.cookie, namelen: found.name.len() as u32, kind: u32::from(found.kind) };
        self.bytes.extend_from_slice(before);
        self.bytes.extend_from_slice(head.as_bytes());
        self.bytes.extend_from_slice(&found.name);
        self.bytes.resize(end, 0);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Ino;

    fn found(name: &[u8], kind: u8) -> DirEntry {
        DirEntry { ino: Ino(4), kind, cookie: 9, name: name.to_vec() }
    }

    #[test]
    fn entries_are_filled_up_and_never_cross_the_limit() {
        let mut listing = Listing::new(80);
        assert!(listing.add(&found(b"abc", libc::DT_REG)) && listing.add(&found(b"12345678", libc::DT_DIR)));
        assert!(listing.add(&found(b"of no kind", 0)), "left out");
        assert!(!listing.add(&found(b"x", libc::DT_REG)));
        let bytes = listing.into_bytes();
        assert_eq!(bytes.len(), 64);
        assert_eq!(
            &bytes[..32],
            [&4u64.to_ne_bytes()[..], &9u64.to_ne_bytes(), &3u32.to_ne_bytes(), &8u32.to_ne_bytes(), b"abc\0\0\0\0\0"].concat()
        );
        let mut listing = Listing::new(4096);
        assert!(listing.add_with(&found(b"abc", libc::DT_REG), None));
        let bytes = listing.into_bytes();
        assert_eq!((bytes.len(), &bytes[..8]), (160, &[0; 8][..]), "no inode number: no attributes");
    }
}
