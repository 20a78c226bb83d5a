//! The times of a drive, played by an image: off unless asked for, so that an image takes what it takes.
//!
//! A drive is a link to the host and channels behind it. Zones are striped over all channels. Each is a queue: what is served waits until the queue is free and
//! keeps it busy for its bytes. Data that the host reads or writes crosses the link and its channels; what the drive copies crosses only the channels, those it
//! is read from and those it is written to. A disk has one channel, and a seek comes before everything that does not begin where the last thing ended.
//!
//! The schedule is pure: it is told what time it is. Waits shorter than [`SHORT`] are not slept, for sleeping takes longer; the queues remember them, so that bandwidth
//! is right however small the operations are.

use parking_lot::Mutex;
use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

/// What a sleep of the system is wrong by, about.
const SHORT: Duration = Duration::from_micros(60);

/// Whose times an image plays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum DeviceModel {
    /// Nobody's: as fast as the file is.
    #[default]
    None,
    /// A ZNS SSD of TLC flash, after the Western Digital Ultrastar DC ZN540 as NVMeVirt (Kim et al., FAST '23) was fitted to it, from the configuration
    /// `WD_ZN540` in its `ssd_config.h`: 8 channels of 450 MB/s, a link of 3050 MB/s, 4 KiB read in 50 us of flash and 20 us of firmware, writes acknowledged from
    /// the buffer after 5.6 us. Copies: assumed to go as fast as channels carry them, and to take 20 us of firmware for each command.
    ZnsTlc,
    /// A ZNS SSD of SLC flash: assumed as a whole. The channels (8 of 800 MB/s) and the link (3200 MB/s) are those of the ZNS prototype in the same file of
    /// NVMeVirt; a read of 4 KiB takes 20 us of flash and 10 us of firmware.
    ZnsSlc,
    /// A host-managed SMR disk. Seeks of 7.4 ms (reading) and 8.2 ms (writing) and half a turn of 4.16 ms are those of the Western Digital Ultrastar DC HC310
    /// (OEM specification, tables 5 and 7), a conventional disk of the same speed; 250 MB/s and a SATA link of 600 MB/s are assumed.
    Smr,
}

/// A name that is no model's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("choose one of none, zns-tlc, zns-slc, smr")]
pub struct UnknownModel;

impl DeviceModel {
    /// Every model.
    pub const ALL: [DeviceModel; 4] = [DeviceModel::None, DeviceModel::ZnsTlc, DeviceModel::ZnsSlc, DeviceModel::Smr];

    /// Its name in options and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::ZnsTlc => "zns-tlc",
            Self::ZnsSlc => "zns-slc",
            Self::Smr => "smr",
        }
    }

    fn times(self) -> Option<Times> {
        let us = Duration::from_micros;
        let flash = Times {
            channels: 8,
            link: 3050 * MB,
            channel: 450 * MB,
            read: us(70),
            write: Duration::from_nanos(5600),
            copy: us(20),
            seek_to_read: Duration::ZERO,
            seek_to_write: Duration::ZERO,
        };
        match self {
            Self::None => None,
            Self::ZnsTlc => Some(flash),
            Self::ZnsSlc => Some(Times { link: 3200 * MB, channel: 800 * MB, read: us(30), ..flash }),
            Self::Smr => Some(Times {
                channels: 1,
                link: 600 * MB,
                channel: 250 * MB,
                read: us(0),
                write: us(0),
                copy: us(0),
                seek_to_read: us(7400 + 4160),
                seek_to_write: us(8200 + 4160),
            }),
        }
    }
}

impl fmt::Display for DeviceModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for DeviceModel {
    type Err = UnknownModel;
    fn from_str(name: &str) -> Result<Self, UnknownModel> {
        Self::ALL.into_iter().find(|model| model.name() == name).ok_or(UnknownModel)
    }
}

const MB: u64 = 1_000_000;
/// Bytes that lie on one channel before the next one follows.
const STRIPE: u64 = 16 << 10;

/// Rates in bytes a second; latencies of a command besides its data.
#[derive(Clone, Copy, Debug)]
struct Times {
    channels: u64,
    link: u64,
    channel: u64,
    read: Duration,
    write: Duration,
    copy: Duration,
    seek_to_read: Duration,
    seek_to_write: Duration,
}

/// Bytes from an offset on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub offset: u64,
    pub bytes: u64,
}

/// Something that a drive is asked for.
#[derive(Clone, Debug)]
pub(super) enum Work {
    Read(Span),
    Write(Span),
    Copy { from: Vec<Span>, to: u64 },
}

/// When each queue is free.
#[derive(Debug)]
struct Queues {
    link: Instant,
    channels: Vec<Instant>,
    /// Where the arm of a disk is.
    head: u64,
}

/// A drive of some model, at work.
#[derive(Debug)]
pub(super) struct Timing {
    model: DeviceModel,
    times: Times,
    queues: Mutex<Queues>,
}

fn duration(bytes: u64, rate: u64) -> Duration {
    Duration::from_nanos((u128::from(bytes) * 1_000_000_000 / u128::from(rate)) as u64)
}

impl Timing {
    /// `None` for an image that takes what it takes.
    pub(super) fn new(model: DeviceModel, now: Instant) -> Option<Timing> {
        let times = model.times()?;
        let queues = Mutex::new(Queues { link: now, channels: vec![now; times.channels as usize], head: 0 });
        Some(Timing { model, times, queues })
    }

    pub(super) fn model(&self) -> DeviceModel {
        self.model
    }

    /// When something that is asked for now will be done.
    pub(super) fn serve(&self, work: &Work, now: Instant) -> Instant {
        let mut queues = self.queues.lock();
        match work {
            Work::Read(span) => self.transfer(&mut queues, *span, self.times.seek_to_read, now) + self.times.read,
            Work::Write(span) => self.transfer(&mut queues, *span, self.times.seek_to_write, now) + self.times.write,
            Work::Copy { from, to } => {
                let mut done = now;
                for span in from {
                    done = done.max(self.move_on_channels(&mut queues, *span, self.times.seek_to_read, now));
                }
                let bytes = from.iter().map(|span| span.bytes).sum();
                let written = self.move_on_channels(&mut queues, Span { offset: *to, bytes }, self.times.seek_to_write, now);
                done.max(written) + self.times.copy
            }
        }
    }

    fn transfer(&self, queues: &mut Queues, span: Span, seek: Duration, now: Instant) -> Instant {
        queues.link = queues.link.max(now) + duration(span.bytes, self.times.link);
        let link = queues.link;
        link.max(self.move_on_channels(queues, span, seek, now))
    }

    /// Keeps the channels that a span lies on busy with it.
    fn move_on_channels(&self, queues: &mut Queues, span: Span, seek: Duration, now: Instant) -> Instant {
        let seek = if queues.head == span.offset { Duration::ZERO } else { seek };
        queues.head = span.offset + span.bytes;
        let mut loads = vec![0u64; queues.channels.len()];
        let channels = loads.len() as u64;
        // Whole rounds over all channels first: a span may be a zone.
        let round = STRIPE * channels;
        let rounds = span.bytes / round;
        loads.iter_mut().for_each(|load| *load = rounds * STRIPE);
        let (mut at, end) = (span.offset + rounds * round, span.offset + span.bytes);
        while at < end {
            let piece = (STRIPE - at % STRIPE).min(end - at);
            loads[(at / STRIPE % channels) as usize] += piece;
            at += piece;
        }
        let mut done = now;
        for (channel, load) in queues.channels.iter_mut().zip(loads).filter(|(_, load)| *load > 0) {
            *channel = (*channel).max(now) + seek + duration(load, self.times.channel);
            done = done.max(*channel);
        }
        done
    }
}

/// Waits until then, unless that is at hand.
pub(super) fn wait_until(due: Option<Instant>) {
    let left = due.map_or(Duration::ZERO, |due| due.saturating_duration_since(Instant::now()));
    if left > SHORT {
        std::thread::sleep(left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timing(model: DeviceModel) -> (Timing, Instant) {
        let now = Instant::now();
        (Timing::new(model, now).unwrap(), now)
    }

    /// Microseconds.
    fn us(done: Instant, now: Instant) -> u128 {
        (done - now).as_micros()
    }

    const SMALL: Span = Span { offset: 0, bytes: 4096 };

    #[test]
    fn names_parse_and_none_has_no_times() {
        for model in DeviceModel::ALL {
            assert_eq!(model.name().parse(), Ok(model));
            assert_eq!(Timing::new(model, Instant::now()).is_none(), model == DeviceModel::None);
        }
        assert!("fast".parse::<DeviceModel>().unwrap_err().to_string().contains("zns-tlc"));
    }

    #[test]
    fn a_read_takes_its_latency_and_a_large_one_the_bandwidth_of_the_link() {
        let (drive, now) = timing(DeviceModel::ZnsTlc);
        assert_eq!(us(drive.serve(&Work::Read(SMALL), now), now), 70 + 9);
        let (drive, now) = timing(DeviceModel::ZnsTlc);
        let large = Span { offset: 0, bytes: 305 * MB };
        assert_eq!(us(drive.serve(&Work::Write(large), now), now), 100_000 + 5);
    }

    #[test]
    fn queues_add_up_and_other_channels_are_free() {
        let (drive, now) = timing(DeviceModel::ZnsTlc);
        let first = drive.serve(&Work::Read(SMALL), now);
        let same = drive.serve(&Work::Read(SMALL), now);
        let other = drive.serve(&Work::Read(Span { offset: STRIPE, bytes: 4096 }), now);
        assert!(same > first && other < same, "the channel is busy, its neighbour is not");
        let later = now + Duration::from_secs(1);
        assert_eq!(us(drive.serve(&Work::Read(SMALL), later), later), 79, "a queue that ran dry keeps nothing");
    }

    #[test]
    fn a_copy_does_not_touch_the_link_and_crosses_the_channels_twice() {
        let (drive, now) = timing(DeviceModel::ZnsTlc);
        let bytes = 8 * 45 * MB / (STRIPE * 8) * (STRIPE * 8);
        let copied = us(drive.serve(&Work::Copy { from: vec![Span { offset: 0, bytes }], to: 1 << 32 }, now), now);
        assert!((199_000..=200_100).contains(&copied), "{copied} us for 100 ms of reading and 100 of writing");
        assert!(drive.queues.lock().link == now);
    }

    #[test]
    fn a_disk_seeks_unless_it_goes_on_where_it_was() {
        let (disk, now) = timing(DeviceModel::Smr);
        assert!(us(disk.serve(&Work::Write(Span { offset: 1 << 20, bytes: 4096 }), now), now) > 12_000);
        let later = now + Duration::from_secs(1);
        let next = Span { offset: (1 << 20) + 4096, bytes: 4096 };
        assert!(us(disk.serve(&Work::Write(next), later), later) < 100);
        let again = later + Duration::from_secs(1);
        let two = vec![Span { offset: 0, bytes: 4096 }, Span { offset: 1 << 30, bytes: 4096 }];
        let gathered = us(disk.serve(&Work::Copy { from: two, to: 1 << 25 }, again), again);
        assert!((35_000..36_000).contains(&gathered), "two seeks to read and one to write: {gathered}");
    }
}
