//! A guest: what it has, booting it for one command, and how that ended.

use crate::boot_image;
use crate::devices::{self, Device, escaped};
use crate::kernel::{self, Kernel, Unpacked};
use crate::process::Emulator;
use crate::program;
use anyhow::{Context, Result, bail, ensure};
use harness::Outcome;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const START: &str = include_str!("start.sh");
/// A guest that dies before its command began is booted again, so often in all.
const ATTEMPTS: u32 = 3;
/// A guest that runs longer hangs, however slow or busy the machine is.
const DEADLINE: Duration = Duration::from_secs(1800);
/// How much of what the guest's kernel said is shown when a run fails.
const CONSOLE_LINES: usize = 60;
/// Directories of the guest's own, which hide those of the host.
const HIDDEN: &[&str] = &["/dev", "/proc", "/sys", "/run/guest", "/run/guest-tmp"];

/// Where the guest finds its writable directory in memory: on a file system that takes O_DIRECT and holes.
pub const SCRATCH: &str = "/run/guest-tmp";

/// A directory that the guest shares with the host for the time of the run: what is written there survives a reset.
pub const NOTES: &str = "/run/guest";

/// A guest to be.
#[derive(Clone, Debug)]
pub struct Machine {
    kernel: Kernel,
    memory_mib: u32,
    devices: Vec<Device>,
    shared: Vec<PathBuf>,
    environment: Vec<(OsString, OsString)>,
    resets: u32,
    deadline: Duration,
    images: Option<PathBuf>,
    copies_may_fail: bool,
}

/// How a run went: what the command came to, and what the kernel said.
#[derive(Clone, Debug)]
pub struct Run {
    /// The command's end; its output is of all boots together.
    pub outcome: Outcome,
    /// The guest's console.
    pub console: String,
    /// How often it booted.
    pub boots: u32,
}

impl Run {
    /// The last of what the kernel said, for a test that failed.
    pub fn console_tail(&self) -> String {
        tail(&self.console)
    }
}

impl Machine {
    /// A guest without devices, of 1.5 GiB.
    pub fn new(kernel: Kernel) -> Machine {
        Machine {
            kernel,
            memory_mib: 1536,
            devices: Vec::new(),
            shared: Vec::new(),
            environment: Vec::new(),
            resets: 0,
            deadline: DEADLINE,
            images: None,
            copies_may_fail: true,
        }
    }

    /// The directory in which the run's own directory is made, with the images of its devices; else that for temporary files.
    pub fn images_in(mut self, directory: &Path) -> Machine {
        self.images = Some(directory.to_path_buf());
        self
    }

    /// No Copy of an NVMe drive will fail in this run: then QEMU needs no protection from a bug of its own, which costs half the speed of its Copy
    /// (memory is filled when it is taken and when it is given back).
    pub fn no_copy_fails(mut self) -> Machine {
        self.copies_may_fail = false;
        self
    }

    /// Adds a device.
    pub fn device(mut self, device: impl Into<Device>) -> Machine {
        self.devices.push(device.into());
        self
    }

    /// Memory in MiB.
    pub fn memory(mut self, mib: u32) -> Machine {
        self.memory_mib = mib;
        self
    }

    /// A directory of the host that the guest may write, under the same path.
    pub fn share(mut self, directory: &Path) -> Machine {
        self.shared.push(directory.to_path_buf());
        self
    }

    /// A variable in the command's environment.
    pub fn variable(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Machine {
        self.environment.push((name.as_ref().into(), value.as_ref().into()));
        self
    }

    /// The guest may reset itself so often: its devices keep what they hold, and the command runs again from its beginning. Which boot it is, from 1 on, is
    /// the value of [`program::INSIDE`].
    pub fn resets(mut self, count: u32) -> Machine {
        self.resets = count;
        self
    }

    /// All of the run may take so long.
    pub fn deadline(mut self, deadline: Duration) -> Machine {
        self.deadline = deadline;
        self
    }

    /// The kernel that it runs.
    pub fn kernel(&self) -> Kernel {
        self.kernel
    }

    /// Boots and runs one command, a path with its arguments. An error means that it never began; what went wrong later is in the outcome.
    ///
    /// # Errors
    /// Something is missing on the host, or QEMU or the guest failed before the command began.
    pub fn run<S: AsRef<OsStr>>(&self, command: &[S]) -> Result<Run> {
        let unpacked = kernel::provide(self.kernel, &|doing| eprintln!("{doing}"))?;
        let program = Path::new(command.first().context("a command has a program")?);
        if let Some(hidden) = HIDDEN.iter().find(|hidden| program.starts_with(hidden)) {
            bail!("{} lies in {hidden}, which a guest has of its own: build elsewhere", program.display());
        }
        for attempt in 1.. {
            let mut directory = tempfile::Builder::new();
            let directory = directory.prefix("ferryfs-guest-");
            let directory = self.images.as_ref().map_or_else(|| directory.tempdir(), |parent| directory.tempdir_in(parent))?;
            let attempt_made = Attempt { machine: self, kernel: &unpacked, directory: directory.path() }.make(command)?;
            match attempt_made {
                Some(run) => return Ok(run),
                None if attempt < ATTEMPTS => eprintln!("the guest died before its command began; again"),
                None => {
                    let console = read(&directory.path().join("console"));
                    let said = read(&directory.path().join("qemu"));
                    bail!("the guest died {ATTEMPTS} times before its command began\n{}\n{}", said.trim_end(), tail(&console));
                }
            }
        }
        unreachable!("the loop ends by returning")
    }
}

/// One boot, in a directory of its own.
struct Attempt<'a> {
    machine: &'a Machine,
    kernel: &'a Unpacked,
    directory: &'a Path,
}

impl Attempt<'_> {
    /// `None` when the guest died before the command began.
    fn make<S: AsRef<OsStr>>(&self, command: &[S]) -> Result<Option<Run>> {
        let at = |name: &str| self.directory.join(name);
        self.lay_out(command)?;
        let started = Instant::now();
        let mut emulator = Emulator::start(self.emulator()?, File::create(at("qemu"))?)?;
        let ended = emulator.wait(self.machine.deadline)?;
        drop(emulator);
        let boots = read(&at("boots")).trim().parse().unwrap_or(0);
        if boots == 0 && ended.is_some() {
            return Ok(None);
        }
        let code = read(&at("status")).trim().parse().ok();
        let mut stderr = read(&at("err"));
        if code.is_none() {
            let how = match ended {
                Some(status) => format!("the guest died under the command; QEMU ended with {status}"),
                None => format!("the guest was killed after {} s", self.machine.deadline.as_secs()),
            };
            stderr.push_str(&format!("\n{how}\n{}", read(&at("qemu")).trim_end()));
        }
        let shown = command.iter().map(|word| word.as_ref().to_string_lossy()).collect::<Vec<_>>().join(" ");
        let outcome = Outcome {
            command: shown,
            code,
            signal: None,
            timed_out: ended.is_none(),
            stdout: read(&at("out")),
            stderr,
            seconds: started.elapsed().as_secs_f64(),
        };
        Ok(Some(Run { outcome, console: read(&at("console")), boots }))
    }

    /// Writes what the guest reads, and the empty images of its devices.
    fn lay_out<S: AsRef<OsStr>>(&self, command: &[S]) -> Result<()> {
        let machine = self.machine;
        let write =
            |name: &str, contents: &[u8]| std::fs::write(self.directory.join(name), contents).with_context(|| format!("writing {name}"));
        let busybox = program::find("busybox").context("busybox is missing (package busybox-static)")?;
        let mut modules = boot_image::MODULES.to_vec();
        modules.extend(machine.devices.iter().flat_map(Device::modules));
        let modules = self.kernel.module_list()?.to_load(&modules);
        write("boot", &boot_image::build(&busybox, &modules)?)?;
        write("start", START.as_bytes())?;
        write("release", format!("{}\n", self.kernel.release).as_bytes())?;
        write("disks", format!("{}\n", machine.devices.len()).as_bytes())?;
        write("boots-allowed", format!("{}\n", machine.resets + 1).as_bytes())?;
        write("command", &self.script(command))?;
        for (index, device) in machine.devices.iter().enumerate() {
            File::create(self.image(index))?.set_len(device.size())?;
        }
        Ok(())
    }

    fn image(&self, index: usize) -> PathBuf {
        self.directory.join(format!("image{index}"))
    }

    /// The command as a shell script: shared directories, environment, working directory, program.
    fn script<S: AsRef<OsStr>>(&self, command: &[S]) -> Vec<u8> {
        let mut script = Vec::new();
        let mut line = |words: &[&OsStr]| {
            for word in words {
                script.extend(quoted(word));
                script.push(b' ');
            }
            script.push(b'\n');
        };
        let busybox = OsString::from(format!("{SCRATCH}/busybox"));
        for (index, directory) in self.machine.shared.iter().enumerate() {
            let tag = OsString::from(format!("share{index}"));
            let options = OsStr::new("rw,trans=virtio,version=9p2000.L,msize=512000,cache=none");
            line(&[&busybox, OsStr::new("mkdir"), OsStr::new("-p"), directory.as_os_str()]);
            line(&[&busybox, "mount".as_ref(), "-t".as_ref(), "9p".as_ref(), "-o".as_ref(), options, &tag, directory.as_os_str()]);
        }
        let defaults = [("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"), ("HOME", SCRATCH), ("TMPDIR", SCRATCH)];
        let defaults = defaults.map(|(name, value)| (OsString::from(name), OsString::from(value)));
        for (name, value) in defaults.iter().chain(&self.machine.environment) {
            let mut assignment = name.clone();
            assignment.push("=");
            assignment.push(value);
            line(&["export".as_ref(), &assignment]);
        }
        if let Ok(directory) = std::env::current_dir() {
            line(&["cd".as_ref(), directory.as_os_str()]);
        }
        let words: Vec<&OsStr> = command.iter().map(AsRef::as_ref).collect();
        line(&words);
        script
    }

    fn emulator(&self) -> Result<Command> {
        let machine = self.machine;
        let at = |name: &str| self.directory.join(name);
        let program = program::find("qemu-system-x86_64").context("qemu-system-x86_64 is missing (package qemu-system-x86)")?;
        let mut command = Command::new(program);
        // hw/nvme of QEMU 10.0 and 11.1 leaves the accounting of a failing Copy in memory that it never initialised, and aborts when it finds nonsense there.
        // glibc can hand out zeroed memory only: its fill byte is inverted for allocations, and the per-thread cache would pass it by.
        if machine.copies_may_fail {
            command.env("GLIBC_TUNABLES", "glibc.malloc.perturb=255:glibc.malloc.tcache_count=0");
        }
        command.args(["-nodefaults", "-no-user-config", "-display", "none", "-machine", "q35,hpet=off,i8042=off,vmport=off"]);
        command.args(["-accel", "tcg,thread=multi,tb-size=512", "-cpu", "max", "-smp", "1", "-m", &format!("{}M", machine.memory_mib)]);
        if machine.resets > 0 {
            command.args(["-action", "reboot=reset"]);
        } else {
            command.arg("-no-reboot");
        }
        command.arg("-kernel").arg(self.kernel.image()).arg("-initrd").arg(at("boot")).args(["-append", COMMAND_LINE]);
        command.arg("-serial").arg(format!("file:{}", at("console").display()));
        command.args(["-device", "isa-debug-exit,iobase=0xf4,iosize=0x4", "-device", "virtio-serial-pci"]);
        for name in ["out", "err"] {
            command.arg("-chardev").arg(format!("file,id={name},path={}", escaped(&at(name))));
            command.arg("-device").arg(format!("virtserialport,chardev={name},name={name}"));
        }
        let mut share = |tag: &str, path: &Path, access: &str| {
            ensure!(path.is_dir(), "{} is no directory to share with a guest", path.display());
            command.arg("-fsdev").arg(format!("local,id={tag},path={},security_model=none,multidevs=remap{access}", escaped(path)));
            command.arg("-device").arg(format!("virtio-9p-pci,fsdev={tag},mount_tag={tag}"));
            Ok(())
        };
        share("host", Path::new("/"), ",readonly=on")?;
        share("modules", &self.kernel.modules(), ",readonly=on")?;
        share("run", self.directory, "")?;
        for (index, directory) in machine.shared.iter().enumerate() {
            share(&format!("share{index}"), directory, "")?;
        }
        command.args(devices::arguments(&machine.devices, |index| self.image(index)));
        Ok(command)
    }
}

/// Nothing that takes time without being looked at: no mitigations, no tests of ciphers, no waiting for entropy. A panic ends the guest.
const COMMAND_LINE: &str = "console=ttyS0 rdinit=/init quiet loglevel=4 panic=-1 nokaslr mitigations=off tsc=reliable no_timer_check clocksource=tsc \
                            random.trust_cpu=on cryptomgr.notests=1 audit=0 selinux=0 apparmor=0 lsm= nvme_core.multipath=N iommu=off \
                            rcupdate.rcu_expedited=1 nohz=off";

/// A word as the shell takes it literally.
fn quoted(word: &OsStr) -> Vec<u8> {
    let mut text = vec![b'\''];
    for &byte in word.as_bytes() {
        if byte == b'\'' {
            text.extend(b"'\\''");
        } else {
            text.push(byte);
        }
    }
    text.push(b'\'');
    text
}

fn tail(console: &str) -> String {
    let lines: Vec<&str> = console.lines().collect();
    lines[lines.len().saturating_sub(CONSOLE_LINES)..].join("\n")
}

fn read(path: &Path) -> String {
    std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_reach_the_shell_as_they_are() {
        assert_eq!(quoted(OsStr::new("it's $HOME")), b"'it'\\''s $HOME'");
        let lines: String = (0..100).map(|n| format!("{n}\n")).collect();
        assert!(tail(&lines).starts_with("40\n") && tail("one") == "one");
    }

    #[test]
    fn a_program_that_a_guest_cannot_see_is_refused() {
        // Before anything is started; where nothing is prepared, the reason is another one.
        assert!(Machine::new(Kernel::Long6_12).run(&["/proc/self/exe"]).is_err());
    }
}
