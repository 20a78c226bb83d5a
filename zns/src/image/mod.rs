//! A regular file that behaves as a ZNS drive.
//!
//! Zone states and write pointers persist in the file ([`format`]), data lies behind them, one zone after the other,
//! and the file stays sparse: a reset punches the hole. The state machine, the open and active limits and the Copy
//! command are those of a drive, so that everything above can be developed and proved without one.
//!
//! Durability: [`ZonedDevice::flush`] writes the changed blocks of the zone table and then syncs the file once. Between
//! two flushes the table may be behind or ahead of the data: after an unclean end it is a bound, never a proof (I9).
//!
//! Operations are carried out in `submit` by the calling thread; threads that work on different zones never wait for
//! one another.

mod backing;
mod copy;
mod format;
#[doc(hidden)]
pub mod fuzzing;
mod layout;
mod model;
mod table;
#[cfg(test)]
mod tests;

pub use model::DeviceModel;

pub use layout::{ImageOptions, Layout, MAX_ZONE_BYTES, MAX_ZONES, MIN_IMAGE_BYTES, MIN_ZONE_BYTES, MIN_ZONES};

use crate::buffer::{AlignedBuf, BufSlice};
use crate::claim::Claim;
use crate::device::{Completions, Io, IoClass, Ticket, ZonedDevice};
use crate::error::{DeviceError, Result};
use crate::file_lock::{system, system_io};
use crate::geometry::Geometry;
use crate::machine::{Snapshot, ZoneMachine};
use crate::native_copy::NativeCopy;
use crate::permission::not_opened_io;
use crate::sim::SimFile;
use crate::sticky_sync::StickySync;
use crate::tickets::Tickets;
use crate::units::{Lba, ZoneId};
use crate::zone::{ZoneAction, ZoneInfo, ZoneState};
use backing::Backing;
use format::{HEADER_OFFSETS, HeaderRead, META_BLOCK, decode_header, encode_header};
use model::{Span, Timing, Work, wait_until};
use rustix::io::Errno;
use std::fs::{File, OpenOptions};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use table::TableWriter;

/// What a simulated file is called in messages.
const SIMULATED: &str = "simulated.img";

/// An open image.
#[derive(Debug)]
pub struct ImageDevice {
    path: PathBuf,
    layout: Layout,
    geometry: Geometry,
    backing: Backing,
    machine: ZoneMachine,
    table: TableWriter,
    /// Completions, and when they are to be had.
    tickets: Tickets<(Completions, Option<Instant>)>,
    /// The times that it plays; unset: none.
    timing: OnceLock<Timing>,
    read_only: bool,
    copied: AtomicU64,
    repairs: Vec<String>,
    /// Nobody else can use a simulated file.
    _claim: Option<Claim>,
}

/// Does one of the header places of this file carry the mark of an image? A damaged image still does.
pub(crate) fn has_header(file: &File) -> bool {
    HEADER_OFFSETS.iter().any(|&offset| {
        let mut magic = [0; 8];
        matches!(rustix::io::pread(file, &mut magic, offset), Ok(8)) && magic == format::MAGIC
    })
}

/// Does a block device or file hold a drive image, be it one whose header has lost its mark? Then the zone table tells it.
///
/// # Errors
/// A path that cannot be opened for reading.
pub fn is_at(path: &Path) -> Result<bool> {
    let file = File::open(path).map_err(|error| not_opened_io(path, false, &error))?;
    let mut block = [0; META_BLOCK];
    let read = crate::positioned::read_at(&file, format::TABLE_OFFSET, &mut block);
    Ok(has_header(&file) || (read == Ok(META_BLOCK) && format::is_table(&block, 0)))
}

impl ImageDevice {
    /// Makes an image and opens it. A file that exists and is not empty is replaced only with [`ImageOptions::overwrite`].
    ///
    /// # Errors
    /// A shape that is not possible, a file that exists or is in use, or a failed system call. A file that this call made is removed again.
    pub fn create(path: impl AsRef<Path>, options: &ImageOptions) -> Result<Self> {
        let path = path.as_ref();
        let unusable = |reason| DeviceError::Unusable { path: path.to_owned(), reason };
        let layout = Layout::from_options(options).map_err(unusable)?;
        let open = |new: bool| OpenOptions::new().read(true).write(true).create_new(new).open(path);
        let (file, fresh) = match open(true) {
            Ok(file) => (file, true),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                (open(false).map_err(|error| not_opened_io(path, true, &error))?, false)
            }
            Err(error) => return Err(system_io("create", path, &error)),
        };
        let made = Self::fill(&file, path, &layout, options.overwrite);
        if made.is_err() && fresh {
            // Best effort: the error that is reported matters more than this one.
            let _ = std::fs::remove_file(path);
        }
        let claim = made?;
        let length = file.metadata().map_err(|error| system_io("examine", path, &error))?.len();
        Self::load(Backing::new(file), length, path, false, Some(claim))
    }

    /// Makes an image in a simulated file, which is replaced, and opens it.
    ///
    /// # Errors
    /// A shape that is not possible, or what the file was told to fail with.
    pub fn create_simulated(options: &ImageOptions) -> Result<(SimFile, Self)> {
        let path = Path::new(SIMULATED);
        let unusable = |reason| DeviceError::Unusable { path: path.to_owned(), reason };
        let layout = Layout::from_options(options).map_err(unusable)?;
        let file = SimFile::new(layout.file_bytes());
        Self::lay_out(&Backing::simulated(&file), path, &layout)?;
        let device = Self::open_simulated(&file, false)?;
        Ok((file, device))
    }

    /// Opens the image in a simulated file.
    ///
    /// # Errors
    /// As [`ImageDevice::open`].
    pub fn open_simulated(file: &SimFile, read_only: bool) -> Result<Self> {
        Self::load(Backing::simulated(file), file.len(), Path::new(SIMULATED), read_only, None)
    }

    fn fill(file: &File, path: &Path, layout: &Layout, overwrite: bool) -> Result<Claim> {
        let metadata = file.metadata().map_err(|error| system_io("examine", path, &error))?;
        if !metadata.is_file() {
            let reason = "a drive image must be a regular file".to_owned();
            return Err(DeviceError::Unusable { path: path.to_owned(), reason });
        }
        let claim = Claim::take(file, path, false)?;
        if metadata.len() > 0 {
            if !overwrite {
                return Err(system("create", path, Errno::EXIST));
            }
            file.set_len(0).map_err(|error| system_io("empty", path, &error))?;
        }
        file.set_len(layout.file_bytes()).map_err(|error| system_io("set the length of", path, &error))?;
        let backing = Backing::new(file.try_clone().map_err(|error| system_io("open", path, &error))?);
        Self::lay_out(&backing, path, layout)?;
        Ok(claim)
    }

    /// Writes table and headers of an image without zones in use.
    fn lay_out(backing: &Backing, path: &Path, layout: &Layout) -> Result<()> {
        let write = |offset, bytes: &[u8]| backing.write(offset, bytes).map_err(|stop| system("write", path, stop.errno));
        let mut table = Vec::with_capacity(layout.table_blocks() as usize * META_BLOCK);
        for index in 0..layout.table_blocks() {
            let zones = vec![Snapshot { state: ZoneState::Empty, written: 0 }; layout.table_zones(index).len()];
            table.extend_from_slice(&format::encode_table(index, 0, &zones));
        }
        write(layout.table_offset(0, 0), &table)?;
        // The headers last: what has one is whole.
        for offset in HEADER_OFFSETS {
            write(offset, &encode_header(layout))?;
        }
        StickySync::default().attempt(|| backing.sync()).map_err(|errno| system("sync", path, errno))
    }

    /// Opens an image; for writing alone, for reading together with other readers.
    ///
    /// # Errors
    /// [`DeviceError::Busy`] if another process has it, [`DeviceError::Unusable`] if it is no image, cut short, damaged beyond
    /// repair or made by a newer program, else a failed system call.
    pub fn open(path: impl AsRef<Path>, read_only: bool) -> Result<Self> {
        let path = path.as_ref();
        let file = OpenOptions::new().read(true).write(!read_only).open(path);
        let file = file.map_err(|error| not_opened_io(path, !read_only, &error))?;
        let claim = Claim::take(&file, path, read_only)?;
        let length = file.metadata().map_err(|error| system_io("examine", path, &error))?.len();
        Self::load(Backing::new(file), length, path, read_only, Some(claim))
    }

    /// Reads header and table of a claimed file.
    fn load(backing: Backing, length: u64, path: &Path, read_only: bool, claim: Option<Claim>) -> Result<Self> {
        let failed = |action| move |errno| system(action, path, errno);
        let mut repairs = Vec::new();
        let (layout, damaged_headers) = read_header(&backing, path, read_only)?;
        if length < layout.file_bytes() {
            let reason = format!("the drive image is cut short: it has {length} of {} bytes", layout.file_bytes());
            return Err(DeviceError::Unusable { path: path.to_owned(), reason });
        }
        for copy in damaged_headers {
            repairs.push(format!("header copy {copy} was damaged"));
            if !read_only {
                let written = backing.write(HEADER_OFFSETS[copy], &encode_header(&layout));
                written.map_err(|stop| system("repair the header of", path, stop.errno))?;
            }
        }
        if !read_only {
            // A predecessor that was killed may have left table blocks that are not on the media yet; the copies they
            // replace must not be overwritten before they are.
            StickySync::default().attempt(|| backing.sync()).map_err(failed("sync"))?;
        }
        let loaded = table::load(&backing, &layout).map_err(failed("read the zone table of"))?;
        if !read_only
            && table::discard_unnamed(&backing, &layout, &loaded.zones).map_err(failed("discard data behind write pointers of"))?
        {
            tracing::debug!(path = %path.display(), "data behind write pointers was discarded, after an unclean end");
        }
        let geometry = layout.geometry();
        let machine = ZoneMachine::new(&geometry, loaded.zones.into_iter());
        let table = TableWriter::new(loaded.sequences);
        for zones in &loaded.probed {
            repairs.push(format!(
                "zone table block of zones {} to {} was damaged: write pointers bounded by the data found",
                zones.start,
                zones.end - 1
            ));
        }
        for repair in &repairs {
            tracing::warn!(path = %path.display(), "{repair}");
        }
        if !read_only {
            // Twice, so that both slots of a damaged block are sound again.
            for _ in 0..2 * usize::from(!loaded.probed.is_empty()) {
                loaded.probed.iter().for_each(|zones| table.touch(ZoneId(zones.start)));
                table.flush(&backing, &layout, &machine).map_err(failed("repair the zone table of"))?;
            }
        }
        let tickets = Tickets::default();
        let copied = AtomicU64::new(0);
        let timing = OnceLock::new();
        let path = path.to_owned();
        Ok(Self { path, layout, geometry, backing, machine, table, tickets, timing, read_only, copied, repairs, _claim: claim })
    }

    /// What was damaged when the image was opened, in sentences; empty for a sound one. Opened for writing, it has been repaired.
    pub fn repairs(&self) -> &[String] {
        &self.repairs
    }

    /// Bytes that Copy commands moved since the image was opened.
    pub fn copied_bytes(&self) -> u64 {
        self.copied.load(Ordering::Relaxed)
    }

    /// Lets a zone fail as media fails, for good: `ReadOnly` keeps its data readable, `Offline` does not.
    ///
    /// # Errors
    /// Another state, a zone outside the device, or an image opened read-only.
    pub fn retire(&self, zone: ZoneId, state: ZoneState) -> Result<()> {
        self.check_zone(zone)?;
        self.check_writable("retire a zone of")?;
        if !matches!(state, ZoneState::ReadOnly | ZoneState::Offline) {
            return Err(DeviceError::Zone { zone, status: crate::native_copy::NvmeStatus::INVALID_TRANSITION });
        }
        let writer = self.machine.writer(zone);
        let written = self.machine.snapshot(zone).written;
        self.machine.force(&writer, Snapshot { state, written });
        self.table.touch(zone);
        Ok(())
    }

    fn check_zone(&self, zone: ZoneId) -> Result<()> {
        self.machine.report(zone.0..zone.0.saturating_add(1)).map(drop)
    }

    fn check_writable(&self, action: &'static str) -> Result<()> {
        if self.read_only { Err(system(action, &self.path, Errno::ROFS)) } else { Ok(()) }
    }

    fn execute(&self, io: Io) -> Result<Option<AlignedBuf>> {
        match io {
            Io::Read { lba, buf } => self.read_zone(lba, buf).map(Some),
            Io::Write { lba, data } => self.write_zone(lba, &data).map(|()| None),
        }
    }

    fn read_zone(&self, lba: Lba, mut buf: AlignedBuf) -> Result<AlignedBuf> {
        let blocks = self.whole_blocks(lba, buf.len())?;
        let zone = self.machine.check_read(lba, blocks)?;
        let readable = self.readable(zone, lba, blocks) as usize * self.layout.block_size as usize;
        let (data, beyond) = buf.split_at_mut(readable);
        let io = |errno: Errno| DeviceError::Io { lba, errno: errno.raw_os_error() };
        self.backing.read(self.layout.offset_of(lba.0), data).map_err(io)?;
        beyond.fill(0);
        Ok(buf)
    }

    /// How many of `blocks` from `lba` on lie below the write pointer; the rest reads as zeros.
    fn readable(&self, zone: ZoneId, lba: Lba, blocks: u64) -> u64 {
        let into_zone = lba.0 - self.geometry.zone_start(zone).0;
        self.machine.snapshot(zone).written.saturating_sub(into_zone).min(blocks)
    }

    fn write_zone(&self, lba: Lba, data: &[BufSlice]) -> Result<()> {
        let bytes = data.iter().map(|part| part.len()).sum();
        let blocks = self.whole_blocks(lba, bytes)?;
        if blocks == 0 {
            return Err(DeviceError::BadRange { lba, blocks, reason: "a write takes at least one block" });
        }
        let outside = DeviceError::BadRange { lba, blocks, reason: "it lies outside the device" };
        let zone = self.machine.zone_at(lba).ok_or(outside)?;
        self.check_writable("write to")?;
        let writer = self.machine.writer(zone);
        self.machine.begin_write(&writer, lba, blocks)?;
        // Touched even if no data follows: the zone is open now.
        self.table.touch(zone);
        let parts = data.iter().map(|part| &part[..]);
        let written = self.backing.write_parts(self.layout.offset_of(lba.0), parts);
        let done = written.map_or_else(|stop| stop.done / u64::from(self.layout.block_size), |()| blocks);
        self.machine.advance(&writer, done);
        self.table.touch(zone);
        written.map_err(|stop| DeviceError::Io { lba, errno: stop.errno.raw_os_error() })
    }

    fn span(&self, lba: Lba, bytes: u64) -> Span {
        Span { offset: lba.0.saturating_mul(u64::from(self.layout.block_size)), bytes }
    }

    /// What an operation asks of the drive that is played, if one is.
    fn work_of(&self, io: &Io) -> Option<Work> {
        self.timing.get().map(|_| match io {
            Io::Read { lba, buf } => Work::Read(self.span(*lba, buf.len() as u64)),
            Io::Write { lba, data } => Work::Write(self.span(*lba, data.iter().map(|part| part.len() as u64).sum())),
        })
    }

    /// When the drive that is played will have done it.
    fn due(&self, work: Option<Work>) -> Option<Instant> {
        Some(self.timing.get()?.serve(&work?, Instant::now()))
    }

    fn whole_blocks(&self, lba: Lba, bytes: usize) -> Result<u64> {
        let (bytes, block) = (bytes as u64, u64::from(self.layout.block_size));
        if bytes % block != 0 {
            let reason = "its length is not a multiple of the device block";
            return Err(DeviceError::BadRange { lba, blocks: bytes / block, reason });
        }
        Ok(bytes / block)
    }
}

/// The header from whichever copy is sound, and which copies are not; with both damaged or refused, the clearest reason.
fn read_header(backing: &Backing, path: &Path, read_only: bool) -> Result<(Layout, Vec<usize>)> {
    let unusable = |reason: String| Err(DeviceError::Unusable { path: path.to_owned(), reason });
    let mut reads = Vec::with_capacity(HEADER_OFFSETS.len());
    for offset in HEADER_OFFSETS {
        let mut block = [0; META_BLOCK];
        backing.read(offset, &mut block).map_err(|errno| system("read the header of", path, errno))?;
        reads.push(decode_header(&block, read_only));
    }
    // A refusal comes from a sound header: it counts even if the other copy is damaged.
    if let Some(HeaderRead::Refused(reason)) = reads.iter().find(|read| matches!(read, HeaderRead::Refused(_))) {
        return unusable(reason.clone());
    }
    let sound: Vec<&Layout> =
        reads.iter().filter_map(|read| if let HeaderRead::Sound(layout) = read { Some(layout) } else { None }).collect();
    let Some(&layout) = sound.first() else {
        let damaged = reads.contains(&HeaderRead::Damaged);
        return unusable(if damaged {
            "the header of the drive image is damaged: both copies fail their checksum".to_owned()
        } else {
            "it is not a drive image: it has no header of one".to_owned()
        });
    };
    if sound.iter().any(|other| *other != layout) {
        return unusable("the two copies of the header of the drive image contradict each other".to_owned());
    }
    let damaged = (0..reads.len()).filter(|&copy| !matches!(reads[copy], HeaderRead::Sound(_))).collect();
    Ok((layout.clone(), damaged))
}

impl ZonedDevice for ImageDevice {
    fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    fn report(&self, zones: Range<u32>) -> Result<Vec<ZoneInfo>> {
        self.machine.report(zones)
    }

    fn submit(&self, batch: Vec<Io>, _class: IoClass) -> Result<Ticket> {
        let mut due = None;
        let mut completions = Vec::with_capacity(batch.len());
        for io in batch {
            let work = self.work_of(&io);
            let done = self.execute(io);
            if done.is_ok() {
                due = due.max(self.due(work));
            }
            completions.push(done);
        }
        Ok(self.tickets.issue((completions, due)))
    }

    fn complete(&self, ticket: Ticket) -> Completions {
        let (completions, due) = self.tickets.redeem(&ticket).unwrap_or_default();
        wait_until(due);
        completions
    }

    fn manage(&self, zone: ZoneId, action: ZoneAction) -> Result<()> {
        self.check_zone(zone)?;
        self.check_writable("manage zones of")?;
        let writer = self.machine.writer(zone);
        if action == ZoneAction::Reset && self.machine.check_action(zone, action)? {
            // All of the zone, not only what is below the write pointer: an unclean end may have left more. Where the file
            // system knows no holes the write pointer alone makes the zone read as zeros.
            let start = self.layout.offset_of(self.geometry.zone_start(zone).0);
            let punched = self.backing.punch(start, self.geometry.zone_size_bytes());
            punched.map_err(|errno| system("reset a zone of", &self.path, errno))?;
        }
        if self.machine.act(&writer, action)? {
            self.table.touch(zone);
        }
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        if self.read_only {
            return Ok(());
        }
        let flushed = self.table.flush(&self.backing, &self.layout, &self.machine);
        flushed.map_err(|errno| system("flush", &self.path, errno))
    }

    fn native_copy(&self) -> Option<&dyn NativeCopy> {
        Some(self)
    }

    fn label(&self) -> String {
        self.path.display().to_string()
    }

    fn read(&self, lba: Lba, buf: AlignedBuf, _class: IoClass) -> Result<AlignedBuf> {
        let work = self.timing.get().map(|_| Work::Read(self.span(lba, buf.len() as u64)));
        let buf = self.read_zone(lba, buf)?;
        wait_until(self.due(work));
        Ok(buf)
    }

    fn write(&self, lba: Lba, data: Vec<BufSlice>, _class: IoClass) -> Result<()> {
        self.write_zone(lba, &data)?;
        let bytes = data.iter().map(|part| part.len() as u64).sum();
        wait_until(self.due(self.timing.get().map(|_| Work::Write(self.span(lba, bytes)))));
        Ok(())
    }

    fn play(&self, model: DeviceModel) -> Result<()> {
        let playing = self.timing.get().map_or(DeviceModel::None, Timing::model);
        if playing != model {
            let reason = format!("it plays the times of {playing} already, and cannot play those of {model}");
            let timing = Timing::new(model, Instant::now()).filter(|_| playing == DeviceModel::None);
            timing.and_then(|timing| self.timing.set(timing).ok()).ok_or(DeviceError::Unusable { path: self.path.clone(), reason })?;
        }
        Ok(())
    }

    fn model(&self) -> DeviceModel {
        self.timing.get().map_or(DeviceModel::None, Timing::model)
    }
}

impl Drop for ImageDevice {
    fn drop(&mut self) {
        if let Err(error) = if self.table.is_dirty() { self.flush() } else { Ok(()) } {
            tracing::warn!(%error, "the zone table could not be written: write pointers are a bound at the next open");
        }
    }
}
