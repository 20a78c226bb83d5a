//! Write pointers that are not where they should be: what is missing is said, or nothing is missing, and nothing is made up.

use super::*;
use std::collections::BTreeSet;
use zns::sim::Survival;

/// What fsck finds; `None`: nothing wrong.
fn said_by_fsck(media: &[SimMedium]) -> Option<String> {
    match check(open(media, true).expect("opened"), CheckOptions { cache_size: 4 << 20, ..CheckOptions::default() }) {
        Ok(report) => (!report.clean).then(|| report.to_string()),
        Err(error) => Some(error.to_string()),
    }
}

/// The write pointer stands further ahead: nothing is lost. Further back: what was acknowledged is missing, and whoever mounts is told, and so is who checks, or it is a block
/// that nobody needs and nothing is missing; data that is gone is never made up.
#[test]
fn a_write_pointer_in_the_wrong_place_is_noticed_or_harmless() {
    for kind in [VolumeKind::Zoned, VolumeKind::TwoZoned] {
        let base = kind.base();
        let (mut moved, mut told) = (0, 0);
        for device in 0..base.media.len() {
            for by in [-3i64, -1, 1, 5] {
                for zone in (2..20).map(ZoneId) {
                    let media: Vec<SimMedium> = base.media.iter().map(Still::medium).collect();
                    let SimMedium::Drive(drive) = &media[device] else { unreachable!("these kinds have drives") };
                    let (g, written) = (drive.geometry(), drive.zone(zone).written.0);
                    if g.software_zones || written == 0 || written == g.zone_capacity.0 {
                        continue;
                    }
                    let per = 4096 / i64::from(g.block_size);
                    drive.move_write_pointer(zone, Blocks((written as i64 + by * per).max(0) as u64));
                    moved += 1;
                    let what = format!("the write pointer of zone {zone} of device {device} of {} moves by {by}", kind.name());
                    let said = said_by_fsck(&media);
                    assert!(by < 0 || said.is_none(), "{what}: {said:?}");
                    let volume = match Volume::open(open(&media, false).expect("opened"), mount_options(&Hands::at(base.now), 20)) {
                        Ok(volume) => volume,
                        Err(error) => {
                            assert!(said.is_some(), "{what}: the mount is refused ({error}), and fsck finds nothing");
                            assert!(by < 0 && matches!(error, FsError::Volume(_) | FsError::Corrupt { .. }), "{what}: {error:?}");
                            told += 1;
                            continue;
                        }
                    };
                    let found = observe(&volume).unwrap_or_else(|error| panic!("{what}: {error}"));
                    let lost = judged(&found, &base.model).unwrap_or_else(|error| panic!("{what}: {error}"));
                    assert!(by < 0 || lost == 0 && volume.is_writable(), "{what}: {:?}", volume.read_only_reason());
                    if said.is_none() {
                        // Where fsck says that all is well, all is there.
                        assert!(lost == 0 && volume.is_writable(), "{what}: {lost} lost, {:?}", volume.read_only_reason());
                        assert_eq!(found.model.digest(), base.model.digest(), "{what}");
                    }
                    told += u32::from(lost > 0 || !volume.is_writable());
                    assert!(drive.violations().is_empty(), "{what}: {:?}", drive.violations());
                }
            }
        }
        println!("{}: {moved} write pointers moved, {told} told", kind.name());
        assert!(moved > 5, "{}: {moved}", kind.name());
    }
}

/// Where the write pointers of all zones are.
fn pointers(media: &[SimMedium]) -> BTreeMap<(usize, u32), u64> {
    let of = |(n, drive): (usize, &SimDrive)| {
        let drive = drive.clone();
        (0..drive.geometry().zones).map(move |zone| ((n, zone), drive.zone(ZoneId(zone)).written.0)).collect::<Vec<_>>()
    };
    drives(media).iter().enumerate().flat_map(of).collect()
}

/// A drive whose log has become shorter, by a write pointer that went back over records that were acknowledged: nothing tells that from a power cut before they were written, so what is
/// found is a state that the volume was in, and never a mixture; or it is said.
#[test]
fn a_log_that_went_back_is_an_earlier_state_and_never_a_mixture() {
    for kind in [VolumeKind::Zoned, VolumeKind::TwoZoned] {
        let base = kind.base();
        let media: Vec<SimMedium> = base.media.iter().map(Still::medium).collect();
        let hands = Hands::at(base.now);
        let volume = Volume::open(open(&media, false).expect("opened"), mount_options(&hands, 20)).expect("mounted");
        let mut run = Run::new(&base, volume, hands, false).expect("whole");
        // Names go to the log alone: the zone that grows is the log's.
        let mut grown = BTreeSet::new();
        for n in 0..8u32 {
            let before = pointers(&media);
            run.step(&Operation::Create { parent: ROOT, name: format!("log {n}").into_bytes(), id: 100 + n }).expect("made");
            run.step(&Operation::Sync).expect("synced");
            grown.extend(pointers(&media).into_iter().filter(|(zone, written)| before[zone] != *written).map(|(zone, _)| zone));
            let write = Operation::Write { id: ids::FOO, offset: 0, len: 9000, stamp: 60 + u64::from(n), append: false, sync: true };
            run.step(&write).expect("written");
        }
        let [(device, zone)] = grown.into_iter().collect::<Vec<_>>()[..] else { panic!("{}: the log is in one zone", kind.name()) };
        let Run { subject, history, .. } = run;
        drop(subject);
        let live = drives(&media);
        let (mut earlier, mut told) = (0, 0);
        for by in 1..20 {
            let forks: Vec<SimDrive> = live.iter().map(SimDrive::fork).collect();
            for drive in &forks {
                drive.cut_power();
                drive.power_cycle_with(Survival::KeepAll);
            }
            let drive = &forks[device];
            let per = 4096 / u64::from(drive.geometry().block_size);
            let written = drive.zone(ZoneId(zone)).written.0;
            if written < by * per {
                break;
            }
            drive.move_write_pointer(ZoneId(zone), Blocks(written - by * per));
            let what = format!("{}: the log went back by {by} blocks", kind.name());
            let media: Vec<SimMedium> = forks.into_iter().map(SimMedium::Drive).collect();
            let said = said_by_fsck(&media);
            match Volume::open(open(&media, false).expect("opened"), mount_options(&Hands::at(base.now), 21)) {
                Err(error) => {
                    assert!(said.is_some() && matches!(error, FsError::Volume(_) | FsError::Corrupt { .. }), "{what}: {error:?}");
                    told += 1;
                }
                Ok(volume) => {
                    let found = observe(&volume).unwrap_or_else(|error| panic!("{what}: {error}"));
                    assert!(found.errors.is_empty(), "{what}: {:?}", found.errors);
                    let was = history.iter().position(|state| state.digest() == found.model.digest());
                    assert!(was.is_some(), "{what}: a state that never was: {:?}", history[0].differences(&found.model));
                    assert!(volume.is_writable() || said.is_some(), "{what}: {:?}", volume.read_only_reason());
                    earlier += 1;
                    told += u32::from(!volume.is_writable());
                }
            }
        }
        println!("{}: {earlier} earlier states, {told} told", kind.name());
        assert!(earlier > 5, "{}: {earlier}", kind.name());
    }
}
