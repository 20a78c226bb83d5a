//! The event trace of the cleaner: one JSON line per decision, copy and reset.
//!
//! Tracing must never change what the filesystem does: it costs one branch when off, and a trace that cannot be written is dropped
//! and counted, never an error of the caller.

use crate::segment::SegmentId;
use crate::segment::Stream;
use parking_lot::Mutex;
use serde::Serialize;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Something worth a line. Counts are filesystem blocks unless the name says bytes; `us` is microseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// A victim was chosen.
    Decision {
        /// Logical time: blocks that users have written.
        seq: u64,
        /// Which.
        victim: SegmentId,
        /// What filled it.
        stream: Stream,
        /// Its live blocks.
        live: u32,
        /// Its capacity.
        capacity: u32,
        /// Who chose.
        policy: &'static str,
        /// Among how many.
        candidates: u32,
        /// Blocks that users could write at that moment before a zone had to be given back.
        writable: i64,
    },
    /// A chunk was copied, whole or in part.
    Copy {
        /// From where.
        victim: SegmentId,
        /// Where to: the first device block.
        target_lba: u64,
        /// On which device.
        target_device: u8,
        /// Live extents in the request.
        extents: u32,
        /// Blocks in the request.
        blocks: u32,
        /// The road that carried it, in the words of the reports.
        road: copy_backend::Road,
        /// Payload bytes that were copied.
        bytes: u64,
        /// From its start until its end was asked for, in microseconds: where chunks follow one another that includes the look-up of the
        /// next and the publication of the last.
        us: u64,
        /// Why not everything was copied.
        #[serde(skip_serializing_if = "Option::is_none")]
        failure: Option<&'static str>,
    },
    /// Metadata was moved out of a victim: it will be written elsewhere by the next checkpoint.
    Evacuate {
        /// From where.
        victim: SegmentId,
        /// First block of the stretch.
        from: u32,
        /// Where to go on; none: the end was reached.
        next: Option<u32>,
        /// How long it took.
        us: u64,
    },
    /// Moves were published.
    Commit {
        /// From where.
        victim: SegmentId,
        /// Blocks whose mapping points to the new place.
        moved: u32,
        /// Blocks that lost the race with an overwrite.
        lost: u32,
        /// The destination zone was ended early.
        zone_ended: bool,
    },
    /// The cleaning of a victim ended.
    Victim {
        /// Which.
        victim: SegmentId,
        /// `emptied`, `unmovable`, `gave-up` or `abandoned`.
        end: &'static str,
        /// Blocks moved.
        moved: u64,
        /// Blocks lost.
        lost: u64,
    },
    /// A zone was reset.
    Reset {
        /// Which.
        zone: SegmentId,
        /// How long it took, together with the zones that were reset with it.
        us: u64,
    },
    /// A checkpoint became durable.
    Checkpoint {
        /// Its sequence number.
        seq: u64,
        /// Zones that it freed.
        freed: u32,
        /// Metadata blocks that it wrote.
        blocks: u64,
        /// How long it took.
        us: u64,
    },
}

#[derive(Serialize)]
struct Line<'a> {
    /// Microseconds since the trace began.
    t: u64,
    #[serde(flatten)]
    event: &'a Event,
}

struct Sink {
    writer: Mutex<Box<dyn Write + Send>>,
    begun: Instant,
    dropped: AtomicU64,
}

/// Writes events, or does nothing. Clones write to the same place.
#[derive(Clone, Default)]
pub struct Tracer {
    sink: Option<Arc<Sink>>,
}

impl std::fmt::Debug for Tracer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tracer").field("on", &self.is_on()).field("dropped", &self.dropped()).finish()
    }
}

impl Tracer {
    /// A tracer that does nothing.
    pub fn off() -> Self {
        Self::default()
    }

    /// Traces to a writer. Each event is one `write_all`, so that a killed process leaves whole lines.
    pub fn to_writer(writer: impl Write + Send + 'static) -> Self {
        let sink = Sink { writer: Mutex::new(Box::new(writer)), begun: Instant::now(), dropped: AtomicU64::new(0) };
        Self { sink: Some(Arc::new(sink)) }
    }

    /// Traces to a file, which is created or emptied.
    ///
    /// # Errors
    /// The file cannot be created.
    pub fn to_file(path: &Path) -> io::Result<Self> {
        Ok(Self::to_writer(File::create(path)?))
    }

    /// Does anyone listen?
    pub fn is_on(&self) -> bool {
        self.sink.is_some()
    }

    /// Events that could not be written.
    pub fn dropped(&self) -> u64 {
        self.sink.as_ref().map_or(0, |sink| sink.dropped.load(Ordering::Relaxed))
    }

    /// Writes an event, which is made only when someone listens.
    pub fn emit(&self, event: impl FnOnce() -> Event) {
        let Some(sink) = &self.sink else { return };
        let event = event();
        let t = u64::try_from(sink.begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        let written = serde_json::to_vec(&Line { t, event: &event }).map_err(io::Error::other).and_then(|mut line| {
            line.push(b'\n');
            sink.writer.lock().write_all(&line)
        });
        if let Err(error) = written
            && sink.dropped.fetch_add(1, Ordering::Relaxed) == 0
        {
            tracing::warn!(%error, "the event trace cannot be written; events are dropped");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zns::{DeviceId, ZoneId};

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);
    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Broken;
    impl Write for Broken {
        fn write(&mut self, _bytes: &[u8]) -> io::Result<usize> {
            Err(io::Error::other("no space"))
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn reset(zone: u32) -> Event {
        Event::Reset { zone: SegmentId { device: DeviceId(0), zone: ZoneId(zone) }, us: 7 }
    }

    #[test]
    fn each_event_is_one_json_line_whoever_writes() {
        let out = Shared::default();
        let tracer = Tracer::to_writer(out.clone());
        std::thread::scope(|scope| {
            for part in 0..4 {
                let tracer = tracer.clone();
                scope.spawn(move || (0..50).for_each(|i| tracer.emit(|| reset(part * 50 + i))));
            }
        });
        let text = String::from_utf8(out.0.lock().clone()).expect("text");
        let mut zones: Vec<u64> = text
            .lines()
            .map(|line| {
                let value: serde_json::Value = serde_json::from_str(line).expect("JSON");
                assert_eq!(value["event"], "reset");
                assert!(value["t"].is_u64());
                value["zone"]["zone"].as_u64().expect("a zone")
            })
            .collect();
        zones.sort_unstable();
        assert_eq!(zones, (0..200).collect::<Vec<u64>>());
    }

    #[test]
    fn a_trace_that_cannot_be_written_is_counted_and_dropped() {
        let tracer = Tracer::to_writer(Broken);
        tracer.emit(|| reset(1));
        tracer.emit(|| reset(2));
        assert_eq!(tracer.dropped(), 2);
    }

    #[test]
    fn an_event_is_not_even_made_when_tracing_is_off() {
        Tracer::off().emit(|| unreachable!("made an event although tracing is off"));
    }
}
