//! NVMe over fabrics within a guest: Linux's own target makes a drive of a block device (without Copy, whatever lies below) or passes a real one
//! through, and Linux's host reaches it again, by loop or by TCP. A guest ends with its test, so nothing is taken down.

use super::stacks::{appears, call, found, load};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

const CONFIG: &str = "/sys/kernel/config/nvmet";
/// The drive that is made of a block device.
const NAME: &str = "plain";

/// Makes a drive of a block device, reached by loop; gives the block device of its one namespace.
///
/// # Panics
/// The kernel refuses, or no namespace appears.
pub fn plain_drive(backing: &Path) -> PathBuf {
    ["nvmet", "nvme_loop"].iter().for_each(|module| load(module, &[]));
    let subsystem = PathBuf::from(format!("{CONFIG}/subsystems/{NAME}"));
    let namespace = subsystem.join("namespaces/1");
    fs::create_dir_all(&namespace).unwrap_or_else(|error| panic!("{}: {error}", namespace.display()));
    set(&subsystem.join("attr_allow_any_host"), "1");
    set(&namespace.join("device_path"), &backing.display().to_string());
    set(&namespace.join("enable"), "1");
    let port = PathBuf::from(format!("{CONFIG}/ports/1"));
    fs::create_dir_all(&port).unwrap_or_else(|error| panic!("{}: {error}", port.display()));
    set(&port.join("addr_trtype"), "loop");
    symlink(&subsystem, port.join("subsystems").join(NAME)).unwrap_or_else(|error| panic!("the port: {error}"));
    set(Path::new("/dev/nvme-fabrics"), &format!("transport=loop,nqn={NAME}"));
    let ours = |controller: &Path| fs::read_to_string(controller.join("subsysnqn")).unwrap_or_default().trim() == NAME;
    let controller = found(&format!("the drive {NAME}"), || {
        fs::read_dir("/sys/class/nvme").ok()?.flatten().find(|entry| ours(&entry.path())).map(|entry| entry.file_name())
    });
    let device = Path::new("/dev").join(format!("{}n1", controller.to_string_lossy()));
    appears(&device);
    device
}

/// How the host reaches the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// By function calls.
    Loop,
    /// By TCP over the loopback interface.
    Tcp,
}

impl Transport {
    fn name(self) -> &'static str {
        match self {
            Transport::Loop => "loop",
            Transport::Tcp => "tcp",
        }
    }
}

/// Passes the drive of `namespace` through and connects to it; gives its first namespace as it is seen over the fabric.
///
/// # Panics
/// The kernel refuses.
pub fn connect(transport: Transport, namespace: &Path) -> PathBuf {
    let name = transport.name();
    load("nvmet", &[]);
    match transport {
        Transport::Loop => load("nvme_loop", &[]),
        Transport::Tcp => {
            load("nvmet_tcp", &[]);
            load("nvme_tcp", &[]);
            call("busybox", ["ifconfig", "lo", "127.0.0.1", "up"]);
        }
    }
    let subsystem = PathBuf::from(format!("{CONFIG}/subsystems/ferryfs-{name}"));
    fs::create_dir(&subsystem).unwrap_or_else(|error| panic!("{}: {error}", subsystem.display()));
    set(&subsystem.join("attr_allow_any_host"), "1");
    set(&subsystem.join("passthru/device_path"), &controller_of(namespace));
    set(&subsystem.join("passthru/enable"), "1");
    let port = PathBuf::from(format!("{CONFIG}/ports/{}", transport as u8 + 2));
    fs::create_dir(&port).unwrap_or_else(|error| panic!("{}: {error}", port.display()));
    set(&port.join("addr_trtype"), name);
    let mut options = format!("transport={name},nqn=ferryfs-{name}");
    if transport == Transport::Tcp {
        for (attribute, value) in [("addr_adrfam", "ipv4"), ("addr_traddr", "127.0.0.1"), ("addr_trsvcid", "4420")] {
            set(&port.join(attribute), value);
        }
        options += ",traddr=127.0.0.1,trsvcid=4420";
    }
    let link = port.join(format!("subsystems/ferryfs-{name}"));
    symlink(&subsystem, &link).unwrap_or_else(|error| panic!("{}: {error}", link.display()));
    let instance = ask_for(&options);
    let device = PathBuf::from(format!("/dev/nvme{instance}n1"));
    appears(&device);
    let through = fs::read_to_string(format!("/sys/class/nvme/nvme{instance}/transport")).unwrap_or_default();
    assert_eq!(through.trim(), name, "{} is reached in another way", device.display());
    device
}

/// The character device of a namespace's controller.
fn controller_of(namespace: &Path) -> String {
    let device = namespace.canonicalize().expect("the namespace");
    let path = device.display().to_string();
    path.rsplit_once('n').map(|(controller, _)| controller.to_owned()).expect("a namespace of a controller")
}

/// Has the host connect; gives the number of the new controller.
fn ask_for(options: &str) -> u32 {
    let mut fabrics = File::options().read(true).write(true).open("/dev/nvme-fabrics").expect("/dev/nvme-fabrics");
    fabrics.write_all(options.as_bytes()).unwrap_or_else(|error| panic!("{options}: {error}"));
    let mut said = [0; 256];
    let len = fabrics.read(&mut said).expect("the number of the controller");
    let said = String::from_utf8_lossy(&said[..len]);
    let number = said.split(',').find_map(|word| word.trim().strip_prefix("instance=")?.parse().ok());
    number.unwrap_or_else(|| panic!("which controller is {said}?"))
}

fn set(path: &Path, value: &str) {
    fs::write(path, value).unwrap_or_else(|error| panic!("{} = {value}: {error}", path.display()));
}
