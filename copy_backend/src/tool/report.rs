//! What the tool says about a copy, as JSON and in words.

use crate::job::{CopyReport, Ending, RangeReport};
use crate::size::show_size;
use crate::stats::CopyCounters;
use serde::Serialize;
use serde_json::ser::Formatter;
use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

/// The result of a copy or clone.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Summary {
    /// Bytes that are known to be copied.
    pub bytes: u64,
    /// Of these by a device.
    pub offloaded: u64,
    /// Payload bytes read into the host.
    pub host_read: u64,
    /// Payload bytes written by the host.
    pub host_written: u64,
    /// Commands on all roads.
    pub commands: u64,
    /// The roads that carried bytes, such as `nvme`, `host`, `nvme+host`.
    pub route: String,
    /// How often a road was left, by reason.
    pub fallbacks: BTreeMap<String, u64>,
    /// How long it took, the flush included.
    pub seconds: f64,
    /// A device's part was played by our own process.
    pub simulated: bool,
    /// `done`, `stopped` or `failed`.
    pub status: &'static str,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Source ranges compared after the copy, those found wrong, and what was read for it.
    pub copies_verified: u64,
    pub copies_rejected: u64,
    pub verify_read: u64,
    /// Range by range.
    pub ranges: Vec<RangeSummary>,
}

/// What became of a range.
#[derive(Clone, Debug, Serialize)]
pub(super) struct RangeSummary {
    pub offset: u64,
    pub length: u64,
    /// Bytes of it that are known to be copied.
    pub bytes: u64,
    /// Which: offset into the range and length.
    pub done: Vec<(u64, u64)>,
}

impl From<&RangeReport> for RangeSummary {
    fn from(report: &RangeReport) -> Self {
        Self { offset: report.range.offset, length: report.range.length, bytes: report.bytes, done: report.done.clone() }
    }
}

impl From<&CopyReport> for Summary {
    fn from(report: &CopyReport) -> Self {
        let ranges = report.ranges.iter().map(RangeSummary::from).collect();
        Self { ranges, ..Self::of(&report.counters, report.bytes, report.route(), report.simulated, &report.ending, report.elapsed) }
    }
}

impl Summary {
    /// A summary without ranges.
    pub fn of(counters: &CopyCounters, bytes: u64, route: String, simulated: bool, ending: &Ending, elapsed: Duration) -> Self {
        let (status, error) = match ending {
            Ending::Done => ("done", None),
            Ending::Stopped => ("stopped", None),
            Ending::Failed(reason) => ("failed", Some(reason.clone())),
        };
        Self {
            bytes,
            offloaded: counters.offloaded,
            host_read: counters.host_read,
            host_written: counters.host_written,
            commands: counters.commands,
            route,
            fallbacks: counters.fallbacks.clone(),
            seconds: elapsed.as_secs_f64(),
            simulated,
            status,
            error,
            copies_verified: counters.copies_verified,
            copies_rejected: counters.copies_rejected,
            verify_read: counters.verify_read,
            ranges: Vec::new(),
        }
    }

    /// The exit status.
    pub fn exit(&self) -> u8 {
        match self.status {
            "done" => super::status::DONE,
            "stopped" => super::status::INTERRUPTED,
            _ => super::status::FAILED,
        }
    }

    /// In words.
    pub fn text(&self) -> String {
        let mut lines = vec![format!(
            "copied {} bytes ({}) in {:.3} s by {}{}",
            self.bytes,
            show_size(self.bytes),
            self.seconds,
            self.route,
            if self.simulated { " (simulated: our own process played the device)" } else { "" }
        )];
        lines.push(format!(
            "offloaded {}, through the host {} read and {} written, {} commands",
            self.offloaded, self.host_read, self.host_written, self.commands
        ));
        if self.copies_verified > 0 {
            lines.push(format!(
                "{} ranges compared, {} wrong, {} bytes read for it",
                self.copies_verified, self.copies_rejected, self.verify_read
            ));
        }
        for (reason, count) in &self.fallbacks {
            lines.push(format!("left a road {count} times: {reason}"));
        }
        if self.status != "done" {
            lines.extend(self.ranges.iter().map(RangeSummary::text));
        }
        lines.join("\n")
    }

    /// As JSON that people can read, a range to a line: there may be thousands.
    fn json(&self) -> serde_json::Result<Vec<u8>> {
        let mut text = Vec::new();
        self.serialize(&mut serde_json::Serializer::with_formatter(&mut text, Lines::default()))?;
        Ok(text)
    }

    /// Prints the result to standard output, and why it is not whole to standard error.
    pub fn print(&self, json: bool) -> anyhow::Result<()> {
        use io::Write;
        let mut text = if json { self.json()? } else { self.text().into_bytes() };
        text.push(b'\n');
        io::stdout().write_all(&text)?;
        self.complain();
        Ok(())
    }

    /// Why it is not whole.
    pub fn complain(&self) {
        match (self.status, &self.error) {
            ("stopped", _) => eprintln!("ferrycopy: interrupted after {} bytes", self.bytes),
            (_, Some(reason)) => eprintln!("ferrycopy: failed after {} bytes: {reason}", self.bytes),
            _ => {}
        }
    }
}

/// The two outer levels have a line for each value, what lies deeper stays in the line.
#[derive(Debug, Default)]
struct Lines {
    depth: usize,
    /// The array or object that ends next has values.
    filled: bool,
}

impl Lines {
    fn begin(&mut self, writer: &mut (impl io::Write + ?Sized), bracket: &[u8]) -> io::Result<()> {
        self.depth += 1;
        self.filled = false;
        writer.write_all(bracket)
    }
    fn end(&mut self, writer: &mut (impl io::Write + ?Sized), bracket: &[u8]) -> io::Result<()> {
        self.depth -= 1;
        if self.filled && self.depth < 2 {
            self.new_line(writer)?;
        }
        writer.write_all(bracket)
    }
    fn separate(&self, writer: &mut (impl io::Write + ?Sized), first: bool) -> io::Result<()> {
        if !first {
            writer.write_all(b",")?;
        }
        match self.depth {
            0..=2 => self.new_line(writer),
            _ if first => Ok(()),
            _ => writer.write_all(b" "),
        }
    }
    fn new_line(&self, writer: &mut (impl io::Write + ?Sized)) -> io::Result<()> {
        write!(writer, "\n{:1$}", "", 2 * self.depth)
    }
}

impl Formatter for Lines {
    fn begin_array<W: io::Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        self.begin(writer, b"[")
    }
    fn end_array<W: io::Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        self.end(writer, b"]")
    }
    fn begin_array_value<W: io::Write + ?Sized>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.separate(writer, first)
    }
    fn end_array_value<W: io::Write + ?Sized>(&mut self, _writer: &mut W) -> io::Result<()> {
        self.filled = true;
        Ok(())
    }
    fn begin_object<W: io::Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        self.begin(writer, b"{")
    }
    fn end_object<W: io::Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        self.end(writer, b"}")
    }
    fn begin_object_key<W: io::Write + ?Sized>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.separate(writer, first)
    }
    fn begin_object_value<W: io::Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
    fn end_object_value<W: io::Write + ?Sized>(&mut self, _writer: &mut W) -> io::Result<()> {
        self.filled = true;
        Ok(())
    }
}

impl RangeSummary {
    fn text(&self) -> String {
        let done: Vec<String> = self.done.iter().map(|(into, bytes)| format!("{}+{bytes}", self.offset + into)).collect();
        let which = if done.is_empty() { "nothing".to_owned() } else { done.join(", ") };
        format!("range {}+{}: {} bytes copied: {which}", self.offset, self.length, self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_takes_one_line_of_json() {
        let ending = Ending::Failed("a \"reason\"".into());
        let mut summary = Summary::of(&CopyCounters::default(), 7, "none".into(), false, &ending, Duration::ZERO);
        let lines = |summary: &Summary| {
            let json = String::from_utf8(summary.json().unwrap()).unwrap();
            let read: serde_json::Value = serde_json::from_str(&json).unwrap();
            assert_eq!(read, serde_json::to_value(summary).unwrap());
            json.lines().count()
        };
        let without = lines(&summary);
        summary.ranges = vec![RangeSummary { offset: 1, length: 2, bytes: 0, done: Vec::new() }];
        assert_eq!(lines(&summary), without + 2);
        summary.ranges.push(RangeSummary { offset: 4, length: 9, bytes: 3, done: vec![(0, 1), (5, 2)] });
        assert_eq!(lines(&summary), without + 3);
    }
}
