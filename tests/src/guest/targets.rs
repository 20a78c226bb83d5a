//! SCSI disks of Linux's own target (LIO), reached through its loopback fabric. A guest ends with its test, so nothing is taken
//! down.

use super::stacks::{self, appears, load};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

const CONFIG: &str = "/sys/kernel/config/target";

/// A disk of the target, over a file.
#[derive(Clone, Copy, Debug)]
pub struct LioDisk {
    /// Its number: each has one of its own.
    pub number: u32,
    /// In MiB.
    pub size: u64,
    /// Bytes in a block.
    pub block: u32,
    /// It does third-party copies.
    pub copies: bool,
}

impl LioDisk {
    /// Makes it; gives the block device.
    ///
    /// # Panics
    /// The kernel refuses, or no disk appears.
    pub fn create(self) -> PathBuf {
        ["target_core_mod", "target_core_file", "tcm_loop", "sd_mod"].iter().for_each(|module| load(module, &[]));
        let name = format!("disk{}", self.number);
        let file = Path::new(guest::machine::SCRATCH).join(format!("lio-{name}"));
        let bytes = self.size << 20;
        fs::File::create(&file).and_then(|file| file.set_len(bytes)).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let core = core(&format!("fileio_{}/{name}", self.number));
        set(&core.join("control"), &format!("fd_dev_name={},fd_dev_size={bytes}", file.display()));
        set(&core.join("wwn/vpd_unit_serial"), &format!("0000000{}-1234-5678-9abc-def012345678", self.number));
        set(&core.join("wwn/product_id"), &name);
        set(&core.join("enable"), "1");
        set(&core.join("attrib/block_size"), &self.block.to_string());
        set(&core.join("attrib/emulate_3pc"), if self.copies { "1" } else { "0" });
        lun(&core, self.number);
        found(&name)
    }
}

/// A place for a disk among those of the target.
pub(super) fn core(name: &str) -> PathBuf {
    let core = PathBuf::from(format!("{CONFIG}/core/{name}"));
    fs::create_dir_all(&core).unwrap_or_else(|error| panic!("{}: {error}", core.display()));
    core
}

/// Shows a disk of the target to ourselves as this logical unit.
pub(super) fn lun(core: &Path, number: u32) {
    // One nexus for all: LIO copies only between disks that the initiator reaches in the same session.
    let port = PathBuf::from(format!("{CONFIG}/loopback/naa.6001405000000001/tpgt_1"));
    if !port.exists() {
        fs::create_dir_all(&port).unwrap_or_else(|error| panic!("{}: {error}", port.display()));
        set(&port.join("nexus"), "naa.6001405100000001");
    }
    let lun = port.join(format!("lun/lun_{number}"));
    fs::create_dir_all(&lun).unwrap_or_else(|error| panic!("{}: {error}", lun.display()));
    symlink(core, lun.join("disk")).unwrap_or_else(|error| panic!("{}: {error}", lun.display()));
}

pub(super) fn set(path: &Path, value: &str) {
    fs::write(path, value).unwrap_or_else(|error| panic!("{} = {value}: {error}", path.display()));
}

/// The SCSI disk of this model.
fn found(model: &str) -> PathBuf {
    disk(&format!("of model {model}"), |entry| fs::read_to_string(entry.join("device/model")).is_ok_and(|said| said.trim() == model))
}

/// The SCSI disk that is logical unit `number` of whatever host.
pub(super) fn found_at(number: u32) -> PathBuf {
    let ending = format!(":{number}");
    disk(&format!("with LUN {number}"), |entry| {
        fs::read_link(entry.join("device")).is_ok_and(|to| to.display().to_string().ends_with(&ending))
    })
}

fn disk(which: &str, is: impl Fn(&Path) -> bool) -> PathBuf {
    let name = stacks::found(&format!("a disk {which}"), || {
        fs::read_dir("/sys/block").ok()?.flatten().find(|entry| is(&entry.path())).map(|entry| entry.file_name())
    });
    let device = Path::new("/dev").join(name);
    appears(&device);
    device
}
