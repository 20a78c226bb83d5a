//! Calibrations that do not come to their end, and roads that do not do what they say: the scratch range is what it was.

use super::*;
use crate::calibrate::{CalibrateError, ScratchRange, calibrate};
use crate::{CopyBackend, CopyCaps, CopyCommand, CopyOutcome, FailureKind, NoRoad, Road};
use zns::raw::{RawOptions, open_raw};
use zns::{Ticket, ZoneState};

/// Says so of every command, and does nothing.
struct Idle(Option<FailureKind>);

impl CopyBackend for Idle {
    fn road(&self) -> Road {
        Road::Nvme
    }
    fn caps(&self, _: DeviceId, _: DeviceId) -> Result<CopyCaps, NoRoad> {
        Ok(CopyCaps { road: Road::Nvme, max_range_bytes: 1 << 16, max_command_bytes: 1 << 18, max_ranges: 4, simulated: true })
    }
    fn submit(&self, _: CopyCommand) -> crate::Result<Ticket> {
        Ok(Ticket(0))
    }
    fn complete(&self, _: Ticket) -> CopyOutcome {
        self.0.map_or(CopyOutcome::offloaded(1), |kind| CopyOutcome::failed(0, kind, "by this test"))
    }
}

fn engine(device: Arc<dyn ZonedDevice>, backends: Vec<Arc<dyn CopyBackend>>) -> CopyEngine {
    CopyEngine::new(vec![device], backends, EngineConfig::default())
}

const ALL: ScratchRange = ScratchRange { device: DeviceId(0), offset: 0, length: 4 << 20 };

#[test]
fn an_interruption_leaves_the_scratch_range_as_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    std::fs::write(&path, vec![0; 4 << 20]).unwrap();
    let engine = engine(open_raw(&path, &RawOptions::default()).unwrap(), Vec::new());
    for patience in [0, 3] {
        let mut left = patience;
        let ended = calibrate(&engine, &[ALL], &mut |_| {
            left -= 1;
            left >= 0
        });
        assert!(matches!(ended, Err(CalibrateError::Interrupted)), "{ended:?}");
        assert!(std::fs::read(&path).unwrap().iter().all(|byte| *byte == 0));
    }
    let drive = SimDrive::new(config(4096, 3));
    let lab = self::engine(drive.open(), Vec::new());
    let zones = ScratchRange { offset: 8 * ZONE_BYTES, ..ALL };
    assert!(matches!(calibrate(&lab, &[zones], &mut |_| false), Err(CalibrateError::Interrupted)));
    assert!((0..ZONES).all(|zone| drive.zone(ZoneId(zone)).state == ZoneState::Empty));
}

#[test]
fn a_road_that_does_not_copy_is_not_measured_and_the_others_are() {
    for (failure, words) in [
        (None, "it copied wrongly while it was measured"),
        (Some(FailureKind::Transient), "it failed while it was measured: by this test"),
        (Some(FailureKind::TooLarge), "it refuses the smallest command"),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        std::fs::write(&path, vec![0; 4 << 20]).unwrap();
        let engine = engine(open_raw(&path, &RawOptions::default()).unwrap(), vec![Arc::new(Idle(failure))]);
        let found = calibrate(&engine, &[ALL], &mut |_| true).unwrap();
        let outcome = |road| &found.iter().find(|found| found.road == road).unwrap().outcome;
        assert_eq!(outcome(Road::Nvme).as_ref().unwrap_err(), words);
        assert!(outcome(Road::Host).is_ok());
        assert!(std::fs::read(&path).unwrap().iter().all(|byte| *byte == 0));
    }
}
