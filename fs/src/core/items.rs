//! The tree as the rest of the core sees it.

use crate::core::halt::BlockId;
use crate::core::key::Key;
use crate::core::tree::Tree;
use crate::core::txn::{Beside, ItemTree, ItemView};

impl ItemView for Tree {
    fn get(&self, key: &Key) -> Result<Option<&[u8]>, BlockId> {
        Tree::get(self, key)
    }
    fn first_at_or_after(&self, key: &Key) -> Result<Option<(Key, &[u8])>, BlockId> {
        Tree::first_at_or_after(self, key)
    }
    fn last_before(&self, key: &Key) -> Result<Option<(Key, &[u8])>, BlockId> {
        Tree::last_before(self, key)
    }
}

impl ItemTree for Tree {
    fn put(&mut self, key: &Key, value: &[u8]) -> Result<(), BlockId> {
        Tree::put(self, key, value)
    }
    fn remove(&mut self, key: &Key) -> Result<bool, BlockId> {
        Tree::remove(self, key)
    }
    fn beside(&self, key: &Key) -> Result<Option<Beside<'_>>, BlockId> {
        Tree::beside(self, key)
    }
    fn touch(&self, key: &Key) -> Result<(), BlockId> {
        Tree::touch(self, key)
    }
}
