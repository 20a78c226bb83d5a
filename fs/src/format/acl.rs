//! POSIX access control lists, in the form in which the kernel exchanges and the volume stores them: an extended attribute of version 2.
//!
//! A list that decodes is a valid one (POSIX.1e draft 17, section 23.1.4): one entry each for owner, group and others, a mask where a user or group is named,
//! in this order. Whoever holds an [`Acl`] need not ask again.

/// The attribute with the list that is checked.
pub const ACCESS: &[u8] = b"system.posix_acl_access";
/// The attribute of a directory with the list that new files in it get.
pub const DEFAULT: &[u8] = b"system.posix_acl_default";
/// Most entries: what FUSE passes is at most a page of 4096 bytes.
pub const MAX_ENTRIES: usize = 511;
/// Bytes of the largest list.
pub const MAX_BYTES: usize = HEAD + MAX_ENTRIES * ENTRY;

const HEAD: usize = 4;
const ENTRY: usize = 8;
const VERSION: u32 = 2;
const NOBODY: u32 = u32::MAX;

/// Whom an entry speaks of, in the order of entries; the numbers are those of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u16)]
pub enum Tag {
    /// The owner.
    UserObj = 0x01,
    /// A user with a name.
    User = 0x02,
    /// The group of the file.
    GroupObj = 0x04,
    /// A group with a name.
    Group = 0x08,
    /// What all but owner and others get at most.
    Mask = 0x10,
    /// Everybody else.
    Other = 0x20,
}

/// One entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Whom it speaks of.
    pub tag: Tag,
    /// Read 4, write 2, execute 1.
    pub perm: u16,
    /// The user or group, for those with a name.
    pub id: u32,
}

/// A valid list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acl(Vec<Entry>);

impl Acl {
    /// A list of these entries; `None` if they are none.
    pub fn new(entries: Vec<Entry>) -> Option<Self> {
        let one = |tag| entries.iter().filter(|entry| entry.tag == tag).count() == 1;
        let named = entries.iter().any(|entry| matches!(entry.tag, Tag::User | Tag::Group));
        let masks = entries.iter().filter(|entry| entry.tag == Tag::Mask).count();
        let valid = one(Tag::UserObj)
            && one(Tag::GroupObj)
            && one(Tag::Other)
            && masks <= 1
            && (masks == 1 || !named)
            && entries.len() <= MAX_ENTRIES
            && entries.iter().all(|entry| entry.perm <= 7)
            && entries.is_sorted_by_key(|entry| entry.tag);
        valid.then_some(Self(entries))
    }

    /// The inverse of [`Acl::encode`]; `None` if the bytes are no valid list.
    pub fn decode(value: &[u8]) -> Option<Self> {
        let (version, rest) = value.split_first_chunk::<HEAD>()?;
        if u32::from_le_bytes(*version) != VERSION || rest.len() % ENTRY != 0 || rest.len() / ENTRY > MAX_ENTRIES {
            return None;
        }
        Self::new(rest.chunks_exact(ENTRY).map(decode_entry).collect::<Option<_>>()?)
    }

    /// The value of the attribute.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEAD + self.0.len() * ENTRY);
        out.extend_from_slice(&VERSION.to_le_bytes());
        for entry in &self.0 {
            out.extend_from_slice(&(entry.tag as u16).to_le_bytes());
            out.extend_from_slice(&entry.perm.to_le_bytes());
            out.extend_from_slice(&entry.id.to_le_bytes());
        }
        out
    }

    /// Does it say more than the permission bits of a mode can?
    pub fn is_extended(&self) -> bool {
        self.0.len() > 3
    }

    /// The permission bits that stand for it: those of the group are the mask's, if there is one.
    pub fn mode(&self) -> u32 {
        let mut mode = 0;
        for (shift, entry) in SHIFTS.into_iter().filter_map(|(shift, tag)| Some((shift, self.find(self.stand_in(tag))?))) {
            mode |= u32::from(entry.perm) << shift;
        }
        mode
    }

    /// After a chmod: the entries behind the permission bits say what `mode` says.
    pub fn set_mode(&mut self, mode: u32) {
        self.change(|perm, bits| perm.clone_from(&bits), mode);
    }

    /// For a new file made with `mode`: the entries behind the permission bits grant no more than that.
    pub fn restrict(&mut self, mode: u32) {
        self.change(|perm, bits| *perm &= bits, mode);
    }

    fn change(&mut self, how: impl Fn(&mut u16, u16), mode: u32) {
        for (shift, tag) in SHIFTS {
            let tag = self.stand_in(tag);
            if let Some(entry) = self.0.iter_mut().find(|entry| entry.tag == tag) {
                how(&mut entry.perm, (mode >> shift & 7) as u16);
            }
        }
    }

    /// The entry that the permission bits of the group stand for is the mask, where there is one.
    fn stand_in(&self, tag: Tag) -> Tag {
        if tag == Tag::GroupObj && self.find(Tag::Mask).is_some() { Tag::Mask } else { tag }
    }

    fn find(&self, tag: Tag) -> Option<&Entry> {
        self.0.iter().find(|entry| entry.tag == tag)
    }
}

/// Where the permission bits of the three classes lie in a mode.
const SHIFTS: [(u32, Tag); 3] = [(6, Tag::UserObj), (3, Tag::GroupObj), (0, Tag::Other)];

fn decode_entry(bytes: &[u8]) -> Option<Entry> {
    let tag = match u16::from_le_bytes([bytes[0], bytes[1]]) {
        0x01 => Tag::UserObj,
        0x02 => Tag::User,
        0x04 => Tag::GroupObj,
        0x08 => Tag::Group,
        0x10 => Tag::Mask,
        0x20 => Tag::Other,
        _ => return None,
    };
    let named = matches!(tag, Tag::User | Tag::Group);
    let id = u32::from_le_bytes(bytes[4..].try_into().ok()?);
    Some(Entry { tag, perm: u16::from_le_bytes([bytes[2], bytes[3]]), id: if named { id } else { NOBODY } })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(tag: Tag, perm: u16, id: u32) -> Entry {
        Entry { tag, perm, id }
    }

    fn plain(user: u16, group: u16, other: u16) -> Vec<Entry> {
        vec![entry(Tag::UserObj, user, NOBODY), entry(Tag::GroupObj, group, NOBODY), entry(Tag::Other, other, NOBODY)]
    }

    fn extended() -> Vec<Entry> {
        let mut entries = plain(7, 5, 1);
        entries.insert(1, entry(Tag::User, 6, 1000));
        entries.insert(3, entry(Tag::Mask, 6, NOBODY));
        entries
    }

    #[test]
    fn modes_follow_lists_and_lists_follow_modes() {
        let mut acl = Acl::new(plain(7, 5, 1)).expect("valid");
        assert!(!acl.is_extended());
        assert_eq!(acl.mode(), 0o751);
        acl.set_mode(0o640);
        assert_eq!(acl.mode(), 0o640);
        acl.restrict(0o466);
        assert_eq!(acl.mode(), 0o440);
        let mut acl = Acl::new(extended()).expect("valid");
        assert!(acl.is_extended());
        assert_eq!(acl.mode(), 0o761, "the mask stands for the group");
        acl.set_mode(0o610);
        assert_eq!(acl.find(Tag::Mask).map(|e| e.perm), Some(1));
        assert_eq!(acl.find(Tag::GroupObj).map(|e| e.perm), Some(5));
        assert_eq!(acl.find(Tag::User).map(|e| e.perm), Some(6));
    }

    #[test]
    fn what_is_no_list_is_refused() {
        let without = |tag: Tag| Acl::new(extended().into_iter().filter(|entry| entry.tag != tag).collect());
        assert!([Tag::UserObj, Tag::GroupObj, Tag::Other, Tag::Mask].into_iter().all(|tag| without(tag).is_none()));
        assert!(without(Tag::User).is_some(), "a mask may stand alone");
        let twice = [plain(7, 5, 1), plain(7, 5, 1)].concat();
        let unordered = plain(7, 5, 1).into_iter().rev().collect();
        let mut many = extended();
        many.splice(1..1, (0..MAX_ENTRIES as u32).map(|id| entry(Tag::User, 4, id)));
        for entries in [twice, unordered, many, plain(8, 0, 0), Vec::new()] {
            assert_eq!(Acl::new(entries), None);
        }
        let good = Acl::new(extended()).expect("valid").encode();
        let mut other_version = good.clone();
        other_version[0] = 1;
        for bytes in [&good[..good.len() - 1], &good[..3], &[], &other_version] {
            assert_eq!(Acl::decode(bytes), None);
        }
    }

    proptest! {
        #[test]
        fn lists_return(ids in prop::collection::vec((any::<u32>(), 0..8u16), 0..20), perms in any::<[u8; 4]>()) {
            let perm = |n: usize| u16::from(perms[n] & 7);
            let mut entries = plain(perm(0), perm(1), perm(2));
            entries.insert(2, entry(Tag::Mask, perm(3), NOBODY));
            entries.splice(1..1, ids.iter().map(|&(id, perm)| entry(Tag::User, perm, id)));
            let acl = Acl::new(entries).expect("valid");
            prop_assert_eq!(Acl::decode(&acl.encode()), Some(acl));
        }

        #[test]
        fn any_bytes_are_a_valid_list_or_none(bytes in prop::collection::vec(prop_oneof![0..9u8, any::<u8>()], 0..60)) {
            if let Some(acl) = Acl::decode(&bytes) {
                prop_assert_eq!(Acl::decode(&acl.encode()), Some(acl));
            }
        }
    }
}
