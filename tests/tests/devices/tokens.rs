//! Tokens the whole way: SG_IO, Linux's SCSI stack, its target, and behind that (TCMU) a target of our own that knows POPULATE TOKEN, RECEIVE ROD TOKEN
//! INFORMATION and WRITE USING TOKEN as SPC-4 and SBC-3 say. No target in Linux does.

use crate::brief::{self, PLAIN};
use crate::copied::copy_within;
use crate::raw::{copies, fill};
use crate::tool::{self, ferrycopy};
use guest::{Kernel, Machine};
use scsi_target::{Code, DiskConfig, Fault, Key, Refusal, Target, TokenConfig};
use std::path::PathBuf;
use tests::guest::in_guest;
use tests::guest::tcmu::OurTarget;

const MIB: u64 = 1 << 20;
const SIZE: u64 = 64 * MIB;
/// Of disks without a volume.
const SMALL: u64 = 32 * MIB;
const WRITE_USING_TOKEN: (u8, u8) = (0x83, 0x11);

fn machine() -> Machine {
    Machine::new(Kernel::Long6_12)
}

fn disks(size: u64, tokens: &TokenConfig) -> (OurTarget, Vec<PathBuf>) {
    let config = |number| DiskConfig { xcopy: None, tokens: Some(tokens.clone()), ..DiskConfig::new(number, size / 4096, 4096) };
    OurTarget::create(vec![config(1), config(2)])
}

fn count(target: &Target, command: (u8, u8)) -> u64 {
    target.counters().commands.get(&command).copied().unwrap_or(0)
}

#[test]
fn tokens_carry_blocks_within_a_disk_and_between_two_and_below_a_volume() {
    in_guest(machine(), &[], || {
        let (target, paths) = disks(SIZE, &TokenConfig { max_ranges: 32, max_blocks: 512, ..TokenConfig::default() });
        // What page 8Fh says are the limits.
        let caps = tool::report(&["caps", "--json", paths[0].to_str().unwrap(), paths[1].to_str().unwrap()]);
        for pair in caps["pairs"].as_array().unwrap() {
            assert_eq!((&pair["road"], &pair["simulated"]), (&"scsi-token".into(), &false.into()), "{pair}");
            let road = pair["roads"].as_array().unwrap().iter().find(|road| road["road"] == "scsi-token").unwrap();
            assert_eq!((road["limits"]["max_ranges"].as_u64(), road["limits"]["max_command_bytes"].as_u64()), (Some(32), Some(2 * MIB)));
        }
        fill(&paths[0], 1, 0, SIZE);
        fill(&paths[1], 2, 0, SIZE);
        let before = target.lock().counters().clone();
        let report = copy_within(&paths[0], SIZE, "none", "scsi-token");
        let after = target.lock().counters().clone();
        assert_eq!(Some(after.copied_bytes - before.copied_bytes), report["offloaded"].as_u64(), "the target moved them itself");
        let ranges = [(5 * MIB, 3 * MIB), (40960, 8192)];
        tool::by_device(&copies(&paths[0], &ranges, &paths[1], 9 * MIB + 4096, &[]), 3 * MIB + 8192, "scsi-token");
        // A volume: cleaning and copy_file_range.
        let before = target.lock().counters().copied_bytes;
        let status = brief::live(&paths[..1], PLAIN, &[]);
        brief::by_device(&status, "scsi-token");
        let moved = status.number("gc/offloaded").unwrap() + status.number("copy_file_range/offloaded").unwrap();
        assert!(target.lock().counters().copied_bytes - before >= moved);
    });
}

#[test]
fn tokens_that_expire_or_are_refused_are_made_again_and_then_the_host_copies() {
    in_guest(machine(), &[], || {
        let (target, paths) = disks(SMALL, &TokenConfig { default_inactivity: 1, ..TokenConfig::default() });
        let disk = &paths[0];
        fill(disk, 1, 0, SMALL);
        // By the clock of the target: when the first token is to be used, an hour has passed since it was made. The road was proved before.
        copy_within(disk, SMALL, "none", "scsi-token");
        let mut uses = 0;
        target.before(move |target, _, cdb| {
            if (cdb[0], cdb[1] & 0x1f) == WRITE_USING_TOKEN {
                uses += 1;
                // The first use is the proof of the road by a single block.
                if uses == 2 {
                    target.advance(3_600_000);
                }
            }
        });
        let counts = || {
            let target = target.lock();
            (count(&target, (0x83, 0x10)), count(&target, WRITE_USING_TOKEN))
        };
        let before = counts();
        copy_within(disk, SMALL, "none", "scsi-token");
        let (made, used) = (counts().0 - before.0, counts().1 - before.1);
        assert!(made == used && made >= 3, "{made} tokens were made and {used} used: one was made twice");
        target.before(|_, _, _| ());
        // Refused for good: what is left goes through the host, and the report says how much.
        for _ in 0..64 {
            let with = Refusal::check(Key::IllegalRequest, Code::TOKEN_REVOKED);
            target.lock().inject(Fault::Refuse { disk: 0, command: WRITE_USING_TOKEN, skip: 1, with });
        }
        let report = copies(disk, &[(0, 4 * MIB)], disk, 20 * MIB, &[]);
        let number = |field: &str| report[field].as_u64().unwrap();
        assert_eq!((number("bytes"), number("offloaded") + number("host_written")), (4 * MIB, 4 * MIB), "{report}");
        assert!(number("host_written") > 0 && !report["fallbacks"].as_object().unwrap().is_empty(), "{report}");
        let name = disk.display();
        // Who insists on the device is told why not.
        let outcome = ferrycopy(["copy", "--route", "offload", "--json", &format!("{name}:0:4M"), &format!("{name}:20M")]);
        assert!(!outcome.success() && outcome.stderr.contains("TOKEN"), "{outcome}");
        target.lock().mend();
        copy_within(disk, SMALL, "none", "scsi-token");
    });
}
