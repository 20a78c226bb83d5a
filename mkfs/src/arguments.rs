//! The command line of `mkfs.ferryfs`.

use clap::{Parser, ValueEnum};
use fs::cli::size::parse_size;
use std::path::PathBuf;
use zns::CopyLimits;

/// How a regular file behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Profile {
    /// As a ZNS drive with its own Copy command.
    Zns,
    /// As a plain disk.
    Conventional,
}

/// Makes a FerryFS volume.
///
/// A DEVICE is a zoned or conventional block device, or a path to a regular file; several of them make one volume. What is
/// on a device is lost. A filesystem or partition table that is found there is not overwritten without --force.
///
/// Sizes are bytes, or numbers with K, M, G or T behind them (powers of 1024).
#[derive(Clone, Debug, Parser)]
#[command(name = "mkfs.ferryfs", version, max_term_width = 100)]
pub struct Arguments {
    /// Size of a regular file that is made (or made anew) for the volume.
    #[arg(long, value_parser = parse_size, value_name = "SIZE")]
    pub size: Option<u64>,

    /// Zone size of a regular file or conventional block device: a power of two from 1M to 2G [default: 16M, less for
    /// small devices, more for very large ones]. Zoned devices keep their own.
    #[arg(long, value_parser = parse_size, value_name = "SIZE")]
    pub zone_size: Option<u64>,

    /// How a regular file behaves [default: zns].
    #[arg(long, value_enum)]
    pub profile: Option<Profile>,

    /// Name of the volume, at most 64 bytes.
    #[arg(short = 'L', long, default_value = "", hide_default_value = true)]
    pub label: String,

    /// Overwrite whatever is there.
    #[arg(short, long)]
    pub force: bool,

    /// UUID of the volume [default: a random one].
    #[arg(short = 'U', long)]
    pub uuid: Option<uuid::Uuid>,

    /// Say nothing but errors.
    #[arg(short, long)]
    pub quiet: bool,

    /// Drive in a file: writable bytes of each zone [default: the zone size].
    #[arg(long, value_parser = parse_size, value_name = "SIZE", help_heading = "Regular files as ZNS drives")]
    pub zone_capacity: Option<u64>,

    /// Drive in a file: zones that may be open at once, 0 for no limit [default: 14, or --max-active if that is lower].
    #[arg(long, value_name = "ZONES", help_heading = "Regular files as ZNS drives")]
    pub max_open: Option<u32>,

    /// Drive in a file: zones that may be open or closed (active) at once, 0 for no limit [default: 14, or --max-open if
    /// that is higher].
    #[arg(long, value_name = "ZONES", help_heading = "Regular files as ZNS drives")]
    pub max_active: Option<u32>,

    /// Drive in a file: bytes in a device block, 512 or 4096 [default: 4096].
    #[arg(long, value_parser = parse_size, value_name = "SIZE", help_heading = "Regular files as ZNS drives")]
    pub block_size: Option<u64>,

    /// Drive in a file: limits of its Copy command as device blocks in one source range, device blocks in one command, and
    /// source ranges in one command; `none` for a drive without Copy [default: 1 MiB, 4 MiB, 128].
    #[arg(long, value_parser = parse_copy_limits, value_name = "MSSRL,MCL,MSRC", help_heading = "Regular files as ZNS drives")]
    pub copy_limits: Option<CopyLimits>,

    /// Devices or files.
    #[arg(required = true, value_name = "DEVICE")]
    pub devices: Vec<PathBuf>,
}

impl Arguments {
    /// Was an option given that only a drive in a file has?
    pub fn drive_option(&self) -> Option<&'static str> {
        [
            (self.zone_capacity.is_some(), "--zone-capacity"),
            (self.max_open.is_some(), "--max-open"),
            (self.max_active.is_some(), "--max-active"),
            (self.block_size.is_some(), "--block-size"),
            (self.copy_limits.is_some(), "--copy-limits"),
        ]
        .into_iter()
        .find_map(|(given, name)| given.then_some(name))
    }

    /// Limits of open and active zones.
    pub fn zone_limits(&self) -> (u32, u32) {
        const DEFAULT: u32 = 14;
        match (self.max_open, self.max_active) {
            (None, None) => (DEFAULT, DEFAULT),
            (Some(open), Some(active)) => (open, active),
            (Some(0), None) => (0, 0),
            (Some(open), None) => (open, open.max(DEFAULT)),
            (None, Some(0)) => (DEFAULT, 0),
            (None, Some(active)) => (active.min(DEFAULT), active),
        }
    }
}

fn parse_copy_limits(word: &str) -> Result<CopyLimits, String> {
    if word == "none" {
        return Ok(CopyLimits { mssrl: 0, mcl: 0, ranges: 0 });
    }
    let numbers: Option<Vec<u32>> = word.split(',').map(|part| part.parse().ok()).collect();
    match numbers.as_deref() {
        Some([mssrl, mcl, ranges]) if *mssrl > 0 && *ranges > 0 && mcl >= mssrl => {
            Ok(CopyLimits { mssrl: *mssrl, mcl: *mcl, ranges: *ranges })
        }
        Some([_, _, _]) => Err("a range has at least one block, a command at least one range and no fewer blocks than a range".into()),
        _ => Err("three numbers with commas between them are needed, or `none`".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Arguments, String> {
        Arguments::try_parse_from(line.split_whitespace()).map_err(|error| error.to_string())
    }

    #[test]
    fn the_contract_s_command_line() {
        let arguments = parse("mkfs.ferryfs --size 4G --zone-size 16M --profile zns -L label --force a b").unwrap();
        assert_eq!(arguments.size, Some(4 << 30));
        assert_eq!(arguments.zone_size, Some(16 << 20));
        assert_eq!(arguments.profile, Some(Profile::Zns));
        assert_eq!(arguments.label, "label");
        assert!(arguments.force);
        assert_eq!(arguments.devices, [PathBuf::from("a"), PathBuf::from("b")]);
        assert_eq!(arguments.drive_option(), None);
    }

    #[test]
    fn drives_in_files() {
        let arguments = parse("mkfs.ferryfs --block-size 512 --copy-limits 64,128,4 --zone-capacity 12M a").unwrap();
        assert_eq!(arguments.copy_limits, Some(CopyLimits { mssrl: 64, mcl: 128, ranges: 4 }));
        assert_eq!(arguments.drive_option(), Some("--zone-capacity"));
        assert_eq!(parse("mkfs.ferryfs --copy-limits none a").unwrap().copy_limits, Some(CopyLimits { mssrl: 0, mcl: 0, ranges: 0 }));
        for (line, limits) in [
            ("mkfs.ferryfs a", (14, 14)),
            ("mkfs.ferryfs --max-open 6 --max-active 8 a", (6, 8)),
            ("mkfs.ferryfs --max-open 20 a", (20, 20)),
            ("mkfs.ferryfs --max-open 6 a", (6, 14)),
            ("mkfs.ferryfs --max-open 0 a", (0, 0)),
            ("mkfs.ferryfs --max-active 6 a", (6, 6)),
            ("mkfs.ferryfs --max-active 0 a", (14, 0)),
        ] {
            assert_eq!(parse(line).unwrap().zone_limits(), limits, "{line}");
        }
    }

    #[test]
    fn wrong_command_lines_are_refused() {
        for line in [
            "mkfs.ferryfs",
            "mkfs.ferryfs --size big a",
            "mkfs.ferryfs --size -1 a",
            "mkfs.ferryfs --size 99999999999999T a",
            "mkfs.ferryfs --profile floppy a",
            "mkfs.ferryfs --copy-limits 1,2 a",
            "mkfs.ferryfs --copy-limits 0,0,0 a",
            "mkfs.ferryfs --copy-limits 8,4,1 a",
            "mkfs.ferryfs --uuid xyz a",
            "mkfs.ferryfs --no-such a",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
