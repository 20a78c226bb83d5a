//! What is on a device already: a probe for the marks that filesystems, volume managers and partition tables leave.
//!
//! Our own, rather than a library's: it needs nothing but a few reads, and a wrong guess costs no more than a `--force`.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// A fixed run of bytes at a fixed place.
struct Mark {
    name: &'static str,
    offset: u64,
    bytes: &'static [u8],
}

const fn mark(name: &'static str, offset: u64, bytes: &'static [u8]) -> Mark {
    Mark { name, offset, bytes }
}

/// Marks that need no second look.
const MARKS: &[Mark] = &[
    mark("a FerryFS volume", 0, b"FerryFS\0"),
    mark("a FerryFS drive image", 0, b"FERRYZNS"),
    mark("a FerryFS drive image", 64 << 10, b"FERRYZNS"),
    mark("an XFS filesystem", 0, b"XFSB"),
    mark("a btrfs filesystem", 0x10040, b"_BHRfS_M"),
    mark("an F2FS filesystem", 0x400, &0xf2f5_2010u32.to_le_bytes()),
    mark(
        "a bcachefs filesystem",
        4096 + 24,
        &[0xc6, 0x85, 0x73, 0xf6, 0x66, 0xce, 0x90, 0xa9, 0xd9, 0x6a, 0x60, 0xcf, 0x80, 0x3d, 0xf7, 0xef],
    ),
    mark("a bcache device", 4096 + 24, &[0xc6, 0x85, 0x73, 0xf6, 0x4e, 0x1a, 0x45, 0xca, 0x82, 0x65, 0xf5, 0x7f, 0x48, 0xba, 0x6d, 0x81]),
    mark("a LUKS volume", 0, b"LUKS\xba\xbe"),
    mark("a LUKS volume", 0x4000, b"SKUL\xba\xbe"),
    mark("a BitLocker volume", 3, b"-FVE-FS-"),
    mark("an NTFS filesystem", 3, b"NTFS    "),
    mark("an exFAT filesystem", 3, b"EXFAT   "),
    mark("a VFAT filesystem", 54, b"FAT12   "),
    mark("a VFAT filesystem", 54, b"FAT16   "),
    mark("a VFAT filesystem", 82, b"FAT32   "),
    mark("an ISO 9660 filesystem", 0x8001, b"CD001"),
    mark("a UDF filesystem", 0x8001, b"BEA01"),
    mark("a squashfs filesystem", 0, b"hsqs"),
    mark("a squashfs filesystem", 0, b"sqsh"),
    mark("an EROFS filesystem", 0x400, &0xe0f5_e1e2u32.to_le_bytes()),
    mark("a zonefs filesystem", 0, b"SFOZ"),
    mark("a JFS filesystem", 0x8000, b"JFS1"),
    mark("a ReiserFS filesystem", 0x10034, b"ReIsEr"),
    mark("an HFS+ filesystem", 0x400, b"H+\0\x04"),
    mark("an APFS container", 32, b"NXSB"),
    mark("a Stratis pool", 512 + 4, b"!Stra0tis\x86\xff\x02^\x41rh"),
    mark("a VDO device", 0, b"dmvdo001"),
    mark("a Ceph OSD", 0, b"bluestore block device"),
    mark("a dm-integrity device", 0, b"integrt\0"),
    mark("a dm-verity device", 0, b"verity\0\0"),
    mark("a GPT partition table", 512, b"EFI PART"),
    mark("a GPT partition table", 4096, b"EFI PART"),
    mark("a Linux RAID member", 0, &MD_MAGIC),
    mark("a Linux RAID member", 4096, &MD_MAGIC),
];

const MD_MAGIC: [u8; 4] = 0xa92b_4efcu32.to_le_bytes();

/// Bytes from the start that hold every mark but those at the end.
const HEAD: u64 = 256 << 10;

/// What a device shows at its start and end.
struct Bytes<'a> {
    device: &'a File,
    size: u64,
    head: Vec<u8>,
}

impl Bytes<'_> {
    /// `len` bytes from `offset` on, fewer at the end of the device.
    fn at(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        if offset + len as u64 <= self.head.len() as u64 {
            return Ok(self.head[offset as usize..][..len].to_vec());
        }
        read(self.device, offset, len.min(self.size.saturating_sub(offset) as usize))
    }

    fn has(&self, offset: u64, bytes: &[u8]) -> io::Result<bool> {
        Ok(self.at(offset, bytes.len())? == bytes)
    }

    fn u16(&self, offset: u64) -> io::Result<u16> {
        Ok(self.at(offset, 2)?.first_chunk().map_or(0, |bytes| u16::from_le_bytes(*bytes)))
    }

    fn u32(&self, offset: u64) -> io::Result<u32> {
        Ok(self.at(offset, 4)?.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes)))
    }
}

/// Reads up to `len` bytes; less only at the end.
fn read(device: &File, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut out = vec![0; len];
    let mut done = 0;
    while done < len {
        match device.read_at(&mut out[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    out.truncate(done);
    Ok(out)
}

/// What is on a device of `size` bytes, each thing once, in words with an article.
///
/// # Errors
/// A device that cannot be read.
pub fn probe(device: &File, size: u64) -> io::Result<Vec<&'static str>> {
    let head = read(device, 0, HEAD.min(size) as usize)?;
    let bytes = Bytes { device, size, head };
    let mut found = Vec::new();
    for mark in MARKS {
        if bytes.has(mark.offset, mark.bytes)? {
            found.push(mark.name);
        }
    }
    for look in [ext, nilfs, swap, lvm, zfs, md_at_end, gpt_at_end, ferryfs_ring] {
        found.extend(look(&bytes)?);
    }
    if found.is_empty() {
        found.extend(mbr(&bytes)?);
    }
    let mut once = Vec::new();
    for name in found {
        if !once.contains(&name) {
            once.push(name);
        }
    }
    Ok(once)
}

type Look = io::Result<Option<&'static str>>;

fn ext(bytes: &Bytes<'_>) -> Look {
    const SUPERBLOCK: u64 = 0x400;
    if bytes.u16(SUPERBLOCK + 0x38)? != 0xef53 {
        return Ok(None);
    }
    let (compatible, incompatible) = (bytes.u32(SUPERBLOCK + 0x5c)?, bytes.u32(SUPERBLOCK + 0x60)?);
    Ok(Some(match (incompatible & 0x40 != 0, compatible & 0x4 != 0) {
        (true, _) => "an ext4 filesystem",
        (false, true) => "an ext3 filesystem",
        (false, false) => "an ext2 filesystem",
    }))
}

fn nilfs(bytes: &Bytes<'_>) -> Look {
    // Two bytes are not much: the revision and a believable length of the superblock have to agree.
    let known = bytes.u16(0x406)? == 0x3434 && bytes.u32(0x400)? == 2 && (1..=1024).contains(&bytes.u16(0x408)?);
    Ok(known.then_some("a NILFS2 filesystem"))
}

fn swap(bytes: &Bytes<'_>) -> Look {
    for page in [4096u64, 8192, 16384, 65536] {
        let mark = bytes.at(page - 10, 10)?;
        if [&b"SWAPSPACE2"[..], b"SWAP-SPACE", b"S1SUSPEND\0", b"S2SUSPEND\0"].contains(&mark.as_slice()) {
            return Ok(Some("swap space"));
        }
    }
    Ok(None)
}

fn lvm(bytes: &Bytes<'_>) -> Look {
    for sector in 0..4u64 {
        if bytes.has(sector * 512, b"LABELONE")? && bytes.has(sector * 512 + 24, b"LVM2 001")? {
            return Ok(Some("an LVM physical volume"));
        }
    }
    Ok(None)
}

fn zfs(bytes: &Bytes<'_>) -> Look {
    const UBERBLOCK: u64 = 0x00ba_b10c;
    for slot in 0..128u64 {
        let mark = bytes.at((128 << 10) + slot * 1024, 8)?;
        if mark == UBERBLOCK.to_le_bytes() || mark == UBERBLOCK.to_be_bytes() {
            return Ok(Some("a ZFS pool member"));
        }
    }
    Ok(None)
}

fn md_at_end(bytes: &Bytes<'_>) -> Look {
    let version_0_90 = (bytes.size & !0xffff).checked_sub(0x10000);
    let version_1_0 = (bytes.size / 512).checked_sub(16).map(|sector| (sector & !7) * 512);
    for offset in [version_0_90, version_1_0].into_iter().flatten() {
        if bytes.has(offset, &MD_MAGIC)? {
            return Ok(Some("a Linux RAID member"));
        }
    }
    Ok(None)
}

fn gpt_at_end(bytes: &Bytes<'_>) -> Look {
    for block in [512, 4096] {
        if let Some(offset) = (bytes.size / block * block).checked_sub(block)
            && bytes.has(offset, b"EFI PART")?
        {
            return Ok(Some("a GPT partition table"));
        }
    }
    Ok(None)
}

/// A FerryFS without zones of its own, whose newest superblock lies in the second zone.
fn ferryfs_ring(bytes: &Bytes<'_>) -> Look {
    for shift in 20..=31 {
        if bytes.size > 1 << shift && bytes.has(1 << shift, b"FerryFS\0")? {
            return Ok(Some("a FerryFS volume"));
        }
    }
    Ok(None)
}

fn mbr(bytes: &Bytes<'_>) -> Look {
    if !bytes.has(510, &[0x55, 0xaa])? {
        return Ok(None);
    }
    // A boot sector ends like this as well; a table has at least one entry with a type and a length, and no entry
    // whose first byte is anything but "active" or "not active".
    let table = bytes.at(446, 64)?;
    let mut used = 0;
    for entry in table.chunks_exact(16) {
        if entry[0] & 0x7f != 0 {
            return Ok(Some("a boot sector"));
        }
        used += usize::from(entry[4] != 0 && entry[12..16] != [0; 4]);
    }
    Ok(Some(if used > 0 { "an MBR partition table" } else { "a boot sector" }))
}

/// Does the file hold anything but zeros? Holes are not read.
///
/// # Errors
/// A file that cannot be read.
pub fn holds_data(file: &File, size: u64) -> io::Result<bool> {
    use rustix::fs::SeekFrom;
    let mut at = 0;
    while at < size {
        let data = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(data) => data,
            Err(rustix::io::Errno::NXIO) => return Ok(false),
            // A filesystem that cannot tell: everything is data.
            Err(rustix::io::Errno::INVAL) => at,
            Err(errno) => return Err(errno.into()),
        };
        let end = rustix::fs::seek(file, SeekFrom::Hole(data)).unwrap_or(size).min(size);
        at = data;
        while at < end {
            let piece = read(file, at, (end - at).min(1 << 20) as usize)?;
            if piece.is_empty() {
                return Ok(false);
            }
            if piece.iter().any(|byte| *byte != 0) {
                return Ok(true);
            }
            at += piece.len() as u64;
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 64 << 20;

    fn device(pieces: &[(u64, &[u8])]) -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(SIZE).unwrap();
        for (offset, bytes) in pieces {
            file.write_all_at(bytes, *offset).unwrap();
        }
        file
    }

    fn found(pieces: &[(u64, &[u8])]) -> Vec<&'static str> {
        probe(&device(pieces), SIZE).unwrap()
    }

    #[test]
    fn an_empty_device_has_nothing() {
        assert!(found(&[]).is_empty());
        assert!(!holds_data(&device(&[]), SIZE).unwrap());
        assert!(!holds_data(&device(&[(4096, &[0; 100])]), SIZE).unwrap());
        assert!(holds_data(&device(&[(SIZE - 1, &[1])]), SIZE).unwrap());
        let tiny = tempfile::tempfile().unwrap();
        assert!(probe(&tiny, 0).unwrap().is_empty());
        tiny.set_len(700).unwrap();
        assert!(probe(&tiny, 700).unwrap().is_empty());
    }

    #[test]
    fn every_fixed_mark_is_found() {
        for mark in MARKS {
            assert_eq!(found(&[(mark.offset, mark.bytes)]), [mark.name], "{}", mark.name);
        }
    }

    #[test]
    fn the_ext_family_is_told_apart() {
        let magic = (0x438, &[0x53, 0xef][..]);
        assert_eq!(found(&[magic]), ["an ext2 filesystem"]);
        assert_eq!(found(&[magic, (0x45c, &[4])]), ["an ext3 filesystem"]);
        assert_eq!(found(&[magic, (0x45c, &[4]), (0x460, &[0x42, 2])]), ["an ext4 filesystem"]);
    }

    #[test]
    fn marks_that_need_a_second_look() {
        assert_eq!(found(&[(4086, b"SWAPSPACE2")]), ["swap space"]);
        assert_eq!(found(&[(65526, b"SWAPSPACE2")]), ["swap space"]);
        assert_eq!(found(&[(512, b"LABELONE"), (536, b"LVM2 001")]), ["an LVM physical volume"]);
        assert!(found(&[(512, b"LABELONE")]).is_empty());
        assert_eq!(found(&[((128 << 10) + 7 * 1024, &0x00ba_b10cu64.to_le_bytes())]), ["a ZFS pool member"]);
        assert_eq!(found(&[((128 << 10) + 127 * 1024, &0x00ba_b10cu64.to_be_bytes())]), ["a ZFS pool member"]);
        assert_eq!(found(&[(0x400, &[2, 0, 0, 0, 0, 0, 0x34, 0x34, 0x18, 0x01])]), ["a NILFS2 filesystem"]);
        assert!(found(&[(0x406, &[0x34, 0x34])]).is_empty());
    }

    #[test]
    fn marks_at_the_end_are_found() {
        assert_eq!(found(&[(SIZE - 0x10000, &MD_MAGIC)]), ["a Linux RAID member"]);
        assert_eq!(found(&[(SIZE - 8192, &MD_MAGIC)]), ["a Linux RAID member"]);
        assert_eq!(found(&[(SIZE - 512, b"EFI PART")]), ["a GPT partition table"]);
        assert_eq!(found(&[(SIZE - 4096, b"EFI PART")]), ["a GPT partition table"]);
    }

    #[test]
    fn a_volume_without_zones_is_found_by_either_half_of_its_ring() {
        for zone in [1u64 << 20, 16 << 20] {
            assert_eq!(found(&[(zone, b"FerryFS\0")]), ["a FerryFS volume"]);
        }
    }

    #[test]
    fn partition_tables_and_boot_sectors() {
        let end = (510, &[0x55, 0xaa][..]);
        let entry = [0x80, 0, 2, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 0, 2, 0];
        assert_eq!(found(&[end, (446, &entry)]), ["an MBR partition table"]);
        assert_eq!(found(&[end]), ["a boot sector"]);
        assert_eq!(found(&[end, (446, b"machine code")]), ["a boot sector"]);
        assert_eq!(found(&[end, (3, b"NTFS    ")]), ["an NTFS filesystem"], "a boot sector that is a filesystem's is named once");
        assert_eq!(
            found(&[end, (446, &entry), (512, b"EFI PART")]),
            ["a GPT partition table"],
            "the protective table of a GPT is part of it"
        );
    }
}
