//! A directory exported by Linux's own file server, and mounted again over TCP on the same machine. What mountd answers the kernel on a usual server (who
//! may, and which path a handle begins in) we write into the same channels beforehand, for good.

use super::rpc;
use super::stacks::load;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const CONTROL: &str = "/proc/fs/nfsd";
const CACHES: &str = "/proc/net/rpc";
/// Whoever calls from this machine.
const CLIENTS: &str = "everybody";
/// In seconds since 1970: later than any guest is.
const NEVER: &str = "4102444800";
/// Bits of `NFSEXP_`, as mountd writes them: ports above 1023 may call, no check of the path, `fsid=` is given. Root is root, and answers come when things are done (`sync`).
const FLAGS: u32 = 0x2 | 0x400 | 0x2000;

/// How a client speaks to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// NFSv3: handles alone, no state at the server.
    V3,
    /// NFSv4.2: opens, locks, copies by the server, holes.
    V4_2,
}

/// The server.
#[derive(Debug)]
pub struct Server {
    path: PathBuf,
    mountd: Arc<rpc::Server>,
}

impl Server {
    /// Exports `path`, a mount point, with `fsid=0`.
    ///
    /// # Panics
    /// The kernel refuses.
    pub fn start(path: &Path) -> Server {
        ["nfsd", "nfsv3", "nfsv4"].iter().for_each(|module| load(module, &[]));
        mount("nfsd", CONTROL, "nfsd", MountFlags::empty(), None).unwrap_or_else(|error| panic!("{CONTROL}: {error}"));
        allow(path);
        let mountd = rpc::Server::start(root_handle(path)).unwrap_or_else(|error| panic!("{error:#}"));
        set(&control("versions"), "+3 +4 +4.1 +4.2");
        // The least there is: so long after each start clients of the server before may claim what they had, and others wait with what they open. (The grace cannot
        // be ended sooner where nobody keeps a list of clients.)
        for name in ["nfsv4leasetime", "nfsv4gracetime"] {
            set(&control(name), "10");
        }
        let server = Server { path: path.to_path_buf(), mountd };
        server.serve();
        server
    }

    fn serve(&self) {
        set(&control("portlist"), "tcp 2049");
        set(&control("threads"), "4");
    }

    /// Stops serving and lets go of the mount, so that it can be unmounted.
    pub fn stop(&self) {
        set(&control("threads"), "0");
        for cache in ["nfsd.fh", "nfsd.export", "auth.unix.ip"] {
            set(&Path::new(CACHES).join(cache).join("flush"), "1");
        }
    }

    /// Serves what is mounted there now.
    pub fn start_again(&self) {
        allow(&self.path);
        self.serve();
    }

    /// Mounts it at `point`, which is made. `options` come besides those without which there is no mount.
    ///
    /// # Panics
    /// The kernel refuses.
    pub fn mount(&self, version: Version, point: &Path, options: &str) -> Client {
        fs::create_dir_all(point).unwrap_or_else(|error| panic!("{}: {error}", point.display()));
        let (kind, source, own) = match version {
            Version::V3 => {
                let own = format!("vers=3,nolock,mountproto=tcp,mountvers=3,mountaddr=127.0.0.1,mountport={}", rpc::PORT);
                ("nfs", format!("127.0.0.1:{}", self.path.display()), own)
            }
            Version::V4_2 => ("nfs4", "127.0.0.1:/".to_owned(), "vers=4.2,clientaddr=127.0.0.1".to_owned()),
        };
        let options = CString::new(format!("{own},addr=127.0.0.1,port=2049,proto=tcp,sec=sys{options}")).expect("options");
        let asked = self.mountd.mounts();
        mount(source.as_str(), point, kind, MountFlags::empty(), Some(options.as_c_str()))
            .unwrap_or_else(|error| panic!("{source} at {} as {kind} with {options:?}: {error}", point.display()));
        assert_eq!(self.mountd.mounts() - asked, u32::from(version == Version::V3), "how the client came by the handle of the root");
        let mounts = fs::read_to_string("/proc/mounts").expect("/proc/mounts");
        let line = mounts.lines().find(|line| line.split(' ').nth(1) == point.to_str()).expect("it is mounted");
        let spoken = if version == Version::V3 { "vers=3," } else { "vers=4.2," };
        assert!(line.contains(spoken), "{line}");
        Client { point: point.to_path_buf() }
    }
}

/// A mount of what is served.
#[derive(Debug)]
pub struct Client {
    point: PathBuf,
}

impl Client {
    /// A path in it.
    pub fn path(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.point.join(relative)
    }

    /// Unmounts it.
    ///
    /// # Panics
    /// It is in use.
    pub fn umount(self) {
        unmount(&self.point, UnmountFlags::empty()).unwrap_or_else(|error| panic!("{}: {error}", self.point.display()));
    }
}

/// Tells the kernel that every caller from this machine may have `path`, and that handles with `fsid=0` begin there.
fn allow(path: &Path) {
    let path = path.to_str().filter(|path| !path.contains([' ', '\\', '\n'])).expect("a path of plain letters");
    let channel = |cache: &str, line: &str| set(&Path::new(CACHES).join(cache).join("channel"), line);
    channel("auth.unix.ip", &format!("nfsd 127.0.0.1 {NEVER} {CLIENTS}"));
    channel("nfsd.export", &format!("{CLIENTS} {path} {NEVER} {FLAGS} 65534 65534 0"));
    // Kind 1 of a name for a filesystem: the number that `fsid=` gave.
    channel("nfsd.fh", &format!("{CLIENTS} 1 \\x00000000 {NEVER} {path}"));
}

/// The handle of the root, as mountd gives it to clients.
fn root_handle(path: &Path) -> Vec<u8> {
    let name = control("filehandle");
    let mut file = File::options().read(true).write(true).open(&name).unwrap_or_else(|error| panic!("{}: {error}", name.display()));
    // In one call: each one is a question of its own.
    file.write_all(format!("{CLIENTS} {} 64\n", path.display()).as_bytes()).expect("asking for a handle");
    let mut said = String::new();
    file.read_to_string(&mut said).expect("a handle");
    let digits = said.trim().trim_start_matches("\\x");
    let bytes = (0..digits.len() / 2).map(|n| u8::from_str_radix(&digits[2 * n..2 * n + 2], 16));
    bytes.collect::<Result<_, _>>().unwrap_or_else(|error| panic!("{said}: {error}"))
}

fn control(name: &str) -> PathBuf {
    Path::new(CONTROL).join(name)
}

/// Writes a line, in one call.
fn set(path: &Path, value: &str) {
    fs::write(path, format!("{value}\n")).unwrap_or_else(|error| panic!("{} = {value}: {error}", path.display()));
}

/// Has the kernel forget all names, inodes and pages that nobody uses, the server's as well as the client's.
pub fn forget_all() {
    rustix::fs::sync();
    set(Path::new("/proc/sys/vm/drop_caches"), "3");
}
