//! `ferrycopy copy`.

use super::arguments::{CopyArguments, How};
use super::devices::open_pair;
use super::report::Summary;
use super::{interrupt, run};
use crate::copier::{Copier, Pace};
use crate::engine::EngineConfig;
use crate::job::RangeCopy;
use crate::profile::GivenProfile;
use crate::ranges::{BytePosition, ByteRange};
use anyhow::Result;
use std::process::ExitCode;
use std::sync::Arc;
use zns::DeviceId;

pub(super) fn config(how: &How) -> EngineConfig {
    let profile = how.profile.as_deref().map(GivenProfile::load);
    EngineConfig { route: how.route.into(), verify: how.verify.into(), offload_below: how.offload_below, profile }
}

/// Says why a profile that was named is not used.
pub(super) fn complain_of_profile(copier: &Copier, from: DeviceId, to: DeviceId) {
    if let Some(reason) = copier.engine().profile_use(from, to).reason {
        eprintln!("ferrycopy: sizes are not chosen by the profile: {reason}");
    }
}

pub(super) fn copy(arguments: &CopyArguments) -> Result<ExitCode> {
    let how = &arguments.how;
    let pair = open_pair(&arguments.source.path, &arguments.destination.path, how.force)?;
    let copier = Copier::new(pair.devices, config(how))?;
    complain_of_profile(&copier, pair.source, pair.destination);
    let range = |&(offset, length)| ByteRange { device: pair.source, offset, length };
    let copy = RangeCopy {
        sources: arguments.source.ranges.iter().map(range).collect(),
        target: BytePosition { device: pair.destination, offset: arguments.destination.offset },
        pace: how.rate.map(|rate| Arc::new(Pace::new(rate))),
    };
    interrupt::watch();
    let bar = run::bar(copy.sources.iter().map(|range| range.length).sum());
    let report = run::run(&copier, copy, &bar)?;
    bar.finish_and_clear();
    let summary = Summary::from(&report);
    summary.print(how.json)?;
    Ok(ExitCode::from(summary.exit()))
}
