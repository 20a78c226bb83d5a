//! Golden images: volumes of earlier formats, kept compressed, which every later version must read.
//!
//! An image is sparse and mostly zero: only its non-zero blocks are kept, each with its number, deflated. A manifest beside each
//! says what the volume must hold.

use anyhow::{Context, Result, ensure};
use flate2::Compression;
use flate2::read::DeflateDecoder;
use flate2::write::DeflateEncoder;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 8] = b"FERRYGLD";
const BLOCK: usize = 4096;

/// Where the images are kept.
pub fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden")
}

/// The kept images, by name.
pub fn all() -> Result<Vec<PathBuf>> {
    let Ok(entries) = std::fs::read_dir(directory()) else {
        return Ok(Vec::new());
    };
    let mut found: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    found.retain(|path| path.extension().is_some_and(|extension| extension == "golden"));
    found.sort();
    Ok(found)
}

/// Packs an image file.
pub fn pack(image: &Path, into: &Path) -> Result<()> {
    let image = File::open(image).with_context(|| image.display().to_string())?;
    let length = image.metadata()?.len();
    let out = File::create(into).with_context(|| into.display().to_string())?;
    let mut out = DeflateEncoder::new(std::io::BufWriter::new(out), Compression::best());
    out.write_all(MAGIC)?;
    out.write_all(&length.to_le_bytes())?;
    let mut block = vec![0; BLOCK];
    for number in 0..length.div_ceil(BLOCK as u64) {
        let at = number * BLOCK as u64;
        let size = (length - at).min(BLOCK as u64) as usize;
        image.read_exact_at(&mut block[..size], at)?;
        if block[..size].iter().any(|byte| *byte != 0) {
            block[size..].fill(0);
            out.write_all(&number.to_le_bytes())?;
            out.write_all(&block)?;
        }
    }
    out.write_all(&u64::MAX.to_le_bytes())?;
    out.finish()?.into_inner().map_err(|error| error.into_error())?;
    Ok(())
}

/// Makes the image file again.
pub fn unpack(packed: &Path, image: &Path) -> Result<()> {
    let mut packed = DeflateDecoder::new(File::open(packed).with_context(|| packed.display().to_string())?);
    let mut magic = [0; 8];
    packed.read_exact(&mut magic)?;
    ensure!(magic == *MAGIC, "this is not a golden image");
    let length = number(&mut packed)?;
    ensure!(length <= 1 << 40, "a golden image of {length} bytes");
    let image = File::create(image).with_context(|| image.display().to_string())?;
    image.set_len(length)?;
    let mut block = vec![0; BLOCK];
    loop {
        let at = number(&mut packed)?;
        if at == u64::MAX {
            return Ok(());
        }
        let at = at.checked_mul(BLOCK as u64).filter(|at| *at < length).context("a block beyond the end")?;
        packed.read_exact(&mut block)?;
        image.write_all_at(&block[..(length - at).min(BLOCK as u64) as usize], at)?;
    }
}

fn number(from: &mut impl Read) -> Result<u64> {
    let mut bytes = [0; 8];
    from.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sparse_file_survives_packing() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let file = File::create(at("a")).unwrap();
        file.set_len(64 << 20 | 100).unwrap();
        file.write_all_at(b"begin", 10).unwrap();
        file.write_all_at(b"middle", 4096 * 3 - 2).unwrap();
        file.write_all_at(b"end", (64 << 20) + 97).unwrap();
        pack(&at("a"), &at("p")).unwrap();
        assert!(at("p").metadata().unwrap().len() < 1000);
        unpack(&at("p"), &at("b")).unwrap();
        assert!(std::fs::read(at("a")).unwrap() == std::fs::read(at("b")).unwrap());
        std::fs::write(at("junk"), b"junk").unwrap();
        assert!(unpack(&at("junk"), &at("c")).is_err());
    }
}
