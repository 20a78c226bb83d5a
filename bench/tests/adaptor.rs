//! The FUSE adaptor over a naive filesystem, through a real mount: what the kernel sees is what POSIX says.
//!
//! Skipped, with a word, where this user cannot mount.

use bench::ceiling::Ceiling;
use fs::fuse::control::{CALL, FETCH, FETCH_BYTES, Header, Hello, Request};
use fs::fuse::{AdaptorOptions, MountRequest, Mounted, Served};
use fs::volume::{Attr, Caller, DirEntry, RenameFlags, SetAttr, StatFs, WriteOptions};
use std::ffi::CString;
use std::fs::{File, FileTimes, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, UNIX_EPOCH};

struct Mount<S: Served = Ceiling> {
    mounted: Option<Mounted>,
    directory: tempfile::TempDir,
    served: Arc<S>,
}

impl Mount {
    fn new() -> Option<Self> {
        Self::serving(Ceiling::default())
    }
}

impl<S: Served> Mount<S> {
    fn serving(served: S) -> Option<Self> {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let served = Arc::new(served);
        let request = MountRequest {
            mountpoint: directory.path().canonicalize().expect("it exists"),
            source: "ceiling".into(),
            allow_other: rustix::process::geteuid().is_root(),
            ..MountRequest::default()
        };
        match Mounted::start(served.clone(), &request, AdaptorOptions::default()) {
            Ok(mounted) => Some(Self { mounted: Some(mounted), directory, served }),
            Err(error) => {
                eprintln!("skipped: {error}");
                None
            }
        }
    }
    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

impl<S: Served> Drop for Mount<S> {
    fn drop(&mut self) {
        if let Some(mounted) = self.mounted.take() {
            mounted.unmount(true).expect("unmounting works");
            mounted.wait().expect("the session ends well");
        }
    }
}

fn errno<T>(result: std::io::Result<T>) -> i32 {
    result.err().and_then(|error| error.raw_os_error()).unwrap_or(0)
}

fn c(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).expect("no zero byte")
}

#[test]
fn files_directories_links_and_nodes() {
    let Some(mount) = Mount::new() else { return };
    std::fs::write(mount.path("file"), b"hello").unwrap();
    assert_eq!(std::fs::read(mount.path("file")).unwrap(), b"hello");
    assert_eq!(errno(std::fs::metadata(mount.path("absent"))), libc::ENOENT);
    std::fs::write(mount.path("absent"), b"now").unwrap();
    assert_eq!(std::fs::metadata(mount.path("absent")).unwrap().len(), 3, "the kernel forgets that a name was absent");
    assert_eq!(errno(std::fs::metadata(mount.path(&"n".repeat(256)))), libc::ENAMETOOLONG);
    std::fs::write(mount.path(&"n".repeat(255)), b"").unwrap();

    std::fs::create_dir(mount.path("dir")).unwrap();
    assert_eq!(std::fs::metadata(mount.directory.path()).unwrap().nlink(), 3);
    assert_eq!(errno(std::fs::remove_file(mount.path("dir"))), libc::EISDIR);
    assert_eq!(errno(std::fs::remove_dir(mount.path("file"))), libc::ENOTDIR);
    std::fs::write(mount.path("dir/inner"), b"").unwrap();
    assert_eq!(errno(std::fs::remove_dir(mount.path("dir"))), libc::ENOTEMPTY);

    symlink("dir/inner", mount.path("link")).unwrap();
    assert_eq!(std::fs::read_link(mount.path("link")).unwrap(), Path::new("dir/inner"));
    std::fs::hard_link(mount.path("file"), mount.path("second")).unwrap();
    assert_eq!(std::fs::metadata(mount.path("file")).unwrap().nlink(), 2);
    std::fs::remove_file(mount.path("file")).unwrap();
    assert_eq!(std::fs::metadata(mount.path("second")).unwrap().nlink(), 1);

    let fifo = c(&mount.path("fifo"));
    // SAFETY: a valid path that ends with a zero byte.
    assert_eq!(unsafe { libc::mkfifo(fifo.as_ptr(), 0o600) }, 0);
    assert!(std::fs::metadata(mount.path("fifo")).unwrap().file_type().is_fifo());
    std::os::unix::net::UnixListener::bind(mount.path("socket")).unwrap();
    assert!(std::fs::metadata(mount.path("socket")).unwrap().file_type().is_socket());
    if rustix::process::geteuid().is_root() {
        let device = c(&mount.path("device"));
        // SAFETY: as above.
        assert_eq!(unsafe { libc::mknod(device.as_ptr(), libc::S_IFCHR | 0o600, libc::makedev(1, 300)) }, 0);
        assert_eq!(std::fs::metadata(mount.path("device")).unwrap().rdev(), libc::makedev(1, 300));
    }
}

#[test]
fn renames_with_every_flag() {
    let Some(mount) = Mount::new() else { return };
    let rename = |from: &str, to: &str, flags: libc::c_uint| {
        let (from, to) = (c(&mount.path(from)), c(&mount.path(to)));
        // SAFETY: valid paths that end with a zero byte.
        let done = unsafe { libc::renameat2(libc::AT_FDCWD, from.as_ptr(), libc::AT_FDCWD, to.as_ptr(), flags) };
        if done == 0 { 0 } else { std::io::Error::last_os_error().raw_os_error().unwrap_or(0) }
    };
    std::fs::write(mount.path("a"), b"a").unwrap();
    std::fs::write(mount.path("b"), b"b").unwrap();
    std::fs::create_dir(mount.path("d")).unwrap();
    assert_eq!(rename("a", "b", libc::RENAME_NOREPLACE), libc::EEXIST);
    assert_eq!(rename("a", "d", libc::RENAME_EXCHANGE), 0);
    assert!(std::fs::metadata(mount.path("a")).unwrap().is_dir());
    assert_eq!(std::fs::read(mount.path("d")).unwrap(), b"a");
    assert_eq!(rename("d", "b", 0), 0);
    assert_eq!(std::fs::read(mount.path("b")).unwrap(), b"a");
    assert_eq!(rename("d", "x", 0), libc::ENOENT);
    std::fs::create_dir(mount.path("a/below")).unwrap();
    assert_eq!(rename("a", "a/below/a", 0), libc::EINVAL);
}

#[test]
fn reading_writing_holes_and_space() {
    let Some(mount) = Mount::new() else { return };
    let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(mount.path("f")).unwrap();
    let pattern: Vec<u8> = (0..3_000_000u32).map(|i| (i * 7 % 251) as u8).collect();
    file.write_all(&pattern).unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    let mut back = Vec::new();
    file.read_to_end(&mut back).unwrap();
    assert_eq!(back, pattern);

    file.set_len(10).unwrap();
    file.set_len(20).unwrap();
    let mut tail = [1; 10];
    file.read_exact_at(&mut tail, 10).unwrap();
    assert_eq!(tail, [0; 10], "a file that grew again reads as zeros");

    file.write_all_at(b"far", 8 << 20).unwrap();
    // SAFETY: a valid descriptor.
    assert_eq!(unsafe { libc::lseek(file.as_raw_fd(), 1 << 20, libc::SEEK_DATA) }, 8 << 20);
    // SAFETY: as above.
    assert_eq!(unsafe { libc::lseek(file.as_raw_fd(), 0, libc::SEEK_HOLE) }, 256 << 10);
    // SAFETY: as above.
    assert_eq!(unsafe { libc::lseek(file.as_raw_fd(), 1 << 30, libc::SEEK_DATA) }, -1);
    // SAFETY: as above.
    assert_eq!(unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, 10 << 20) }, 0);
    assert_eq!(file.metadata().unwrap().len(), 10 << 20);
    // SAFETY: as above.
    assert_eq!(unsafe { libc::fallocate(file.as_raw_fd(), libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, 8 << 20, 4096) }, 0);
    let mut punched = [1; 3];
    file.read_exact_at(&mut punched, 8 << 20).unwrap();
    assert_eq!(punched, [0; 3], "a punched hole reads as zeros, also from the page cache");
}

#[test]
fn copies_are_seen_through_the_page_cache() {
    let Some(mount) = Mount::new() else { return };
    let pattern: Vec<u8> = (0..1_000_000u32).map(|i| (i % 253) as u8).collect();
    std::fs::write(mount.path("from"), &pattern).unwrap();
    std::fs::write(mount.path("to"), vec![9; 500_000]).unwrap();
    assert_eq!(std::fs::read(mount.path("to")).unwrap().len(), 500_000);
    let (from, to) = (File::open(mount.path("from")).unwrap(), OpenOptions::new().write(true).open(mount.path("to")).unwrap());
    let mut done = 0;
    while done < pattern.len() {
        // SAFETY: valid descriptors; the offsets are the files' own.
        let n = unsafe {
            libc::copy_file_range(from.as_raw_fd(), std::ptr::null_mut(), to.as_raw_fd(), std::ptr::null_mut(), pattern.len() - done, 0)
        };
        assert!(n > 0, "{}", std::io::Error::last_os_error());
        done += n as usize;
    }
    assert_eq!(std::fs::read(mount.path("to")).unwrap(), pattern);
    assert_eq!(to.metadata().unwrap().len(), 1_000_000);
}

#[test]
fn a_file_lives_on_after_its_last_name_is_gone() {
    let Some(mount) = Mount::new() else { return };
    let mut file = OpenOptions::new().read(true).write(true).create_new(true).open(mount.path("gone")).unwrap();
    file.write_all(b"still here").unwrap();
    std::fs::remove_file(mount.path("gone")).unwrap();
    assert_eq!(file.metadata().unwrap().nlink(), 0);
    let mut back = [0; 10];
    file.read_exact_at(&mut back, 0).unwrap();
    assert_eq!(&back, b"still here");
    assert_eq!(errno(std::fs::metadata(mount.path("gone"))), libc::ENOENT);
}

#[test]
fn times_before_1970_and_to_the_nanosecond() {
    let Some(mount) = Mount::new() else { return };
    std::fs::write(mount.path("old"), b"").unwrap();
    let file = OpenOptions::new().write(true).open(mount.path("old")).unwrap();
    for time in [
        UNIX_EPOCH - Duration::new(1, 250_000_001),
        UNIX_EPOCH - Duration::new(86_400, 0),
        UNIX_EPOCH + Duration::new(1 << 33, 999_999_999),
    ] {
        file.set_times(FileTimes::new().set_modified(time).set_accessed(time)).unwrap();
        let metadata = std::fs::metadata(mount.path("old")).unwrap();
        assert_eq!(metadata.modified().unwrap(), time);
        assert_eq!(metadata.accessed().unwrap(), time);
    }
}

#[test]
fn modes_owners_and_set_id_bits() {
    let Some(mount) = Mount::new() else { return };
    std::fs::write(mount.path("program"), b"x").unwrap();
    std::fs::set_permissions(mount.path("program"), PermissionsExt::from_mode(0o6755)).unwrap();
    assert_eq!(std::fs::metadata(mount.path("program")).unwrap().mode() & 0o7777, 0o6755);
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(mount.path("program"), Some(7), Some(8)).unwrap();
        let metadata = std::fs::metadata(mount.path("program")).unwrap();
        assert_eq!((metadata.uid(), metadata.gid()), (7, 8));
        assert_eq!(metadata.mode() & 0o7777, 0o755, "a change of owner clears the set-id bits");
    }
}

#[test]
fn programs_lose_their_set_id_bits_when_others_change_them() {
    let Some(mount) = Mount::new() else { return };
    if !rustix::process::geteuid().is_root() {
        return;
    }
    std::fs::write(mount.path("source"), vec![7; 8192]).unwrap();
    let program = mount.path("program");
    let fresh = || {
        std::fs::write(&program, vec![1; 8192]).unwrap();
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o6777)).unwrap();
        // What the kernel knows and has in memory is what it must forget.
        assert_eq!(std::fs::metadata(&program).unwrap().mode() & 0o7777, 0o6777);
    };
    let mode = || std::fs::metadata(&program).unwrap().mode() & 0o7777;
    let nobody = |script: &str| {
        use std::os::unix::process::CommandExt;
        let done = std::process::Command::new("sh")
            .args(["-ec", script])
            .current_dir(mount.directory.path())
            .uid(65534)
            .gid(65534)
            .status()
            .unwrap();
        assert!(done.success(), "{script}");
    };
    for script in [
        "printf x >> program",
        "printf x 1<> program",
        "dd if=source of=program bs=4096 count=1 conv=notrunc oflag=direct status=none",
        "truncate -s 10 program",
        "truncate -s 100000 program",
        ": > program",
        "fallocate -l 100000 program",
        "cp --reflink=auto source program",
    ] {
        fresh();
        nobody(script);
        assert_eq!(mode(), 0o777, "after: {script}");
        // What is on the filesystem agrees with what the kernel remembers.
        let attr = Served::lookup(&*mount.served, fs::Ino::ROOT, b"program").unwrap();
        assert_eq!(attr.mode & 0o7777, 0o777, "after: {script}");
    }
    fresh();
    OpenOptions::new().append(true).open(&program).unwrap().write_all(b"root may").unwrap();
    assert_eq!(mode(), 0o6777, "root keeps them");
    fresh();
    std::os::unix::fs::chown(&program, Some(65534), None).unwrap();
    assert_eq!(mode(), 0o777);

    // Capabilities of a file go when anybody writes to it.
    let (path, name) = (c(&program), CString::new("security.capability").unwrap());
    let capability: [u8; 20] = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    for _ in 0..2 {
        // SAFETY: pointers to live memory of the given length.
        assert_eq!(unsafe { libc::setxattr(path.as_ptr(), name.as_ptr(), capability.as_ptr().cast(), capability.len(), 0) }, 0);
        let get = || {
            let mut value = [0u8; 64];
            // SAFETY: as above.
            unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) }
        };
        assert_eq!(get(), 20);
        OpenOptions::new().append(true).open(&program).unwrap().write_all(b"x").unwrap();
        assert_eq!(get(), -1);
    }
}

#[test]
fn listings_have_everything_once() {
    let Some(mount) = Mount::new() else { return };
    std::fs::create_dir(mount.path("many")).unwrap();
    let mut expected: Vec<String> = (0..3000).map(|i| format!("entry-{i:05}")).collect();
    for name in &expected {
        std::fs::write(mount.path("many").join(name), b"").unwrap();
    }
    for _ in 0..2 {
        let mut found: Vec<String> =
            std::fs::read_dir(mount.path("many")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        found.sort();
        assert_eq!(found, expected);
    }
    let mut seen = Vec::new();
    for (i, entry) in std::fs::read_dir(mount.path("many")).unwrap().enumerate() {
        let entry = entry.unwrap();
        assert!(entry.metadata().unwrap().is_file());
        if i % 3 == 0 {
            std::fs::remove_file(entry.path()).unwrap();
        }
        seen.push(entry.file_name().into_string().unwrap());
    }
    seen.sort();
    expected.sort();
    assert_eq!(seen, expected, "entries that stay are neither missed nor doubled while others go");
}

#[test]
fn extended_attributes() {
    let Some(mount) = Mount::new() else { return };
    std::fs::write(mount.path("f"), b"").unwrap();
    let path = c(&mount.path("f"));
    let set = |name: &str, value: &[u8], flags| {
        let name = CString::new(name).unwrap();
        // SAFETY: pointers to live memory of the given length.
        let done = unsafe { libc::setxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), flags) };
        if done == 0 { 0 } else { std::io::Error::last_os_error().raw_os_error().unwrap_or(0) }
    };
    let get = |name: &str, size: usize| {
        let name = CString::new(name).unwrap();
        let mut value = vec![0u8; size];
        // SAFETY: as above.
        let n = unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), size) };
        if n < 0 { Err(std::io::Error::last_os_error().raw_os_error().unwrap_or(0)) } else { Ok(n as usize) }
    };
    assert_eq!(set("user.a", b"value", libc::XATTR_REPLACE), libc::ENODATA);
    assert_eq!(set("user.a", b"value", 0), 0);
    assert_eq!(set("user.a", b"value", libc::XATTR_CREATE), libc::EEXIST);
    assert_eq!(get("user.a", 0), Ok(5));
    assert_eq!(get("user.a", 100), Ok(5));
    assert_eq!(get("user.a", 3), Err(libc::ERANGE));
    assert_eq!(get("user.b", 3), Err(libc::ENODATA));
    assert_eq!(set("system.posix_acl_access", b"\x02\0\0\0", 0), libc::EOPNOTSUPP);
}

#[test]
fn locks_are_kept_by_the_kernel() {
    let Some(mount) = Mount::new() else { return };
    let open = || OpenOptions::new().read(true).write(true).create(true).truncate(false).open(mount.path("lock")).unwrap();
    let (first, second) = (open(), open());
    first.lock().unwrap();
    assert!(matches!(second.try_lock(), Err(std::fs::TryLockError::WouldBlock)));
    first.unlock().unwrap();
    second.try_lock().unwrap();
}

#[test]
fn direct_and_synchronous_writes_reach_the_filesystem() {
    let Some(mount) = Mount::new() else { return };
    let file = OpenOptions::new().write(true).create(true).truncate(true).custom_flags(libc::O_DSYNC).open(mount.path("s")).unwrap();
    let before = mount.served.syncs.load(Ordering::Relaxed);
    file.write_all_at(b"durable", 0).unwrap();
    let cost = mount.served.syncs.load(Ordering::Relaxed) - before;
    assert!(cost >= 1);
    file.sync_all().unwrap();
    assert!(mount.served.syncs.load(Ordering::Relaxed) > before + cost);
    File::open(mount.directory.path()).unwrap().sync_all().unwrap();

    let direct =
        OpenOptions::new().read(true).write(true).create(true).truncate(true).custom_flags(libc::O_DIRECT).open(mount.path("d")).unwrap();
    let block = zns::AlignedBuf::from_slice(&[5; 8192]);
    direct.write_all_at(&block, 4096).unwrap();
    let mut back = zns::AlignedBuf::zeroed(8192);
    direct.read_exact_at(&mut back, 4096).unwrap();
    assert_eq!(&back[..], &block[..]);
}

#[test]
fn a_shared_mapping_and_write_see_each_other() {
    let Some(mount) = Mount::new() else { return };
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(mount.path("m")).unwrap();
    file.set_len(8192).unwrap();
    // SAFETY: a fresh mapping of the kernel's choice, unmapped below.
    let map = unsafe { libc::mmap(std::ptr::null_mut(), 8192, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, file.as_raw_fd(), 0) };
    assert_ne!(map, libc::MAP_FAILED);
    // SAFETY: within the mapping.
    unsafe { map.cast::<u8>().add(5000).write_volatile(42) };
    let mut byte = [0];
    file.read_exact_at(&mut byte, 5000).unwrap();
    assert_eq!(byte, [42]);
    file.write_all_at(&[43], 5001).unwrap();
    // SAFETY: within the mapping.
    assert_eq!(unsafe { map.cast::<u8>().add(5001).read_volatile() }, 43);
    // SAFETY: the mapping made above.
    assert_eq!(unsafe { libc::munmap(map, 8192) }, 0);
    file.sync_all().unwrap();
}

fn ioctl(file: &File, command: u32, buffer: &mut [u8]) -> i32 {
    // SAFETY: the command number carries the buffer's size, which is that of `buffer`.
    unsafe { libc::ioctl(file.as_raw_fd(), libc::Ioctl::from(command), buffer.as_mut_ptr()) }
}

#[test]
fn the_control_protocol_answers_in_pieces() {
    let Some(mount) = Mount::new() else { return };
    let root = File::open(mount.directory.path()).unwrap();
    let mut call = Request::Hello.encode();
    assert_eq!(ioctl(&root, CALL, &mut call), 0);
    let header = Header::decode(&call).unwrap();
    let mut piece = [0; FETCH_BYTES];
    let n = ioctl(&root, FETCH, &mut piece) as usize;
    assert_eq!(n as u64, header.len);
    let hello: Hello = serde_json::from_slice(&piece[..n]).unwrap();
    assert_eq!(hello.pid, std::process::id());

    let mut call = Request::Zones.encode();
    assert_eq!(ioctl(&root, CALL, &mut call), 0);
    let header = Header::decode(&call).unwrap();
    let mut answer = Vec::new();
    while (answer.len() as u64) < header.len {
        let mut piece = [0; FETCH_BYTES];
        piece[..8].copy_from_slice(&(answer.len() as u64).to_le_bytes());
        let n = ioctl(&root, FETCH, &mut piece);
        assert!(n > 0);
        answer.extend_from_slice(&piece[..n as usize]);
    }
    assert!(header.len > FETCH_BYTES as u64);
    assert_eq!(serde_json::from_slice::<Vec<u32>>(&answer).unwrap().len(), 5000);

    let mut piece = [0; FETCH_BYTES];
    assert_eq!(ioctl(&File::open(mount.directory.path()).unwrap(), FETCH, &mut piece), -1, "answers belong to the open file that asked");
    let mut nonsense = [b'x'; 1024];
    assert_eq!(ioctl(&root, CALL, &mut nonsense), -1);
}

#[test]
fn a_mount_that_somebody_else_removed_is_over() {
    let Some(mut mount) = Mount::new() else { return };
    let mounted = mount.mounted.take().expect("just mounted");
    let path = mount.directory.path().canonicalize().unwrap();
    fs::fuse::mountpoint::unmount(&path, false).unwrap();
    mounted.unmount(false).expect("there is nothing left to unmount");
    mounted.wait().unwrap();
}

/// A filesystem that panics in every second operation that it can choose.
struct Clumsy(Ceiling);

macro_rules! delegate {
    ($($name:ident(&self $(, $argument:ident: $kind:ty)*) -> $out:ty;)*) => {
        $(fn $name(&self $(, $argument: $kind)*) -> $out { Served::$name(&self.0 $(, $argument)*) })*
    };
}

impl Served for Clumsy {
    type Data = Vec<u8>;
    fn lookup(&self, parent: fs::Ino, name: &[u8]) -> fs::Result<Attr> {
        assert!(name != b"panic", "a panic that the test wants");
        Served::lookup(&self.0, parent, name)
    }
    fn sync(&self) -> fs::Result<()> {
        panic!("a panic that the test wants")
    }
    fn write(&self, _ino: fs::Ino, _offset: u64, _data: &[u8], _options: &WriteOptions) -> fs::Result<usize> {
        Err(fs::FsError::ReadOnly("a device failed".into()))
    }
    fn read(&self, _ino: fs::Ino, _offset: u64, _len: u32) -> fs::Result<Vec<u8>> {
        Err(fs::FsError::DataChecksum { ino: fs::Ino(2), block: 0, addr: fs::Addr::NONE })
    }
    delegate! {
        getattr(&self, ino: fs::Ino) -> fs::Result<Attr>;
        setattr(&self, ino: fs::Ino, change: &SetAttr) -> fs::Result<Attr>;
        readlink(&self, ino: fs::Ino) -> fs::Result<Vec<u8>>;
        mknod(&self, parent: fs::Ino, name: &[u8], mode: u32, rdev: u32, caller: &Caller) -> fs::Result<Attr>;
        mkdir(&self, parent: fs::Ino, name: &[u8], mode: u32, caller: &Caller) -> fs::Result<Attr>;
        symlink(&self, parent: fs::Ino, name: &[u8], target: &[u8], caller: &Caller) -> fs::Result<Attr>;
        link(&self, ino: fs::Ino, parent: fs::Ino, name: &[u8]) -> fs::Result<Attr>;
        unlink(&self, parent: fs::Ino, name: &[u8]) -> fs::Result<()>;
        rmdir(&self, parent: fs::Ino, name: &[u8]) -> fs::Result<()>;
        rename(&self, parent: fs::Ino, name: &[u8], to: fs::Ino, new: &[u8], flags: RenameFlags) -> fs::Result<()>;
        readdir(&self, dir: fs::Ino, cookie: u64, max: usize) -> fs::Result<Vec<DirEntry>>;
        getxattr(&self, ino: fs::Ino, name: &[u8]) -> fs::Result<Vec<u8>>;
        setxattr(&self, ino: fs::Ino, name: &[u8], value: &[u8], flags: i32) -> fs::Result<()>;
        listxattr(&self, ino: fs::Ino) -> fs::Result<Vec<u8>>;
        removexattr(&self, ino: fs::Ino, name: &[u8]) -> fs::Result<()>;
        open(&self, ino: fs::Ino) -> fs::Result<()>;
        release(&self, ino: fs::Ino) -> ();
        forget(&self, ino: fs::Ino) -> ();
        statfs(&self) -> fs::Result<StatFs>;
        flush(&self, ino: fs::Ino) -> fs::Result<()>;
        fallocate(&self, ino: fs::Ino, mode: i32, offset: u64, len: u64) -> fs::Result<()>;
        seek(&self, ino: fs::Ino, offset: u64, whence: i32) -> fs::Result<u64>;
        copy_file_range(&self, from: fs::Ino, at: u64, to: fs::Ino, to_at: u64, len: u64) -> fs::Result<u64>;
        control(&self, ino: fs::Ino, request: &Request) -> fs::Result<serde_json::Value>;
    }
}

#[test]
fn a_panic_is_an_io_error_and_the_mount_lives_on() {
    let Some(mount) = Mount::serving(Clumsy(Ceiling::default())) else { return };
    let file = File::create(mount.path("f")).unwrap();
    // More often than there are threads to lose.
    for _ in 0..40 {
        assert_eq!(errno(std::fs::metadata(mount.path("panic"))), libc::EIO);
        assert_eq!(errno(file.sync_all()), libc::EIO);
    }
    assert_eq!(errno((&file).write_all(b"x")), libc::EROFS);
    file.set_len(4096).unwrap();
    assert_eq!(errno(std::fs::read(mount.path("f"))), libc::EIO);
    assert_eq!(std::fs::metadata(mount.path("f")).unwrap().len(), 4096);
}
