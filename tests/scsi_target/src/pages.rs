//! What a disk says about itself.

use crate::disk::DiskConfig;
use crate::refusal::{Code, Key, Refusal};
use crate::u32_at;

fn cut(mut data: Vec<u8>, allocation: usize) -> Vec<u8> {
    data.truncate(allocation);
    data
}

/// INQUIRY.
pub(crate) fn inquiry(config: &DiskConfig, cdb: &[u8]) -> Result<Vec<u8>, Refusal> {
    let (&[_, vital, page, high, low, ..], 6..) = (cdb, cdb.len()) else {
        return Err(Refusal::check(Key::IllegalRequest, Code::INVALID_FIELD_IN_CDB));
    };
    let allocation = usize::from(u16::from_be_bytes([high, low]));
    let data = match (vital & 1, page) {
        (0, 0) => standard(config),
        (1, 0x00) => vital_page(config, page, vec![0x00, 0x80, 0x83, 0x8f, 0xb0]),
        (1, 0x80) => vital_page(config, page, config.designators.iter().rev().take(1).map(|byte| b'0' + byte % 10).collect()),
        (1, 0x83) => vital_page(config, page, config.designators.clone()),
        (1, 0x8f) if config.tokens.is_some() => vital_page(config, page, third_party(config)),
        (1, 0xb0) => vital_page(config, page, block_limits()),
        _ => return Err(Refusal::check(Key::IllegalRequest, Code::INVALID_FIELD_IN_CDB)),
    };
    Ok(cut(data, allocation))
}

fn standard(config: &DiskConfig) -> Vec<u8> {
    let mut data = vec![0; 36];
    data[0] = config.device_type;
    (data[2], data[3], data[4]) = (6, 2, 31);
    data[5] = if config.xcopy.is_some() || config.tokens.is_some() { 0x08 } else { 0 };
    data[7] = 0x02;
    data[8..16].copy_from_slice(b"FERRYFS ");
    data[16..32].copy_from_slice(b"MEMORY DISK     ");
    data[32..36].copy_from_slice(b"0001");
    data
}

fn vital_page(config: &DiskConfig, page: u8, body: Vec<u8>) -> Vec<u8> {
    let [high, low] = (body.len() as u16).to_be_bytes();
    let mut data = vec![config.device_type, page, high, low];
    data.extend(body);
    data
}

fn block_limits() -> Vec<u8> {
    let mut body = vec![0; 60];
    // 64 MiB of 512-byte blocks at most, 256 KiB at best.
    body[4..8].copy_from_slice(&131_072u32.to_be_bytes());
    body[8..12].copy_from_slice(&512u32.to_be_bytes());
    body
}

/// Page 8Fh: limits, commands, features.
fn third_party(config: &DiskConfig) -> Vec<u8> {
    let Some(tokens) = &config.tokens else { return Vec::new() };
    let mut body = vec![0; 36];
    body[2..4].copy_from_slice(&32u16.to_be_bytes());
    body[10..12].copy_from_slice(&tokens.max_ranges.to_be_bytes());
    body[12..16].copy_from_slice(&tokens.max_inactivity.to_be_bytes());
    body[16..20].copy_from_slice(&tokens.default_inactivity.to_be_bytes());
    body[20..28].copy_from_slice(&tokens.max_blocks.to_be_bytes());
    let mut commands = vec![0x83, 3, 0x10, 0x11, 0x1c, 0x84, 1, 0x07];
    if config.xcopy.is_some() {
        commands = vec![0x83, 4, 0x00, 0x10, 0x11, 0x1c, 0x84, 2, 0x03, 0x07];
    }
    let padded = (1 + commands.len()).next_multiple_of(4);
    body.extend([0x00, 0x01, 0, padded as u8, commands.len() as u8]);
    body.extend(&commands);
    body.resize(36 + 4 + padded, 0);
    // ROD token features: tokens of other disks or not.
    let mut features = vec![0; 48];
    features[..4].copy_from_slice(&[0x01, 0x06, 0, 44]);
    features[4] = if tokens.remote { 0x6 } else { 0 };
    features[24..28].copy_from_slice(&tokens.max_inactivity.to_be_bytes());
    body.extend(features);
    body
}

/// REQUEST SENSE: nothing to say.
pub(crate) fn no_sense() -> Vec<u8> {
    let mut data = vec![0; 18];
    (data[0], data[7]) = (0x70, 10);
    data
}

/// MODE SENSE (6) and (10): a header, and a caching page without a volatile cache.
pub(crate) fn mode_sense(cdb: &[u8]) -> Vec<u8> {
    let caching = [0x08, 0x12, 0x00].into_iter().chain([0; 17]);
    let wanted = matches!(cdb.get(2).map(|page| page & 0x3f), Some(0x08 | 0x3f));
    let page: Vec<u8> = if wanted { caching.collect() } else { Vec::new() };
    if cdb[0] == 0x1a {
        let mut data = vec![3 + page.len() as u8, 0, 0, 0];
        data.extend(page);
        return cut(data, usize::from(cdb.get(4).copied().unwrap_or(0)));
    }
    let mut data = vec![0, 6 + page.len() as u8, 0, 0, 0, 0, 0, 0];
    data.extend(page);
    cut(data, crate::u16_at(cdb, 7).map_or(0, usize::from))
}

/// REPORT LUNS: the one that was asked.
pub(crate) fn report_luns() -> Vec<u8> {
    let mut data = vec![0; 16];
    data[3] = 8;
    data
}

/// READ CAPACITY (10).
pub(crate) fn capacity_10(config: &DiskConfig) -> Vec<u8> {
    let last = u32::try_from(config.blocks - 1).unwrap_or(u32::MAX);
    [last.to_be_bytes(), config.block_size.to_be_bytes()].concat()
}

/// READ CAPACITY (16).
pub(crate) fn capacity_16(config: &DiskConfig, cdb: &[u8]) -> Vec<u8> {
    let mut data = vec![0; 32];
    data[..8].copy_from_slice(&(config.blocks - 1).to_be_bytes());
    data[8..12].copy_from_slice(&config.block_size.to_be_bytes());
    cut(data, u32_at(cdb, 10).map_or(0, |len| len as usize))
}

/// RECEIVE COPY OPERATING PARAMETERS.
pub(crate) fn operating_parameters(config: &DiskConfig, cdb: &[u8]) -> Result<Vec<u8>, Refusal> {
    let xcopy = config.xcopy.as_ref().ok_or(Refusal::check(Key::IllegalRequest, Code::INVALID_FIELD_IN_CDB))?;
    let mut data = vec![0; 46];
    data[..4].copy_from_slice(&42u32.to_be_bytes());
    data[4] = u8::from(xcopy.no_list_id);
    if xcopy.advertised {
        data[8..10].copy_from_slice(&xcopy.max_cscds.to_be_bytes());
        data[10..12].copy_from_slice(&xcopy.max_segments.to_be_bytes());
        data[12..16].copy_from_slice(&xcopy.max_list_bytes.to_be_bytes());
        data[16..20].copy_from_slice(&xcopy.max_segment_bytes.to_be_bytes());
    } else {
        // A target that promises more than it keeps.
        data[8..10].copy_from_slice(&64u16.to_be_bytes());
        data[10..12].copy_from_slice(&64u16.to_be_bytes());
    }
    (data[36], data[43], data[44], data[45]) = (4, 2, 0x02, 0xe4);
    Ok(cut(data, u32_at(cdb, 10).map_or(0, |len| len as usize)))
}
