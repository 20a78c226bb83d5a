//! The devices of a volume: filesystem blocks to device blocks, batches in zone order, and what was written since the last flush.

use crate::BLOCK;
use crate::addr::Addr;
use crate::error::{FsError, Result};
use parking_lot::Mutex;
use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use zns::{AlignedBuf, BufSlice, DeviceError, DeviceId, Io, IoClass, Lba, ZoneAction, ZoneId, ZonedDevice};

/// One device.
pub struct Member {
    device: Arc<dyn ZonedDevice>,
    blocks_per_block: u64,
    zone_lbas: u64,
    max_blocks: u32,
    dirty: AtomicBool,
}

thread_local! {
    static READ_HERE: Cell<u64> = const { Cell::new(0) };
}

/// Bytes that this thread has asked devices for since it began: the difference of two calls is what lay between them cost, whoever else reads meanwhile.
pub(super) fn read_by_this_thread() -> u64 {
    READ_HERE.get()
}

/// All devices of a volume, in the order of the device table.
pub struct Members {
    members: Vec<Member>,
    /// Serialises flushes, so that a flush that found a device clean knows that it is. What failed once is never known to be durable
    /// again: a device may report an error once and forget what it could not write.
    flushing: Mutex<Option<(DeviceId, FsError)>>,
    /// Bytes that the host sent to devices.
    pub written: AtomicU64,
    /// Bytes that the host received from devices.
    pub read: AtomicU64,
    /// Flush commands.
    pub flushes: AtomicU64,
}

/// A write of consecutive blocks.
pub struct RunWrite {
    /// First block.
    pub addr: Addr,
    /// Payload: whole blocks.
    pub data: Vec<BufSlice>,
}

impl RunWrite {
    fn bytes(&self) -> usize {
        self.data.iter().map(|d| d.len()).sum()
    }
    /// Length in blocks.
    pub fn blocks(&self) -> u32 {
        (self.bytes() / BLOCK) as u32
    }
}

impl Members {
    /// The devices in the order of the device table.
    pub fn new(devices: Vec<Arc<dyn ZonedDevice>>) -> Self {
        let members = devices
            .into_iter()
            .map(|device| {
                let g = device.geometry();
                Member {
                    blocks_per_block: (BLOCK as u64) / u64::from(g.block_size),
                    zone_lbas: g.zone_size.0,
                    max_blocks: (g.max_io_bytes / BLOCK as u32).max(1),
                    dirty: AtomicBool::new(true),
                    device,
                }
            })
            .collect();
        let zero = || AtomicU64::new(0);
        Self { members, flushing: Mutex::new(None), written: zero(), read: zero(), flushes: zero() }
    }

    /// Number of devices.
    pub fn count(&self) -> usize {
        self.members.len()
    }

    /// One device.
    pub fn device(&self, id: DeviceId) -> &Arc<dyn ZonedDevice> {
        &self.members[usize::from(id.0)].device
    }

    /// All devices.
    pub fn devices(&self) -> impl Iterator<Item = &Arc<dyn ZonedDevice>> {
        self.members.iter().map(|m| &m.device)
    }

    /// Where a filesystem block lies on its device.
    pub fn lba(&self, addr: Addr) -> Lba {
        let m = &self.members[usize::from(addr.device().0)];
        Lba(u64::from(addr.zone().0) * m.zone_lbas + u64::from(addr.block()) * m.blocks_per_block)
    }

    /// The inverse of [`Members::lba`] for a block-aligned `lba`.
    pub fn addr(&self, device: DeviceId, lba: Lba) -> Addr {
        let m = &self.members[usize::from(device.0)];
        let (zone, within) = (lba.0 / m.zone_lbas, lba.0 % m.zone_lbas);
        Addr::new(device, zns::ZoneId(zone as u32), (within / m.blocks_per_block) as u32)
    }

    /// Device blocks in `blocks` filesystem blocks of that device.
    pub fn device_blocks(&self, device: DeviceId, blocks: u32) -> zns::Blocks {
        zns::Blocks(u64::from(blocks) * self.members[usize::from(device.0)].blocks_per_block)
    }

    /// Filesystem blocks in `n` device blocks of that device.
    pub fn fs_blocks(&self, device: DeviceId, n: zns::Blocks) -> u32 {
        (n.0 / self.members[usize::from(device.0)].blocks_per_block) as u32
    }

    /// The device was written by other means (a copy): it needs a flush.
    pub fn mark_dirty(&self, device: DeviceId) {
        self.members[usize::from(device.0)].dirty.store(true, Ordering::SeqCst);
    }

    fn count_read(&self, bytes: u64) {
        self.read.fetch_add(bytes, Ordering::Relaxed);
        READ_HERE.set(READ_HERE.get() + bytes);
    }

    /// Reads one block.
    ///
    /// # Errors
    /// The device's.
    pub fn read_block(&self, addr: Addr, class: IoClass) -> Result<AlignedBuf> {
        self.count_read(BLOCK as u64);
        Ok(self.device(addr.device()).read(self.lba(addr), AlignedBuf::zeroed(BLOCK), class)?)
    }

    /// Reads runs of blocks (each within a zone), all at once. Runs that a device does not take at once go in pieces.
    pub fn read_runs(&self, runs: &[(Addr, u32)], class: IoClass) -> Vec<Result<AlignedBuf>> {
        let mut results: Vec<Option<Result<AlignedBuf>>> = runs.iter().map(|_| None).collect();
        for (d, member) in self.members.iter().enumerate() {
            let mut batch = Vec::new();
            let mut owners = Vec::new();
            for (i, &(addr, blocks)) in runs.iter().enumerate().filter(|(_, run)| usize::from(run.0.device().0) == d) {
                let mut at = 0;
                while at < blocks {
                    let n = (blocks - at).min(member.max_blocks);
                    let bytes = n as usize * BLOCK;
                    self.count_read(bytes as u64);
                    batch.push(Io::Read { lba: self.lba(addr.plus(at)), buf: AlignedBuf::recycled(bytes) });
                    owners.push((i, at));
                    at += n;
                }
            }
            if batch.is_empty() {
                continue;
            }
            match member.device.submit(batch, class) {
                Ok(ticket) => {
                    for ((i, at), done) in owners.into_iter().zip(member.device.complete(ticket)) {
                        let piece = match done {
                            Ok(Some(buf)) => Ok(buf),
                            Ok(None) => Err(FsError::Internal("a read came back without its buffer")),
                            Err(error) => Err(error.into()),
                        };
                        gather(&mut results[i], runs[i].1, at, piece);
                    }
                }
                Err(error) => owners.iter().for_each(|&(i, _)| results[i] = Some(Err(error.clone().into()))),
            }
        }
        let lost = || Err(FsError::Internal("a device lost a completion"));
        results.into_iter().map(|r| r.unwrap_or_else(lost)).collect()
    }

    /// Writes runs of one head of the log: see [`Members::write_heads`].
    pub fn write_runs(&self, runs: Vec<RunWrite>, class: IoClass) -> Vec<Result<()>> {
        self.write_heads(vec![runs], class)
    }

    /// Writes runs of several heads of the log side by side. Runs of one zone are written in the order given, one at a time (I1), and so are
    /// the zones of a head: it has one active zone, as the limits of devices demand. The result of each run in the order given; after a
    /// failure in a zone the later runs of that zone fail too.
    pub fn write_heads(&self, heads: Vec<Vec<RunWrite>>, class: IoClass) -> Vec<Result<()>> {
        let count = heads.iter().map(Vec::len).sum();
        let mut results: Vec<Result<()>> = (0..count).map(|_| Ok(())).collect();
        let mut zones: BTreeMap<Addr, VecDeque<Joined>> = BTreeMap::new();
        let mut lanes: Vec<VecDeque<Addr>> = heads.iter().map(|_| VecDeque::new()).collect();
        let lane_of_run = heads.into_iter().enumerate().flat_map(|(lane, runs)| runs.into_iter().map(move |run| (lane, run)));
        for (i, (lane, run)) in lane_of_run.enumerate() {
            let limit = self.members[usize::from(run.addr.device().0)].max_blocks;
            let zone = run.addr.zone_base();
            let queue = zones.entry(zone).or_insert_with(|| {
                lanes[lane].push_back(zone);
                VecDeque::new()
            });
            enqueue(queue, i, run, limit);
        }
        while !zones.is_empty() {
            let mut tickets = Vec::new();
            let now: Vec<Addr> = lanes.iter().filter_map(|lane| lane.front().copied()).collect();
            for (d, member) in self.members.iter().enumerate() {
                let mut batch = Vec::new();
                let mut owners = Vec::new();
                let mine = |zone: &Addr| usize::from(zone.device().0) == d && now.contains(zone);
                for (zone, queue) in zones.iter_mut().filter(|(zone, _)| mine(zone)) {
                    if let Some(Joined { indices, run, blocks }) = queue.pop_front() {
                        self.written.fetch_add(u64::from(blocks) * BLOCK as u64, Ordering::Relaxed);
                        batch.push(Io::Write { lba: self.lba(run.addr), data: run.data });
                        owners.push((*zone, indices));
                    }
                }
                if !batch.is_empty() {
                    tickets.push((member, owners, member.device.submit(batch, class)));
                }
            }
            for (member, owners, ticket) in tickets {
                let done: Vec<std::result::Result<(), DeviceError>> = match ticket {
                    Ok(ticket) => member.device.complete(ticket).into_iter().map(|r| r.map(|_| ())).collect(),
                    Err(error) => owners.iter().map(|_| Err(error.clone())).collect(),
                };
                member.dirty.store(true, Ordering::SeqCst);
                for ((zone, indices), outcome) in owners.into_iter().zip(done) {
                    if let Err(error) = outcome {
                        let rest = zones.get_mut(&zone).map(std::mem::take).unwrap_or_default();
                        for i in indices.into_iter().chain(rest.into_iter().flat_map(|joined| joined.indices)) {
                            results[i] = Err(error.clone().into());
                        }
                    }
                }
            }
            zones.retain(|_, queue| !queue.is_empty());
            for lane in &mut lanes {
                if lane.front().is_some_and(|zone| !zones.contains_key(zone)) {
                    lane.pop_front();
                }
            }
        }
        results
    }

    /// Flushes every device that was written since its last flush.
    ///
    /// # Errors
    /// The first device that failed; nothing is known to be durable then.
    pub fn flush(&self) -> Result<()> {
        let mut failed = self.flushing.lock();
        if let Some((_, error)) = &*failed {
            return Err(error.clone());
        }
        for (id, member) in (0..=u8::MAX).map(DeviceId).zip(&self.members) {
            if member.dirty.swap(false, Ordering::SeqCst) {
                self.flushes.fetch_add(1, Ordering::Relaxed);
                if let Err(error) = member.device.flush() {
                    member.dirty.store(true, Ordering::SeqCst);
                    return Err(failed.insert((id, error.into())).1.clone());
                }
            }
        }
        Ok(())
    }

    /// Which device failed to flush, in words.
    pub fn unflushed(&self) -> String {
        self.flushing.lock().as_ref().map_or_else(|| "a device".to_owned(), |(id, _)| self.device(*id).label())
    }

    /// Opens, closes, finishes or resets the zone of `addr`.
    ///
    /// # Errors
    /// The device's.
    pub fn manage(&self, addr: Addr, action: ZoneAction) -> Result<()> {
        self.mark_dirty(addr.device());
        Ok(self.device(addr.device()).manage(addr.zone(), action)?)
    }

    /// Resets zones, those of each device together; gives them with what became of each.
    pub fn reset(&self, zones: &[Addr]) -> Vec<(Addr, Result<()>)> {
        let mut sorted = zones.to_vec();
        sorted.sort_unstable();
        let mut answers = Vec::with_capacity(sorted.len());
        for of_device in sorted.chunk_by(|a, b| a.device() == b.device()) {
            let device = of_device[0].device();
            self.mark_dirty(device);
            let ids: Vec<ZoneId> = of_device.iter().map(|addr| addr.zone()).collect();
            let done = self.device(device).reset(&ids);
            answers.extend(of_device.iter().copied().zip(done.into_iter().map(|answer| answer.map_err(FsError::from))));
        }
        answers
    }
}

/// Puts a piece of a run, which starts at block `at` of it, into the run's result; the first failure stays.
fn gather(result: &mut Option<Result<AlignedBuf>>, blocks: u32, at: u32, piece: Result<AlignedBuf>) {
    let bytes = blocks as usize * BLOCK;
    match (piece, &mut *result) {
        (Ok(buf), None) if buf.len() == bytes => *result = Some(Ok(buf)),
        (Ok(buf), None) => {
            let mut whole = AlignedBuf::recycled(bytes);
            whole[at as usize * BLOCK..][..buf.len()].copy_from_slice(&buf);
            *result = Some(Ok(whole));
        }
        (Ok(buf), Some(Ok(whole))) => whole[at as usize * BLOCK..][..buf.len()].copy_from_slice(&buf),
        (Ok(_), Some(Err(_))) => {}
        (Err(error), result) => {
            if !matches!(result, Some(Err(_))) {
                *result = Some(Err(error));
            }
        }
    }
}

/// Runs that are written by one call.
struct Joined {
    /// Which runs they were.
    indices: Vec<usize>,
    run: RunWrite,
    /// Its length, which is asked for with each slice.
    blocks: u32,
}

/// Adds a run behind the last one of its zone, joined to it where they are adjacent and small enough, split where it is too large.
fn enqueue(queue: &mut VecDeque<Joined>, index: usize, run: RunWrite, limit: u32) {
    let mut addr = run.addr;
    let mut rest: VecDeque<BufSlice> = run.data.into();
    while let Some(slice) = rest.pop_front() {
        let fits = |last: &&mut Joined| last.run.addr.plus(last.blocks) == addr && last.blocks < limit && last.run.data.len() < 1000;
        if queue.back_mut().filter(fits).is_none() {
            queue.push_back(Joined { indices: Vec::new(), run: RunWrite { addr, data: Vec::new() }, blocks: 0 });
        }
        let Joined { indices, run: last, blocks } = queue.back_mut().expect("there is one");
        if indices.last() != Some(&index) {
            indices.push(index);
        }
        let bytes = slice.len().min((limit - *blocks) as usize * BLOCK);
        if bytes < slice.len() {
            rest.push_front(slice.sub(bytes..slice.len()));
        }
        let piece = slice.sub(0..bytes);
        match last.data.last().and_then(|end| end.joined(&piece)) {
            Some(joined) => *last.data.last_mut().expect("there is one") = joined,
            None => last.data.push(piece),
        }
        let added = (bytes / BLOCK) as u32;
        *blocks += added;
        addr = addr.plus(added);
    }
}
