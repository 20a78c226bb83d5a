//! `-o`: the options of a mount, as mount(8) writes them.

use super::size::parse_size;
use crate::fuse::Transport;
use crate::fuse::control::{OVER_DEVICE, OVER_RING};
use crate::fuse::mountpoint::MountType;
use crate::volume::{AtimeMode, Atimes};
use copy_backend::{OffloadBelow, RouteChoice, VerifyMode};
use std::path::PathBuf;
use std::str::FromStr;
use thiserror::Error;
use zns::image::DeviceModel;

/// Least memory for metadata with which a mount can work.
pub const MIN_CACHE: u64 = 4 << 20;
/// Memory for metadata unless told otherwise.
pub const DEFAULT_CACHE: u64 = 128 << 20;
/// Longest time between two commits, in seconds.
pub const MAX_COMMIT_SECONDS: u32 = 3600;

/// What a mount was asked to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountSettings {
    /// `ro`.
    pub read_only: bool,
    /// `allow_other`.
    pub allow_other: bool,
    /// `nosuid`.
    pub no_suid: bool,
    /// `nodev`.
    pub no_dev: bool,
    /// `noexec`.
    pub no_exec: bool,
    /// `nosymfollow`.
    pub no_sym_follow: bool,
    /// `noatime`, `relatime`, `strictatime`; `nodiratime`.
    pub atimes: Atimes,
    /// `nonempty`: cover the files of a mount point that is not empty.
    pub nonempty: bool,
    /// `copy_route=`.
    pub copy_route: RouteChoice,
    /// `offload_below=`.
    pub offload_below: OffloadBelow,
    /// `copy_profile=`: what `ferrycopy caps --calibrate` wrote.
    pub copy_profile: Option<PathBuf>,
    /// `device_model=`: whose times images play.
    pub device_model: DeviceModel,
    /// `gc=manual`.
    pub manual_gc: bool,
    /// `policy=`.
    pub policy: gc::Policy,
    /// `placement=`.
    pub placement: String,
    /// `cache_size=`.
    pub cache_size: u64,
    /// `verify_copies=`.
    pub verify: VerifyMode,
    /// `commit=`.
    pub commit_seconds: u32,
    /// `discard`.
    pub discard: bool,
    /// `fuse_type=`.
    pub fuse_type: MountType,
    /// `transport=`.
    pub transport: Transport,
    /// `device=`: further devices of the volume, for mount(8), which takes only one.
    pub devices: Vec<PathBuf>,
}

impl Default for MountSettings {
    fn default() -> Self {
        Self {
            read_only: false,
            allow_other: false,
            no_suid: false,
            no_dev: false,
            no_exec: false,
            no_sym_follow: false,
            atimes: Atimes::default(),
            nonempty: false,
            copy_route: RouteChoice::default(),
            offload_below: OffloadBelow::default(),
            copy_profile: None,
            device_model: DeviceModel::None,
            manual_gc: false,
            policy: gc::Policy::default(),
            placement: gc::PlacementKind::default().name().into(),
            cache_size: DEFAULT_CACHE,
            verify: VerifyMode::default(),
            commit_seconds: 5,
            discard: false,
            fuse_type: MountType::default(),
            transport: Transport::default(),
            devices: Vec::new(),
        }
    }
}

/// Why an option string is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum OptionError {
    /// There is no such option.
    #[error("unknown mount option {0:?}; known are: {KNOWN}")]
    Unknown(String),
    /// An option that needs a value has none.
    #[error("mount option {0} needs a value: {0}=...")]
    NoValue(String),
    /// An option that takes no value has one.
    #[error("mount option {0} takes no value")]
    UnwantedValue(String),
    /// An option of mount(8) that this filesystem cannot honour.
    #[error("mount option {0} is not supported by FerryFS: {1}")]
    Unsupported(String, &'static str),
    /// A value that the option does not take.
    #[error("mount option {name}={value}: {reason}")]
    BadValue {
        /// The option.
        name: String,
        /// The value.
        value: String,
        /// What it must be.
        reason: String,
    },
}

const KNOWN: &str = "ro, rw, allow_other, copy_route=auto|offload|host, offload_below=dm,md, copy_profile=FILE, device_model=none|zns-tlc|zns-slc|smr, gc=background|manual, policy=NAME, placement=NAME, cache_size=BYTES, \
                     verify_copies=off|sampled|full, commit=SECONDS, discard, nodiscard, noatime, relatime, strictatime, remount, device=PATH, fuse_type=auto|fuse|fuseblk, transport=auto|dev_fuse|io_uring, nonempty, and the general \
                     options of mount(8)";

/// One of several words, each with its meaning.
fn choose<T: Copy>(name: &str, value: &str, choices: &[(&str, T)]) -> Result<T, OptionError> {
    choices.iter().find(|(word, _)| *word == value).map(|(_, meaning)| *meaning).ok_or_else(|| {
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        bad(name, value, format!("choose one of {}", words.join(", ")))
    })
}

fn bad(name: &str, value: &str, reason: impl ToString) -> OptionError {
    OptionError::BadValue { name: name.to_owned(), value: value.to_owned(), reason: reason.to_string() }
}

impl MountSettings {
    /// Takes one or more option strings, later ones over earlier ones.
    ///
    /// # Errors
    /// The first option that is unknown or makes no sense.
    pub fn parse<'a>(strings: impl IntoIterator<Item = &'a str>) -> Result<Self, OptionError> {
        let mut settings = Self::default();
        settings.take(strings)?;
        Ok(settings)
    }

    /// Takes another option, over what was taken before.
    ///
    /// # Errors
    /// As [`MountSettings::parse`].
    pub fn add(&mut self, option: &str) -> Result<(), OptionError> {
        self.take([option])
    }

    fn take<'a>(&mut self, strings: impl IntoIterator<Item = &'a str>) -> Result<(), OptionError> {
        let mut listing_layers = false;
        for option in strings.into_iter().flat_map(|string| string.split(',')).filter(|option| !option.is_empty()) {
            match option.split_once('=') {
                // The list of layers has commas of its own.
                None if listing_layers && matches!(option, "dm" | "md") => self.add_layers("offload_below", option)?,
                None => self.flag(option)?,
                Some((name, value)) => self.value(name, value)?,
            }
            listing_layers = option.starts_with("offload_below=") || (listing_layers && matches!(option, "dm" | "md"));
        }
        Ok(())
    }

    fn add_layers(&mut self, name: &str, value: &str) -> Result<(), OptionError> {
        let more = OffloadBelow::from_str(value).map_err(|error| bad(name, value, error))?;
        self.offload_below = OffloadBelow { dm: self.offload_below.dm | more.dm, md: self.offload_below.md | more.md };
        Ok(())
    }

    fn flag(&mut self, name: &str) -> Result<(), OptionError> {
        match name {
            "ro" => self.read_only = true,
            "rw" => self.read_only = false,
            "allow_other" => self.allow_other = true,
            "nosuid" => self.no_suid = true,
            "suid" => self.no_suid = false,
            "nodev" => self.no_dev = true,
            "dev" => self.no_dev = false,
            "noexec" => self.no_exec = true,
            "exec" => self.no_exec = false,
            "nosymfollow" => self.no_sym_follow = true,
            "symfollow" => self.no_sym_follow = false,
            "noatime" => self.atimes.mode = AtimeMode::None,
            "strictatime" => self.atimes.mode = AtimeMode::Strict,
            "atime" | "relatime" | "norelatime" | "nostrictatime" => self.atimes.mode = AtimeMode::Relatime,
            "nodiratime" => self.atimes.directories = false,
            "diratime" => self.atimes.directories = true,
            "discard" => self.discard = true,
            "nodiscard" => self.discard = false,
            "nonempty" => self.nonempty = true,
            "defaults" => {
                (self.read_only, self.no_suid, self.no_dev, self.no_exec) = (false, false, false, false);
            }
            // An ordinary user may mount it: mount(8) has seen to it, and these imply the rest as there.
            "user" | "users" | "owner" | "group" => (self.no_suid, self.no_dev, self.no_exec) = (true, true, true),
            // For mount(8), systemd and fsck alone; and what is always so.
            "auto"
            | "noauto"
            | "nouser"
            | "nousers"
            | "nofail"
            | "_netdev"
            | "async"
            | "default_permissions"
            | "lazytime"
            | "nolazytime"
            | "iversion"
            | "noiversion"
            | "nomand"
            | "loud"
            | "silent" => {}
            name if name.starts_with("x-") || name.starts_with("X-") => {}
            "copy_route" | "offload_below" | "copy_profile" | "device_model" | "gc" | "policy" | "placement" | "cache_size"
            | "verify_copies" | "commit" | "device" | "fuse_type" | "transport" => {
                return Err(OptionError::NoValue(name.into()));
            }
            "remount" => return Err(OptionError::Unsupported(name.into(), "only a volume that is mounted can be remounted")),
            "sync" | "dirsync" => return Err(OptionError::Unsupported(name.into(), "open files with O_SYNC, or fsync them")),
            "mand" => return Err(OptionError::Unsupported(name.into(), "there is no such mode")),
            name => return Err(OptionError::Unknown(name.into())),
        }
        Ok(())
    }

    fn value(&mut self, name: &str, value: &str) -> Result<(), OptionError> {
        match name {
            "copy_route" => {
                self.copy_route =
                    choose(name, value, &[("auto", RouteChoice::Auto), ("offload", RouteChoice::Offload), ("host", RouteChoice::Host)])?;
            }
            "offload_below" => {
                self.offload_below = OffloadBelow::default();
                self.add_layers(name, value)?;
            }
            "copy_profile" if value.is_empty() => return Err(OptionError::NoValue(name.into())),
            "copy_profile" => self.copy_profile = Some(value.into()),
            "device_model" => self.device_model = DeviceModel::from_str(value).map_err(|error| bad(name, value, error))?,
            "fuse_type" => {
                let choices = [("auto", MountType::Best), ("fuse", MountType::Plain), ("fuseblk", MountType::Block)];
                self.fuse_type = choose(name, value, &choices)?;
            }
            "transport" => {
                let choices = [("auto", Transport::Best), (OVER_DEVICE, Transport::Device), (OVER_RING, Transport::Ring)];
                self.transport = choose(name, value, &choices)?;
            }
            "gc" => self.manual_gc = choose(name, value, &[("background", false), ("manual", true)])?,
            "verify_copies" => {
                self.verify =
                    choose(name, value, &[("off", VerifyMode::Off), ("sampled", VerifyMode::Sampled), ("full", VerifyMode::Full)])?;
            }
            "policy" => {
                self.policy = gc::Policy::from_str(value).map_err(|error| bad(name, value, error))?;
            }
            "placement" => {
                let names = gc::PlacementKind::names_for_volumes();
                let kind = gc::PlacementKind::from_str(value).map_err(|_| bad(name, value, format!("choose one of {names}")))?;
                if !kind.is_for_volumes() {
                    let reason = format!("this placement works in the simulator (ferryfs-bench wa) only: choose one of {names}");
                    return Err(bad(name, value, reason));
                }
                kind.name().clone_into(&mut self.placement);
            }
            "cache_size" => {
                self.cache_size = parse_size(value).map_err(|error| bad(name, value, error))?;
                if self.cache_size < MIN_CACHE {
                    return Err(bad(name, value, "at least 4M are needed"));
                }
            }
            "commit" => {
                let seconds = value.parse().ok().filter(|seconds| (1..=MAX_COMMIT_SECONDS).contains(seconds));
                self.commit_seconds =
                    seconds.ok_or_else(|| bad(name, value, format!("a number of seconds from 1 to {MAX_COMMIT_SECONDS} is needed")))?;
            }
            "device" if value.is_empty() => return Err(OptionError::NoValue(name.into())),
            "device" => self.devices.push(value.into()),
            "fsname" | "subtype" | "user" | "uhelper" | "helper" | "comment" => {}
            name if name.starts_with("x-") || name.starts_with("X-") => {}
            "ro" | "rw" | "allow_other" | "discard" | "nodiscard" | "noatime" | "relatime" | "strictatime" | "nonempty" | "nosuid"
            | "nodev" | "noexec" => {
                return Err(OptionError::UnwantedValue(name.into()));
            }
            name => return Err(OptionError::Unknown(name.into())),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: &str) -> Result<MountSettings, OptionError> {
        MountSettings::parse([options])
    }

    #[test]
    fn every_option_of_the_contract_is_understood() {
        let default = MountSettings::default();
        let table: Vec<(&str, MountSettings)> = vec![
            ("", default.clone()),
            ("defaults", default.clone()),
            ("rw,relatime,auto,noauto,_netdev,nofail,x-systemd.automount,x-foo=bar,exec,suid,dev", default.clone()),
            ("ro", MountSettings { read_only: true, ..default.clone() }),
            ("ro,rw", default.clone()),
            ("allow_other", MountSettings { allow_other: true, ..default.clone() }),
            ("copy_route=auto", default.clone()),
            ("copy_route=offload", MountSettings { copy_route: RouteChoice::Offload, ..default.clone() }),
            ("copy_route=host", MountSettings { copy_route: RouteChoice::Host, ..default.clone() }),
            ("offload_below=dm", MountSettings { offload_below: OffloadBelow { dm: true, md: false }, ..default.clone() }),
            ("offload_below=dm,md", MountSettings { offload_below: OffloadBelow { dm: true, md: true }, ..default.clone() }),
            (
                "offload_below=md,dm,ro",
                MountSettings { read_only: true, offload_below: OffloadBelow { dm: true, md: true }, ..default.clone() },
            ),
            ("offload_below=dm,md,offload_below=none", default.clone()),
            ("copy_profile=/etc/disk.json", MountSettings { copy_profile: Some("/etc/disk.json".into()), ..default.clone() }),
            ("device_model=none", default.clone()),
            ("device_model=smr", MountSettings { device_model: DeviceModel::Smr, ..default.clone() }),
            ("transport=auto", default.clone()),
            ("transport=dev_fuse", MountSettings { transport: Transport::Device, ..default.clone() }),
            ("transport=io_uring", MountSettings { transport: Transport::Ring, ..default.clone() }),
            ("gc=background", default.clone()),
            ("gc=manual", MountSettings { manual_gc: true, ..default.clone() }),
            ("policy=declining-cost", default.clone()),
            ("policy=greedy", MountSettings { policy: gc::Policy::Greedy, ..default.clone() }),
            ("policy=default,placement=default", default.clone()),
            ("placement=adaptive", MountSettings { placement: "adaptive".into(), ..default.clone() }),
            (
                "policy=cost-benefit,placement=separate",
                MountSettings { placement: "separate".into(), policy: gc::Policy::CostBenefit, ..default.clone() },
            ),
            ("policy=fifo,policy=default", default.clone()),
            (
                "policy=greedy,placement=adaptive",
                MountSettings { placement: "adaptive".into(), policy: gc::Policy::Greedy, ..default.clone() },
            ),
            ("cache_size=64M", MountSettings { cache_size: 64 << 20, ..default.clone() }),
            ("cache_size=1G", MountSettings { cache_size: 1 << 30, ..default.clone() }),
            ("verify_copies=off", default.clone()),
            ("verify_copies=sampled", MountSettings { verify: VerifyMode::Sampled, ..default.clone() }),
            ("verify_copies=full", MountSettings { verify: VerifyMode::Full, ..default.clone() }),
            ("commit=30", MountSettings { commit_seconds: 30, ..default.clone() }),
            ("discard", MountSettings { discard: true, ..default.clone() }),
            ("noatime", MountSettings { atimes: AtimeMode::None.into(), ..default.clone() }),
            ("noatime,relatime", default.clone()),
            ("strictatime", MountSettings { atimes: AtimeMode::Strict.into(), ..default.clone() }),
            ("strictatime,nodiratime", MountSettings { atimes: Atimes { mode: AtimeMode::Strict, directories: false }, ..default.clone() }),
            ("nosymfollow", MountSettings { no_sym_follow: true, ..default.clone() }),
            ("nonempty", MountSettings { nonempty: true, ..default.clone() }),
            ("nosuid,nodev,noexec", MountSettings { no_suid: true, no_dev: true, no_exec: true, ..default.clone() }),
            ("user", MountSettings { no_suid: true, no_dev: true, no_exec: true, ..default.clone() }),
            ("user,exec", MountSettings { no_suid: true, no_dev: true, ..default.clone() }),
            ("device=/dev/b,device=/dev/c", MountSettings { devices: vec!["/dev/b".into(), "/dev/c".into()], ..default.clone() }),
        ];
        for (options, expected) in table {
            assert_eq!(parse(options), Ok(expected), "{options}");
        }
    }

    #[test]
    fn later_strings_win() {
        let settings = MountSettings::parse(["ro,commit=1", "rw", "commit=2"]).unwrap();
        assert_eq!(settings, MountSettings { commit_seconds: 2, ..MountSettings::default() });
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_a_reason() {
        for (options, part) in [
            ("bogus", "unknown mount option \"bogus\""),
            ("bogus=1", "unknown mount option \"bogus\""),
            ("ro=1", "takes no value"),
            ("commit", "needs a value"),
            ("copy_route=fast", "choose one of auto, offload, host"),
            ("offload_below=lvm", "choose dm, md or both"),
            ("offload_below", "needs a value"),
            ("md", "unknown mount option"),
            ("device_model=fast", "choose one of none, zns-tlc, zns-slc, smr"),
            ("gc=never", "choose one of background, manual"),
            ("verify_copies=maybe", "choose one of off, sampled, full"),
            ("policy=best", "no cleaning policy"),
            ("placement=best", "choose one of default, none, separate, hot-warm-cold, dac, sepbit, midas, adaptive"),
            (
                "placement=oracle",
                "simulator (ferryfs-bench wa) only: choose one of default, none, separate, hot-warm-cold, dac, sepbit, midas, adaptive",
            ),
            ("cache_size=big", "is not a size"),
            ("cache_size=1K", "at least 4M"),
            ("commit=0", "from 1 to 3600"),
            ("commit=-1", "from 1 to 3600"),
            ("commit=4000", "from 1 to 3600"),
            ("sync", "not supported"),
            ("mand", "not supported"),
            ("device=", "needs a value"),
            ("copy_profile=", "needs a value"),
            ("copy_profile", "needs a value"),
        ] {
            let error = parse(options).expect_err(options).to_string();
            assert!(error.contains(part), "{options}: {error}");
        }
    }
}
