//! Finding keys in a page: what nearly all work on metadata consists of.

use super::{KEY_HEAD, Page, SortKey, significant};
use crate::BLOCK;
use std::cmp::Ordering;

/// A key that is looked for, in the three numbers by which packed keys compare: as they have no leading zeros, the byte with class and length of `a`
/// orders by class and then, roughly, by `a`.
#[derive(Clone, Copy)]
struct Probe {
    head: u8,
    a: u64,
    b: u64,
}

impl From<SortKey> for Probe {
    fn from(key: SortKey) -> Self {
        let a = key.a();
        Self { head: ((key.head >> 120) as u8) << 4 | significant(a) as u8, a, b: key.b() }
    }
}

/// The number of `len` bytes that ends at `end`. It is read whole: the eight bytes before lie within the page, behind whose header every cell begins.
#[inline]
fn number(page: &[u8; BLOCK], end: usize, len: usize) -> u64 {
    let wide = page[end - 8..end].first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
    if len == 0 { 0 } else { wide & (u64::MAX >> (u64::BITS as usize - 8 * len)) }
}

impl SortKey {
    /// The key at `offset` of a page, which has been validated.
    #[inline]
    pub(super) fn unpack(page: &[u8; BLOCK], offset: usize) -> Self {
        let (len_a, len_b) = (usize::from(page[offset] & 15), usize::from(page[offset + 1]));
        let end_of_a = offset + KEY_HEAD + len_a;
        let (a, b) = (number(page, end_of_a, len_a), number(page, end_of_a + len_b, len_b));
        let head = u128::from(page[offset] >> 4) << 120 | u128::from(a) << 56 | u128::from(b >> 8);
        Self { head, tail: b as u8 }
    }
}

impl Page {
    /// How the key of item `i` compares to the one looked for.
    #[inline]
    fn compare(&self, i: usize, probe: &Probe) -> Ordering {
        let (offset, _) = self.slot(i);
        let page = self.bytes();
        let head = page[offset];
        if head != probe.head {
            return head.cmp(&probe.head);
        }
        let end_of_a = offset + KEY_HEAD + usize::from(head & 15);
        let a = number(page, end_of_a, usize::from(head & 15));
        if a != probe.a {
            return a.cmp(&probe.a);
        }
        let len_b = usize::from(page[offset + 1]);
        number(page, end_of_a + len_b, len_b).cmp(&probe.b)
    }

    fn search_within(&self, mut low: usize, mut high: usize, probe: &Probe) -> Result<usize, usize> {
        while low < high {
            let middle = (low + high) / 2;
            match self.compare(middle, probe) {
                Ordering::Less => low = middle + 1,
                Ordering::Greater => high = middle,
                Ordering::Equal => return Ok(middle),
            }
        }
        Err(low)
    }

    /// The item with this key, or where it belongs.
    pub fn search(&self, key: SortKey) -> Result<usize, usize> {
        self.search_within(0, self.count(), &key.into())
    }

    /// [`Page::search`] for a key that is thought to be that of item `near`, or to be next to it.
    pub fn search_near(&self, near: usize, key: SortKey) -> Result<usize, usize> {
        let probe = Probe::from(key);
        let (mut low, mut high) = (0, self.count());
        if near < high {
            match self.compare(near, &probe) {
                Ordering::Equal => return Ok(near),
                Ordering::Less => low = near + 1,
                Ordering::Greater => high = near,
            }
        }
        // One more on the side where it must be, and then as in the whole.
        let beside = if low > near { low } else { near.saturating_sub(1) };
        if (low..high).contains(&beside) {
            match self.compare(beside, &probe) {
                Ordering::Equal => return Ok(beside),
                Ordering::Less => low = beside + 1,
                Ordering::Greater => high = beside,
            }
        }
        self.search_within(low, high, &probe)
    }

    /// The entry of an inner node under which `key` belongs.
    pub fn route(&self, key: SortKey) -> usize {
        match self.search(key) {
            Ok(i) => i,
            Err(i) => i.saturating_sub(1),
        }
    }
}
