//! `ferryfs mount`, also as the helper that mount(8) calls.

use super::daemon::{self, Plan};
use super::devices::{Access, mount_of, open_devices};
use super::failure::{CommandResult, Failure, MOUNT_FAILED, MOUNT_USAGE, OrFail};
use super::options::MountSettings;
use super::remount;
use crate::error::FsError;
use crate::volume::{GcMode, MountOptions, Volume};
use clap::Args;
use copy_backend::GivenProfile;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// How long a mount waits for the daemon of the previous one, which has been unmounted and still writes.
const PATIENCE: Duration = Duration::from_secs(15);

/// Arguments of `ferryfs mount`.
#[derive(Clone, Debug, Args)]
pub struct MountArguments {
    /// Options, separated by commas: ro, allow_other, copy_route=auto|offload|host, gc=background|manual, policy=NAME,
    /// placement=NAME, cache_size=BYTES, verify_copies=off|sampled|full, commit=SECONDS, discard, noatime|relatime|strictatime, remount,
    /// offload_below=dm,md, copy_profile=FILE, device_model=none|zns-tlc|zns-slc|smr (images), fuse_type=auto|fuse|fuseblk,
    /// transport=auto|dev_fuse|io_uring, nonempty, and those of mount(8).
    #[arg(short = 'o', value_name = "OPTIONS")]
    options: Vec<String>,
    /// Stay in the foreground until it is unmounted.
    #[arg(short, long)]
    foreground: bool,
    /// Write one JSON line per decision, copy and reset of the cleaner to this file.
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Write what the daemon has to say to this file rather than to the system log.
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// The devices of the volume, then where to mount it.
    #[arg(value_names = ["DEVICE", "MOUNTPOINT"], num_args = 2.., required = true)]
    paths: Vec<PathBuf>,
}

/// `ferryfs mount`.
pub fn run(arguments: &MountArguments, program: &str) -> ExitCode {
    if remount::is_asked_for(&arguments.options) {
        return match arguments.paths.last().map_or(Ok(()), |path| remount::remount(path, &arguments.options)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => failure.report(program),
        };
    }
    match plan(arguments) {
        Ok(plan) => daemon::run(&plan, program, open, close),
        Err(failure) => failure.report(program),
    }
}

fn plan(arguments: &MountArguments) -> CommandResult<Plan> {
    let mut settings = MountSettings::parse(arguments.options.iter().map(String::as_str)).or_fail(MOUNT_USAGE)?;
    let Some((mountpoint, devices)) = arguments.paths.split_last() else {
        return Err(Failure::new(MOUNT_USAGE, "a device and a mount point are needed"));
    };
    let absolute = |path: &PathBuf| std::path::absolute(path).or_fail(MOUNT_USAGE);
    settings.copy_profile = settings.copy_profile.as_ref().map(absolute).transpose()?;
    Ok(Plan {
        foreground: arguments.foreground,
        trace: arguments.trace.as_ref().map(absolute).transpose()?,
        log: arguments.log.as_ref().map(absolute).transpose()?,
        ..Plan::new(devices, mountpoint, settings)?
    })
}

/// As mount(8) calls its helpers: `mount.TYPE DEVICE MOUNTPOINT [-sfnvr] [-N NAMESPACE] [-o OPTIONS] [-t TYPE]`.
pub fn as_helper(program: &str, arguments: &[OsString]) -> ExitCode {
    match from_helper_arguments(arguments) {
        Ok(Some(mut arguments)) => {
            // Whoever names the type of a mount gets that type; options that are given have the last word.
            if let Some(kind) = program.strip_prefix("mount.").and_then(|kind| kind.strip_suffix(".ferryfs")) {
                arguments.options.insert(0, format!("fuse_type={kind}"));
            }
            run(&arguments, program)
        }
        // -f: everything but the mount itself.
        Ok(None) => ExitCode::SUCCESS,
        Err(failure) => failure.report(program),
    }
}

fn from_helper_arguments(arguments: &[OsString]) -> CommandResult<Option<MountArguments>> {
    let usage = |text: &str| Failure::new(MOUNT_USAGE, format!("{text}; usage: mount.ferryfs DEVICE MOUNTPOINT [-o OPTIONS]"));
    let mut out = MountArguments { options: Vec::new(), foreground: false, trace: None, log: None, paths: Vec::new() };
    let mut fake = false;
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        match word.to_str() {
            Some("-o") => {
                let options = words.next().and_then(|options| options.to_str()).ok_or_else(|| usage("-o needs options"))?;
                out.options.push(options.to_owned());
            }
            Some("-t" | "-N") => {
                words.next();
            }
            Some(flags) if flags.starts_with('-') && flags.len() > 1 => {
                for flag in flags.chars().skip(1) {
                    match flag {
                        'f' => fake = true,
                        'r' => out.options.push("ro".into()),
                        'w' => out.options.push("rw".into()),
                        's' | 'n' | 'v' => {}
                        _ => return Err(usage(&format!("unknown flag {flags}"))),
                    }
                }
            }
            _ => out.paths.push(word.into()),
        }
    }
    if out.paths.len() < 2 {
        return Err(usage("a device and a mount point are needed"));
    }
    Ok((!fake).then_some(out))
}

/// Opens the volume of a plan, with its threads.
fn open(plan: &Plan) -> CommandResult<Arc<Volume>> {
    let settings = &plan.settings;
    let access = Access { read_only: settings.read_only, discard: settings.discard, model: settings.device_model, patience: PATIENCE };
    let devices = open_devices(&plan.devices, access).map_err(|error| in_use(plan, &error))?;
    let volume = Volume::open(devices, options_of(settings, plan.trace.clone())).or_fail(MOUNT_FAILED)?;
    volume.start_background().map_err(|error| Failure::new(MOUNT_FAILED, format!("start the threads of the volume: {error}")))?;
    Ok(volume)
}

/// The options that the volume goes by.
pub(super) fn options_of(settings: &MountSettings, trace: Option<PathBuf>) -> MountOptions {
    MountOptions {
        read_only: settings.read_only,
        copy_route: settings.copy_route,
        verify: settings.verify,
        offload_below: settings.offload_below,
        copy_profile: settings.copy_profile.as_deref().map(GivenProfile::load),
        gc: if settings.manual_gc { GcMode::Manual } else { GcMode::Background },
        policy: settings.policy,
        placement: settings.placement.clone(),
        cache_size: settings.cache_size,
        commit_seconds: settings.commit_seconds,
        discard: settings.discard,
        atime: settings.atimes,
        trace,
        ..MountOptions::default()
    }
}

/// A device that cannot be opened; if it is in use by a mount of ours: say which.
fn in_use(plan: &Plan, error: &FsError) -> Failure {
    let mounted = plan.devices.iter().find_map(|device| Some((device, mount_of(device)?)));
    match mounted {
        Some((device, mounted)) => Failure::new(MOUNT_FAILED, format!("{} is in use: it is {mounted}", device.display())),
        None => match error {
            FsError::Device(zns::DeviceError::Denied { .. }) => Failure::new(MOUNT_USAGE, error),
            _ => Failure::new(MOUNT_FAILED, error),
        },
    }
}

fn close(volume: &Volume) -> CommandResult {
    volume
        .shutdown()
        .map_err(|error| Failure::new(MOUNT_FAILED, format!("the last checkpoint failed; what was not fsynced may be lost: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    type Parsed = Option<(Vec<String>, Vec<PathBuf>)>;

    fn helper(line: &str) -> Result<Parsed, String> {
        let words: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
        match from_helper_arguments(&words) {
            Ok(arguments) => Ok(arguments.map(|a| (a.options, a.paths))),
            Err(failure) => Err(failure.text),
        }
    }

    #[test]
    fn arguments_of_mount_8() {
        let paths = || vec![PathBuf::from("/dev/x"), PathBuf::from("/mnt")];
        assert_eq!(helper("/dev/x /mnt"), Ok(Some((vec![], paths()))));
        assert_eq!(helper("/dev/x /mnt -o rw,noatime"), Ok(Some((vec!["rw,noatime".into()], paths()))));
        assert_eq!(helper("/dev/x /mnt -sv -o rw -t fuse.ferryfs"), Ok(Some((vec!["rw".into()], paths()))));
        assert_eq!(helper("-r /dev/x /mnt"), Ok(Some((vec!["ro".into()], paths()))));
        assert_eq!(helper("-f /dev/x /mnt"), Ok(None));
        assert!(helper("/dev/x").is_err());
        assert!(helper("/dev/x /mnt -o").is_err());
        assert!(helper("/dev/x /mnt -z").is_err());
    }
}
