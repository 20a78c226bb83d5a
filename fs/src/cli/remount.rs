//! `-o remount`: other flags for a mount that is there.
//!
//! What the kernel enforces (read-only, nosuid and their like) it is told; what the daemon does by itself (access times) the daemon is told. Everything else
//! is decided when a volume is mounted, and stays: an option for it is refused, unless it says what is so already, for mount(8) hands over all that fstab(5)
//! has.

use super::client::Client;
use super::failure::{CommandResult, Failure, MOUNT_FAILED, MOUNT_USAGE, OrFail};
use super::options::{MountSettings, OptionError};
use super::umount;
use crate::fuse::control::Request;
use crate::fuse::mountpoint::{self, MountLine, MountType};
use crate::fuse::{MountRequest, Transport};
use crate::volume::{AtimeMode, Atimes, Status};
use rustix::io::Errno;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;

/// Options that the kernel shows of a mount, or that say how it was made: nothing to change.
const SHOWN: [&str; 10] = ["user_id", "group_id", "rootmode", "fd", "max_read", "blksize", "subtype", "fuse_type", "transport", "device"];

/// Is that what these options ask for?
pub fn is_asked_for(options: &[String]) -> bool {
    words(options).iter().any(|word| word == "remount")
}

/// Remounts what is mounted at `path`. Flags that are not named stay as they are.
///
/// # Errors
/// Nothing of ours there, an option that only a new mount can have, a volume that is in use or cannot be written to.
pub fn remount(path: &Path, options: &[String]) -> CommandResult {
    // The flags that keep set-id programs and devices out are root's to change, even if this program was given rights of its own.
    if !(rustix::process::getuid().is_root() && rustix::process::geteuid().is_root()) {
        return Err(Failure::new(MOUNT_FAILED, format!("remount {}: only root may do so", path.display())));
    }
    let (path, line) = umount::find(path)?;
    let client = Client::open(&path).or_fail(MOUNT_FAILED)?;
    if !is_root_of(client.file(), &line) {
        return Err(Failure::new(MOUNT_FAILED, format!("remount {}: something else is there by now", path.display())));
    }
    let status = client.ask(Request::Status).or_fail(MOUNT_FAILED)?;
    let status: Status = serde_json::from_value(status).or_fail(MOUNT_FAILED)?;
    let mut running = running(&status.volume.options, &line).or_fail(MOUNT_FAILED)?;
    let played = status.volume.devices.iter().find_map(|device| device.device_model.parse().ok());
    running.device_model = played.unwrap_or_default();
    let wanted = wanted(&running, &words(options), &line)?;
    if !wanted.read_only && status.volume.mounted_read_only {
        let reason = status.volume.read_only_reason.map_or_else(|| "it was mounted so".into(), |reason| format!("for {reason}"));
        let text = format!("{} is read-only, {reason}: unmount it, and mount it again to write", path.display());
        return Err(Failure::new(MOUNT_FAILED, text));
    }
    let has_failed = wanted.read_only && !settle(&client, &path)?;
    let request = MountRequest {
        // By what was opened: whoever owns a directory above could put another mount in its place meanwhile.
        mountpoint: format!("/proc/self/fd/{}", client.file().as_raw_fd()).into(),
        read_only: wanted.read_only,
        no_suid: wanted.no_suid,
        no_dev: wanted.no_dev,
        no_exec: wanted.no_exec,
        no_sym_follow: wanted.no_sym_follow,
        atimes: wanted.atimes,
        ..MountRequest::default()
    };
    mountpoint::remount(&request).map_err(|errno| {
        let text = match errno {
            Errno::BUSY => "a file in it is open for writing, or removed and still in use".into(),
            Errno::PERM => "only root may do so".into(),
            errno => std::io::Error::from(errno).to_string(),
        };
        Failure::new(MOUNT_FAILED, format!("remount {}: {text}", path.display()))
    })?;
    // What is read-only is not changed by reading it either.
    let atimes = if wanted.read_only { Atimes { mode: AtimeMode::None, ..wanted.atimes } } else { wanted.atimes };
    client.ask(Request::Atimes(atimes)).or_fail(MOUNT_FAILED)?;
    if wanted.read_only && !has_failed {
        settle(&client, &path)?;
    }
    Ok(())
}

/// Makes everything durable. A volume that has failed, and is read-only for that, is as durable as it will ever be: that is no reason not to remount it read-only.
/// `false`: so it is.
fn settle(client: &Client, path: &Path) -> CommandResult<bool> {
    let Err(error) = client.ask(Request::Sync) else { return Ok(true) };
    let status = client.ask(Request::Status).ok().and_then(|status| serde_json::from_value::<Status>(status).ok());
    let Some(reason) = status.and_then(|status| status.volume.read_only_reason) else { return Err(error).or_fail(MOUNT_FAILED) };
    eprintln!("ferryfs: {} has failed and takes no changes any more ({reason}): what was not durable before is lost", path.display());
    Ok(false)
}

/// Was this opened in the mount of this line?
fn is_root_of(file: &File, line: &MountLine) -> bool {
    let device = |stat: rustix::fs::Stat| format!("{}:{}", rustix::fs::major(stat.st_dev), rustix::fs::minor(stat.st_dev));
    rustix::fs::fstat(file).is_ok_and(|stat| device(stat) == line.device)
}

/// Single options; the list of layers has commas of its own.
fn words(options: &[String]) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    for word in options.iter().flat_map(|string| string.split(',')).filter(|word| !word.is_empty()) {
        match out.last_mut() {
            Some(last) if last.starts_with("offload_below=") && matches!(word, "dm" | "md") => {
                last.push(',');
                last.push_str(word);
            }
            _ => out.push(word.to_owned()),
        }
    }
    out
}

/// As the mount is now: `own`, the options that the daemon goes by, and the flags that the kernel shows.
fn running(own: &[String], line: &MountLine) -> Result<MountSettings, OptionError> {
    let mut running = MountSettings::parse(own.iter().map(String::as_str).chain([line.options.as_str()]))?;
    let filesystem = line.filesystem_options.split(',');
    running.read_only |= filesystem.clone().any(|word| word == "ro");
    running.allow_other = filesystem.clone().any(|word| word == "allow_other");
    // The kernel has no word for it.
    if !line.options.split(',').any(|word| matches!(word, "noatime" | "relatime")) {
        running.atimes.mode = AtimeMode::Strict;
    }
    Ok(running)
}

/// What the mount is to be.
fn wanted(running: &MountSettings, words: &[String], line: &MountLine) -> CommandResult<MountSettings> {
    let mut wanted = running.clone();
    for word in words.iter().filter(|word| *word != "remount" && !is_shown(word)) {
        wanted.add(word).or_fail(MOUNT_USAGE)?;
        if decided(&wanted) != decided(running) {
            let text = format!("{word} needs a new mount: unmount {}, and mount it again with this option", line.path.display());
            return Err(Failure::new(MOUNT_USAGE, text));
        }
    }
    Ok(wanted)
}

fn is_shown(word: &str) -> bool {
    word.split_once('=').is_some_and(|(name, _)| SHOWN.contains(&name))
}

/// What was decided when the volume was mounted.
fn decided(settings: &MountSettings) -> MountSettings {
    MountSettings {
        read_only: false,
        no_suid: false,
        no_dev: false,
        no_exec: false,
        no_sym_follow: false,
        atimes: Atimes::default(),
        nonempty: false,
        fuse_type: MountType::default(),
        transport: Transport::default(),
        devices: Vec::new(),
        copy_profile: settings.copy_profile.as_ref().map(|path| std::path::absolute(path).unwrap_or_else(|_| path.clone())),
        ..settings.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::MountOptions;

    fn line(options: &str, filesystem_options: &str) -> MountLine {
        MountLine {
            device: "0:40".into(),
            path: "/mnt".into(),
            kind: "fuse.ferryfs".into(),
            source: "/dev/x".into(),
            options: options.into(),
            filesystem_options: filesystem_options.into(),
        }
    }

    #[test]
    fn the_options_of_a_volume_are_those_that_it_was_mounted_with() {
        let running = running(&MountOptions::default().words(), &line("rw,relatime", "rw,user_id=0,group_id=0")).unwrap();
        assert_eq!(running, MountSettings::default());
        let given =
            MountSettings::parse(["offload_below=dm,md,verify_copies=full,copy_route=host,gc=manual,policy=cost-benefit,commit=7,discard"]);
        let given = given.unwrap();
        let options = super::super::mount::options_of(&given, None);
        assert_eq!(MountSettings::parse(options.words().iter().map(String::as_str)).unwrap(), given);
    }

    #[test]
    fn flags_change_and_what_is_not_named_stays() {
        let line = line("rw,nosuid,nodev,noatime", "rw,allow_other");
        let running = running(&MountOptions::default().words(), &line).unwrap();
        assert!(running.no_suid && running.no_dev && running.allow_other && running.atimes.mode == AtimeMode::None);
        let ask = |options: &str| wanted(&running, &words(&[options.to_owned()]), &line).map_err(|failure| failure.text);
        let same = ask(
            "remount,user_id=0,group_id=0,default_permissions,allow_other,max_read=262144,commit=5,fuse_type=fuse,transport=dev_fuse,device=/dev/y",
        );
        assert_eq!(same, Ok(running.clone()));
        for same in ["policy=default,placement=default", "policy=declining-cost,placement=adaptive"] {
            assert_eq!(ask(&format!("remount,{same}")), Ok(running.clone()), "what it is by default may be named");
        }
        let changed = ask("remount,ro,dev,noexec,strictatime,nosymfollow").unwrap();
        assert!(changed.read_only && changed.no_suid && !changed.no_dev && changed.no_exec && changed.no_sym_follow);
        assert_eq!(changed.atimes.mode, AtimeMode::Strict);
        for option in ["commit=6", "policy=greedy", "placement=separate", "offload_below=dm,md", "copy_profile=p", "gc=manual", "discard"] {
            assert!(ask(&format!("remount,{option}")).unwrap_err().contains(&format!("{option} needs a new mount")), "{option}");
        }
        assert!(ask("remount,bogus").unwrap_err().contains("unknown mount option"));
        assert!(is_asked_for(&["ro".into(), "x,remount".into()]) && !is_asked_for(&["ro,x-remount".into()]));
    }

    #[test]
    fn strict_access_times_are_known_by_the_missing_word() {
        let mode = |options| running(&MountOptions::default().words(), &line(options, "rw")).unwrap().atimes.mode;
        assert_eq!((mode("rw"), mode("rw,relatime"), mode("rw,noatime")), (AtimeMode::Strict, AtimeMode::Relatime, AtimeMode::None));
    }
}
