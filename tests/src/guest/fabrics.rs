//! An NVMe drive that Linux's own target makes of a block device, reached by the loopback transport: no Copy, whatever lies below. A guest ends with its
//! test, so nothing is taken down.

use super::stacks::{appears, load};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

const CONFIG: &str = "/sys/kernel/config/nvmet";
const NAME: &str = "plain";

/// Makes it; gives the block device of its one namespace.
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
    for _ in 0..500 {
        for entry in fs::read_dir("/sys/class/nvme").into_iter().flatten().flatten() {
            if fs::read_to_string(entry.path().join("subsysnqn")).unwrap_or_default().trim() == NAME {
                let device = Path::new("/dev").join(format!("{}n1", entry.file_name().to_string_lossy()));
                appears(&device);
                return device;
            }
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    panic!("no drive {NAME} appears");
}

fn set(path: &Path, value: &str) {
    fs::write(path, value).unwrap_or_else(|error| panic!("{} = {value}: {error}", path.display()));
}
