//! The devices of a guest, typed, and what QEMU is told of them. Pure.

use std::fmt::Write;
use std::path::Path;

const MIB: u64 = 1 << 20;

/// NVMe's limits of one Copy command, as the drive announces them. All zero: it announces Copy and refuses every one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyLimits {
    /// Blocks in one source range.
    pub mssrl: u16,
    /// Blocks in one command.
    pub mcl: u32,
    /// Source ranges in one command, less one.
    pub msrc: u8,
}

/// The zones of a namespace, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Zones {
    /// From zone to zone.
    pub size: u64,
    /// What can be written of each.
    pub capacity: u64,
    /// Open at once; 0 for any number.
    pub max_open: u32,
    /// Open or closed at once; 0 for any number.
    pub max_active: u32,
}

/// A sector of a namespace's medium that cannot be read or written. A command that meets it does what comes before, and fails there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadSector {
    /// Where, in bytes.
    pub offset: u64,
    /// It fails when it is written, else when it is read.
    pub written: bool,
    /// It fails once and is good from then on. The kernel repeats a read or write that failed so, unseen; a Copy is not repeated.
    pub once: bool,
}

/// A namespace of an NVMe drive. Namespaces that name the same controller belong to one drive, in the order in which they are given, from 1 on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    controller: String,
    size: u64,
    block: u32,
    zones: Option<Zones>,
    copy: Option<CopyLimits>,
    metadata: u32,
    protection: u32,
    bad: Vec<BadSector>,
}

impl Namespace {
    /// A zoned namespace of 512 MiB in zones of 8 MiB, with blocks of 4096 bytes.
    pub fn zoned(controller: &str) -> Namespace {
        let zones = Zones { size: 8 * MIB, capacity: 8 * MIB, max_open: 0, max_active: 0 };
        Namespace { zones: Some(zones), ..Namespace::conventional(controller) }
    }

    /// A namespace without zones, of 512 MiB, with blocks of 4096 bytes.
    pub fn conventional(controller: &str) -> Namespace {
        let bad = Vec::new();
        Namespace { controller: controller.into(), size: 512 * MIB, block: 4096, zones: None, copy: None, metadata: 0, protection: 0, bad }
    }

    /// Bytes in all.
    pub fn size(mut self, bytes: u64) -> Namespace {
        self.size = bytes;
        self
    }

    /// Bytes in a block: 512 or 4096.
    pub fn block(mut self, bytes: u32) -> Namespace {
        self.block = bytes;
        self
    }

    /// Size and capacity of its zones, in bytes.
    pub fn zones(mut self, size: u64, capacity: u64) -> Namespace {
        let limits = self.zones.unwrap_or(Zones { size, capacity, max_open: 0, max_active: 0 });
        self.zones = Some(Zones { size, capacity, ..limits });
        self
    }

    /// How many zones may be open, and how many open or closed.
    pub fn active(mut self, max_open: u32, max_active: u32) -> Namespace {
        if let Some(zones) = &mut self.zones {
            (zones.max_open, zones.max_active) = (max_open, max_active);
        }
        self
    }

    /// Limits of its Copy command.
    pub fn copy(mut self, mssrl: u16, mcl: u32, msrc: u8) -> Namespace {
        self.copy = Some(CopyLimits { mssrl, mcl, msrc });
        self
    }

    /// Adds sectors that fail.
    pub fn bad(mut self, sectors: impl IntoIterator<Item = BadSector>) -> Namespace {
        self.bad.extend(sectors);
        self
    }

    /// Bytes of metadata with each block (8, or 16 with a guard of 64 bits), and the type of end-to-end protection (0 for none).
    pub fn protection(mut self, metadata: u32, kind: u32) -> Namespace {
        (self.metadata, self.protection) = (metadata, kind);
        self
    }

    fn argument(&self, drive: &str) -> String {
        let mut text =
            format!("nvme-ns,drive={drive},bus={},logical_block_size={b},physical_block_size={b}", self.controller, b = self.block);
        if let Some(zones) = self.zones {
            // Writing to a String cannot fail.
            let _ = write!(text, ",zoned=true,zoned.zone_size={},zoned.zone_capacity={}", zones.size, zones.capacity);
            let _ = write!(text, ",zoned.max_open={},zoned.max_active={}", zones.max_open, zones.max_active);
        }
        if let Some(CopyLimits { mssrl, mcl, msrc }) = self.copy {
            let _ = write!(text, ",mssrl={mssrl},mcl={mcl},msrc={msrc}");
        }
        if self.metadata > 0 {
            let _ = write!(text, ",ms={},pi={}", self.metadata, self.protection);
            if self.metadata == 16 && self.protection > 0 {
                text.push_str(",pif=2");
            }
        }
        text
    }
}

/// A device of the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Device {
    /// A namespace of an NVMe drive: in the guest `/dev/vm/CONTROLLERnNSID`, its character device `/dev/vm/CONTROLLERgNSID`.
    Nvme(Namespace),
    /// A paravirtual disk: the guest's `/dev/vda` and so on.
    VirtioBlock {
        /// Bytes in all.
        size: u64,
        /// Bytes in a block.
        block: u32,
    },
    /// A SCSI disk that QEMU emulates: the guest's `/dev/sda` and so on.
    Scsi {
        /// Bytes in all.
        size: u64,
        /// Bytes in a block.
        block: u32,
    },
}

impl From<Namespace> for Device {
    fn from(namespace: Namespace) -> Device {
        Device::Nvme(namespace)
    }
}

impl Device {
    /// Bytes in all.
    pub fn size(&self) -> u64 {
        match self {
            Device::Nvme(namespace) => {
                // Metadata lies behind the data, in the same file.
                namespace.size + namespace.size / u64::from(namespace.block) * u64::from(namespace.metadata)
            }
            Device::VirtioBlock { size, .. } | Device::Scsi { size, .. } => *size,
        }
    }

    /// Kernel modules that drive it.
    pub fn modules(&self) -> &'static [&'static str] {
        match self {
            Device::Nvme(_) => &["nvme"],
            Device::VirtioBlock { .. } => &["virtio_blk"],
            Device::Scsi { .. } => &["virtio_scsi", "sd_mod"],
        }
    }
}

/// QEMU's arguments for `devices`, whose contents lie in `image(index)`.
pub fn arguments(devices: &[Device], image: impl Fn(usize) -> std::path::PathBuf) -> Vec<String> {
    let mut arguments = Vec::new();
    let mut add = |name: &str, value: String| arguments.extend([name.to_owned(), value]);
    let mut controllers: Vec<&str> = Vec::new();
    let mut scsi_bus = false;
    for (index, device) in devices.iter().enumerate() {
        let drive = format!("drive{index}");
        let medium = medium(device, &escaped(&image(index)));
        // Nothing outlives the run, so the host need not flush.
        add("-drive", format!("id={drive},{medium},if=none,format=raw,cache=unsafe,aio=threads,discard=unmap"));
        let block_sizes = |block: &u32| format!("logical_block_size={block},physical_block_size={block}");
        match device {
            Device::Nvme(namespace) => {
                let name = namespace.controller.as_str();
                if !controllers.contains(&name) {
                    controllers.push(name);
                    add("-device", format!("nvme-subsys,id=subsys-{name},nqn={name}"));
                    add("-device", format!("nvme,id={name},serial={name},subsys=subsys-{name}"));
                }
                add("-device", namespace.argument(&drive));
            }
            Device::VirtioBlock { block, .. } => add("-device", format!("virtio-blk-pci,drive={drive},{}", block_sizes(block))),
            Device::Scsi { block, .. } => {
                if !scsi_bus {
                    scsi_bus = true;
                    add("-device", "virtio-scsi-pci,id=scsi".to_owned());
                }
                add("-device", format!("scsi-hd,drive={drive},bus=scsi.0,{}", block_sizes(block)));
            }
        }
    }
    arguments
}

/// Where a device's bytes lie, and which of them fail.
fn medium(device: &Device, image: &str) -> String {
    let bad = match device {
        Device::Nvme(namespace) => &namespace.bad[..],
        _ => &[],
    };
    if bad.is_empty() {
        return format!("file={image}");
    }
    let mut text = format!("file.driver=blkdebug,file.image.driver=file,file.image.filename={image}");
    for (index, BadSector { offset, written, once }) in bad.iter().enumerate() {
        let rule = format!("file.inject-error.{index}");
        let (kind, once) = (if *written { "write" } else { "read" }, if *once { "on" } else { "off" });
        // Writing to a String cannot fail.
        let _ = write!(text, ",{rule}.event=none,{rule}.iotype={kind},{rule}.sector={},{rule}.once={once}", offset / 512);
    }
    text
}

/// A path as QEMU's comma lists take it.
pub fn escaped(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    #[test]
    fn namespaces_of_one_drive_share_its_controller() {
        let devices: Vec<Device> = vec![
            Namespace::zoned("a").zones(16 * MIB, 12 * MIB).active(6, 8).copy(64, 128, 3).into(),
            Namespace::conventional("a").block(512).protection(8, 1).into(),
            Device::VirtioBlock { size: MIB, block: 512 },
            Device::Scsi { size: MIB, block: 4096 },
            Device::Scsi { size: MIB, block: 512 },
        ];
        let arguments = arguments(&devices, |index| PathBuf::from(format!("/t,mp/{index}")));
        let count = |start: &str| arguments.iter().filter(|argument| argument.starts_with(start)).count();
        assert_eq!((count("nvme-subsys,"), count("nvme,"), count("nvme-ns,"), count("virtio-scsi")), (1, 1, 2, 1));
        assert!(arguments.iter().any(|a| a.contains("file=/t,,mp/0,")), "{arguments:?}");
        let zoned = arguments.iter().find(|a| a.contains("zoned=true")).unwrap();
        for part in ["zone_size=16777216", "zone_capacity=12582912", "max_open=6", "max_active=8", "mssrl=64,mcl=128,msrc=3"] {
            assert!(zoned.contains(part), "{zoned}");
        }
        assert_eq!(devices[1].size(), 512 * MIB + 8 * MIB);
    }

    #[test]
    fn bad_sectors_lie_between_a_drive_and_its_image() {
        let bad = [BadSector { offset: 8192, written: false, once: true }, BadSector { offset: 1024, written: true, once: false }];
        let drive = Namespace::conventional("a").protection(16, 2).bad(bad);
        let arguments = arguments(&[drive.into()], |_| "/image".into());
        let medium = arguments.iter().find(|argument| argument.starts_with("id=drive0,")).unwrap();
        for part in ["file.image.filename=/image", "inject-error.0.iotype=read", "inject-error.0.sector=16,", "inject-error.0.once=on"] {
            assert!(medium.contains(part), "{medium}");
        }
        assert!(medium.contains("inject-error.1.iotype=write,file.inject-error.1.sector=2,file.inject-error.1.once=off"), "{medium}");
        assert!(arguments.iter().any(|argument| argument.contains("ms=16,pi=2,pif=2")), "{arguments:?}");
    }
}
