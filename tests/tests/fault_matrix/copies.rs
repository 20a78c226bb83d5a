//! Copies by a device that lies, in each mode of verification.

use super::*;
use fs::volume::scrub::ScrubDamage;
use tests::sim::subject::Lost;

/// Everything that a scrub finds.
fn scrubbed(volume: &Volume) -> Vec<ScrubDamage> {
    let (mut at, mut damage) = (Default::default(), Vec::new());
    loop {
        let step = volume.scrub(at, 1 << 20).expect("scrubbed");
        damage.extend(step.damage);
        match step.next {
            Some(next) => at = next,
            None => return damage,
        }
    }
}

/// A Copy that lies behind one that did not, so that a sample does not see it: read back whole it is never published, else it is found by its checksum, by whoever reads it and by a scrub,
/// which names the file; the source is whole.
#[test]
fn a_lie_outside_of_the_sample_is_found_by_reading_and_by_scrubbing() {
    let mut tried = 0;
    for kind in VolumeKind::ALL {
        let base = kind.base();
        let all = base.media.iter().map(Still::medium).collect::<Vec<_>>();
        if !all.iter().all(|medium| matches!(medium, SimMedium::Drive(drive) if drive.open().native_copy().is_some())) {
            continue;
        }
        for verify in [VerifyMode::Full, VerifyMode::Sampled, VerifyMode::Off] {
            let what = format!("{} {verify:?}", kind.name());
            let media: Vec<SimMedium> = base.media.iter().map(Still::medium).collect();
            let hands = Hands::at(base.now);
            let volume = Volume::open(open(&media, false).expect("opened"), options(&hands, 20, verify)).expect("mounted");
            let mut run = Run::new(&base, volume, hands, verify != VerifyMode::Full).expect("whole");
            let copies = || drives(&media).iter().map(|drive| drive.stats().copies).sum::<u64>();
            // The range that is compared.
            run.step(&Operation::CopyRange { from: (ids::BIG, 0), to: (ids::BAR, 0), len: 4096 }).unwrap_or_else(|e| panic!("{what}: {e}"));
            let honest = copies();
            drives(&media).iter().for_each(|drive| drive.set_faults(FaultPlan { copy_wrong: 1.0, ..FaultPlan::default() }));
            let copy = Operation::CopyRange { from: (ids::BIG, 8192), to: (ids::BAR, 8192), len: 8192 };
            run.step(&copy).unwrap_or_else(|error| panic!("{what}: {error}"));
            assert!(honest > 0 && copies() > honest, "{what}: nothing was copied by a drive");
            drives(&media).iter().for_each(|drive| drive.set_faults(FaultPlan::default()));
            let found = observe(run.subject.volume()).expect("observed");
            let lost = judged(&found, run.present()).unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(lost == 0, verify == VerifyMode::Full, "{what}: {lost} blocks");
            let only_the_copy =
                |(lost, error): &(Lost, FsError)| matches!(lost, Lost::Block(ids::BAR, _)) && matches!(error, FsError::DataChecksum { .. });
            assert!(found.errors.iter().all(only_the_copy), "{what}: {:?}", found.errors);
            let damage = scrubbed(run.subject.volume());
            assert_eq!(damage.len(), lost, "{what}: {damage:?}");
            assert!(damage.iter().all(|damage| damage.path.as_deref() == Some("/A/bar")), "{what}: {damage:?}");
            tried += 1;
        }
    }
    assert!(tried >= 3, "{tried}");
}

/// A Copy that says it succeeded and did not: read back whole, it is never published. Trusted, or sampled, it is found by the checksum when it is read; what was
/// copied from is as it was.
#[test]
fn a_copy_that_lies_is_never_data() {
    for kind in VolumeKind::ALL {
        let base = kind.base();
        if base.media.iter().any(|still| matches!(still.medium(), SimMedium::File(_))) || kind == VolumeKind::ImageConventional {
            continue;
        }
        for verify in [VerifyMode::Full, VerifyMode::Sampled, VerifyMode::Off] {
            let media: Vec<SimMedium> = base.media.iter().map(Still::medium).collect();
            let hands = Hands::at(base.now);
            let volume = Volume::open(open(&media, false).expect("opened"), options(&hands, 20, verify)).expect("mounted");
            let mut run = Run::new(&base, volume, hands, verify != VerifyMode::Full).expect("whole");
            drives(&media).iter().for_each(|drive| drive.set_faults(FaultPlan { copy_wrong: 1.0, ..FaultPlan::default() }));
            let copy = Operation::CopyRange { from: (ids::BIG, 0), to: (ids::BAR, 0), len: 20 * 4096 };
            run.step(&copy).unwrap_or_else(|error| panic!("{} {verify:?}: {error}", kind.name()));
            let copies: u64 = drives(&media).iter().map(|drive| drive.stats().copies).sum();
            assert!(copies > 0, "{}: nothing was copied by a drive", kind.name());
            let found = observe(run.subject.volume()).expect("observed");
            let lost = judged(&found, run.present()).unwrap_or_else(|error| panic!("{} {verify:?}: {error}", kind.name()));
            // Of samples the first range is one: this device is found out by it.
            assert_eq!(lost == 0, verify != VerifyMode::Off, "{} {verify:?}: {lost} blocks", kind.name());
            let source_is_whole = !found.errors.iter().any(|(lost, _)| matches!(lost, Lost::Block(ids::BIG | ids::FOO, _)));
            assert!(source_is_whole, "{} {verify:?}: {:?}", kind.name(), found.errors);
            // Cleaning, too, publishes nothing that was not compared, and what it broke without comparing is an error and no data.
            for op in [Operation::Gc { until_clean: true }, Operation::Checkpoint] {
                run.step(&op).unwrap_or_else(|error| panic!("{} {verify:?}: {error}", kind.name()));
            }
            let found = observe(run.subject.volume()).expect("observed");
            let lost = judged(&found, run.present()).unwrap_or_else(|error| panic!("{} {verify:?}: {error}", kind.name()));
            assert!(verify != VerifyMode::Full || lost == 0, "{}: {lost} blocks", kind.name());
            let model = run.present().clone();
            assert!(model.node(ids::BIG).is_some_and(|node| matches!(node.kind, Kind::File { .. })));
        }
    }
}
