//! What a range of a file consists of at one moment: pages in memory over extents on devices over holes.
//!
//! Pure: a view of the metadata and the dirty pages go in, a list comes out. Reading, copying, zeroing and counting blocks all start here, so
//! that they agree on what a file is.

use crate::addr::Addr;
use crate::core::extents::{checksums, extent_parts};
use crate::core::halt::Planned;
use crate::core::txn::ItemView;
use crate::ids::{FileBlock, Ino};
use crate::volume::pages::{DirtyPages, Page};

/// What stands behind consecutive blocks.
#[derive(Clone, Debug)]
pub enum Content {
    /// Nothing: reads as zeros.
    Hole,
    /// Preallocated: reads as zeros.
    Unwritten,
    /// One page that is dirty or in flight.
    Page(Page),
    /// Blocks on a device, within one zone.
    Device {
        /// First address.
        addr: Addr,
        /// CRC32C of each block.
        checksums: Vec<u32>,
    },
}

impl Content {
    /// Is it still the same block (not only the same bytes)? Pages are compared by place: whoever holds one keeps its place from being used again.
    pub fn is_same(&self, other: &Content) -> bool {
        match (self, other) {
            (Self::Hole | Self::Unwritten, Self::Hole | Self::Unwritten) => true,
            (Self::Page(a), Self::Page(b)) => std::ptr::eq(a.data.as_ptr(), b.data.as_ptr()),
            (Self::Device { addr: a, .. }, Self::Device { addr: b, .. }) => a == b,
            _ => false,
        }
    }
    /// Does it read as zeros without a look?
    pub fn is_zeros(&self) -> bool {
        matches!(self, Self::Hole | Self::Unwritten)
    }
}

/// Consecutive blocks of a file with the same kind of content.
#[derive(Clone, Debug)]
pub struct Part {
    /// First file block.
    pub block: FileBlock,
    /// Length.
    pub blocks: u64,
    /// What it is.
    pub content: Content,
}

impl Part {
    /// What of it lies in `from..to` (it does, in part at least).
    pub fn clipped(&self, from: u64, to: u64) -> Part {
        let start = self.block.0.max(from);
        let end = (self.block.0 + self.blocks).min(to);
        let (skip, blocks) = (start - self.block.0, end - start);
        let content = match &self.content {
            Content::Device { addr, checksums } => {
                Content::Device { addr: addr.plus(skip as u32), checksums: checksums[skip as usize..(skip + blocks) as usize].to_vec() }
            }
            other => other.clone(),
        };
        Part { block: FileBlock(start), blocks, content }
    }
}

/// The parts of `from..to`, in order and without gaps.
///
/// # Errors
/// [`crate::core::Halt::Need`] for a block that is not resident; `Corrupt`.
pub fn content(view: &dyn ItemView, pages: &DirtyPages, ino: Ino, from: FileBlock, to: FileBlock) -> Planned<Vec<Part>> {
    let (extents, _) = extent_parts(view, ino, from, to, usize::MAX)?;
    let mut parts = Vec::new();
    let mut pages = pages.range(ino, from, to).peekable();
    let mut cover = |content: Option<Addr>, start: u64, end: u64, parts: &mut Vec<Part>| -> Planned<()> {
        let first = start;
        let mut at = start;
        while at < end {
            if let Some((block, page)) = pages.next_if(|(block, _)| block.0 == at) {
                parts.push(Part { block, blocks: 1, content: Content::Page(page.clone()) });
                at += 1;
                continue;
            }
            let until = pages.peek().map_or(end, |(block, _)| block.0.min(end));
            let content = match content {
                None => Content::Hole,
                Some(Addr::NONE) => Content::Unwritten,
                Some(addr) => {
                    let checksums = checksums(view, ino, FileBlock(at), (until - at) as u32)?;
                    Content::Device { addr: addr.plus((at - first) as u32), checksums }
                }
            };
            parts.push(Part { block: FileBlock(at), blocks: until - at, content });
            at = until;
        }
        Ok(())
    };
    let mut at = from.0;
    for extent in extents {
        cover(None, at, extent.block.0, &mut parts)?;
        cover(Some(extent.addr), extent.block.0, extent.end().0, &mut parts)?;
        at = extent.end().0;
    }
    cover(None, at, to.0, &mut parts)?;
    Ok(parts)
}

/// Blocks of a range that the file takes, a page over a hole and a preallocated block included, and where counting stopped after about
/// `max` extents.
///
/// # Errors
/// [`crate::core::Halt::Need`] for a block that is not resident; `Corrupt`.
pub fn taken(view: &dyn ItemView, pages: &DirtyPages, ino: Ino, from: FileBlock, to: FileBlock, max: usize) -> Planned<(u64, FileBlock)> {
    let (extents, next) = extent_parts(view, ino, from, to, max)?;
    let end = next.unwrap_or(to);
    let mut count = extents.iter().map(|extent| u64::from(extent.blocks)).sum();
    let mut extents = extents.iter().peekable();
    for (block, _) in pages.range(ino, from, end) {
        while extents.next_if(|extent| extent.end() <= block).is_some() {}
        count += u64::from(extents.peek().is_none_or(|extent| extent.block > block));
    }
    Ok((count, end))
}

/// The first block at or after `block` that holds data (a page or a written extent) if `data`, else the first that does not, looking at about
/// `max` extents. `Err(next)`: none so far, go on there. Beyond the last extent everything is a hole.
///
/// # Errors
/// [`crate::core::Halt::Need`] for a block that is not resident; `Corrupt`.
pub fn find(
    view: &dyn ItemView,
    pages: &DirtyPages,
    ino: Ino,
    from: FileBlock,
    to: FileBlock,
    data: bool,
) -> Planned<Result<FileBlock, FileBlock>> {
    const LOOK: usize = 256;
    let (extents, next) = extent_parts(view, ino, from, to, LOOK)?;
    let end = next.unwrap_or(to);
    let written = extents.iter().filter(|extent| !extent.is_unwritten());
    if data {
        let page = pages.range(ino, from, end).next().map(|(block, _)| block);
        let first = written.map(|extent| extent.block).next();
        return Ok(page.into_iter().chain(first).min().ok_or(end));
    }
    let mut at = from.0;
    let mut pages = pages.range(ino, from, end).peekable();
    let mut written = written.peekable();
    while at < end.0 {
        while pages.next_if(|(block, _)| block.0 < at).is_some() {}
        while written.next_if(|extent| extent.end().0 <= at).is_some() {}
        if let Some(extent) = written.peek().filter(|extent| extent.block.0 <= at) {
            at = extent.end().0;
        } else if pages.peek().is_some_and(|(block, _)| block.0 == at) {
            at += 1;
        } else {
            return Ok(Ok(FileBlock(at)));
        }
    }
    Ok(Err(FileBlock(at.max(end.0))))
}
