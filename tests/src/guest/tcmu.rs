//! A SCSI target of our own behind the kernel's: LIO hands every command for its disks to this process (TCMU, `target_core_user`), where
//! `scsi_target` carries it out. So a copy goes the whole way, by SG_IO through Linux's SCSI stack and its target, to commands that no target in Linux knows.
//!
//! The ring is the kernel's (`linux/target_core_user.h`, Documentation/target/tcmu-design.rst): a mailbox, a ring of commands, and behind both
//! the data, all in one mapping. This side moves the tail, the kernel the head. A guest ends with its test, so nothing is taken down.

use super::stacks::{appears, found, load};
use super::targets;
use rustix::mm::{MapFlags, ProtFlags, mmap};
use scsi_target::{DiskConfig, Response, Target};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a test does to the target before it carries out a command: disk, CDB.
type Before = dyn FnMut(&mut Target, usize, &[u8]) + Send;

/// The target, for a test to look at and to disturb.
#[derive(Clone)]
pub struct OurTarget {
    shared: Arc<Shared>,
}

struct Shared {
    target: Mutex<Target>,
    before: Mutex<Box<Before>>,
}

impl OurTarget {
    /// Makes these disks; gives the block devices in their order.
    ///
    /// # Panics
    /// The kernel refuses, or no disk appears.
    pub fn create(configs: Vec<DiskConfig>) -> (OurTarget, Vec<PathBuf>) {
        ["target_core_mod", "target_core_user", "tcm_loop", "sd_mod"].iter().for_each(|module| load(module, &[]));
        let target = Mutex::new(Target::new(configs.clone()));
        let ours = OurTarget { shared: Arc::new(Shared { target, before: Mutex::new(Box::new(|_, _, _| ())) }) };
        let paths = configs.iter().enumerate().map(|(disk, config)| ours.attach(disk, config)).collect();
        (ours, paths)
    }

    /// The target itself. No command is carried out while this is held.
    pub fn lock(&self) -> MutexGuard<'_, Target> {
        held(&self.shared.target)
    }

    /// From now on `before` is called before each command.
    pub fn before(&self, before: impl FnMut(&mut Target, usize, &[u8]) + Send + 'static) {
        *held(&self.shared.before) = Box::new(before);
    }

    fn attach(&self, disk: usize, config: &DiskConfig) -> PathBuf {
        let name = format!("own{disk}");
        let bytes = config.blocks * u64::from(config.block_size);
        let core = targets::core(&format!("user_{}/{name}", 40 + disk));
        // Nobody listens on netlink, and nobody need: the device of the ring is found by its name.
        let control = format!(
            "dev_config=ferryfs/{name},dev_size={bytes},hw_block_size={},max_data_area_mb=16,nl_reply_supported=-1",
            config.block_size
        );
        targets::set(&core.join("control"), &control);
        targets::set(&core.join("enable"), "1");
        let ring = Ring::open(&format!("/{name}/ferryfs/{name}"));
        let shared = self.shared.clone();
        std::thread::Builder::new().name(name.clone()).spawn(move || serve(ring, &shared, disk)).expect("a thread");
        targets::lun(&core, 40 + disk as u32);
        targets::found_at(40 + disk as u32)
    }
}

fn held<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn serve(mut ring: Ring, shared: &Shared, disk: usize) {
    loop {
        while let Some(command) = ring.next() {
            let mut target = held(&shared.target);
            held(&shared.before)(&mut target, disk, &command.cdb);
            let response = target.execute(disk, &command.cdb, &command.data);
            drop(target);
            ring.answer(&command, &response);
        }
        ring.wait();
    }
}

const TAIL_AT: usize = 64;
const HEAD_AT: usize = 12;
/// Of `struct tcmu_cmd_entry`, from its beginning.
const FLAGS_AT: usize = 7;
const IOV_COUNT_AT: usize = 8;
const CDB_AT: usize = 24;
const IOV_AT: usize = 48;
const STATUS_AT: usize = 8;
const READ_LEN_AT: usize = 12;
const SENSE_AT: usize = 16;
const SENSE_BYTES: usize = 96;
const UNKNOWN_OP: u8 = 1;
const READ_LEN: u8 = 2;
const OP_PAD: u32 = 0;
const OP_CMD: u32 = 1;

/// The shared memory of one disk, and the file that wakes either side.
struct Ring {
    file: File,
    base: *mut u8,
    len: usize,
    commands: usize,
    commands_len: usize,
}

// SAFETY: the mapping belongs to this one object for as long as the process lives; moving it to another thread moves all access to it.
unsafe impl Send for Ring {}

/// A command, and where its entry lies.
struct Command {
    entry: usize,
    len: usize,
    cdb: Vec<u8>,
    /// What the initiator sent; of a command that reads, whatever is in its buffer.
    data: Vec<u8>,
    /// The pieces of its buffer: where and how long.
    pieces: Vec<(usize, usize)>,
}

impl Ring {
    /// The ring of the device that calls itself this.
    fn open(ending: &str) -> Ring {
        let is_ours = |n: &u32| {
            let name = fs::read_to_string(format!("/sys/class/uio/uio{n}/name")).unwrap_or_default();
            name.trim().ends_with(ending)
        };
        let number = found(&format!("a ring of {ending}"), || (0..64).find(is_ours));
        let path = PathBuf::from(format!("/dev/uio{number}"));
        appears(&path);
        let size = fs::read_to_string(format!("/sys/class/uio/uio{number}/maps/map0/size")).expect("the size of the ring");
        let len = usize::from_str_radix(size.trim().trim_start_matches("0x"), 16).expect("a number");
        let file = File::options().read(true).write(true).open(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        // SAFETY: a new mapping at an address of the kernel's choice; it is never unmapped.
        let base = unsafe { mmap(std::ptr::null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, &file, 0) };
        let base = base.expect("mapping the ring").cast::<u8>();
        let mut ring = Ring { file, base, len, commands: 0, commands_len: 0 };
        assert_eq!(u16::from_le_bytes(ring.bytes(0, 2).try_into().expect("two bytes")), 2, "the version of the mailbox");
        (ring.commands, ring.commands_len) = (ring.word(4) as usize, ring.word(8) as usize);
        ring
    }

    /// Waits until the kernel has something to say.
    fn wait(&mut self) {
        self.file.read_exact(&mut [0; 4]).expect("the kernel wakes us");
    }

    fn check(&self, at: usize, len: usize) {
        assert!(at.checked_add(len).is_some_and(|end| end <= self.len), "{len} bytes at {at} lie outside of the ring");
    }

    fn bytes(&self, at: usize, len: usize) -> Vec<u8> {
        self.check(at, len);
        let mut bytes = vec![0; len];
        // SAFETY: inside the mapping, as was just checked; the kernel does not write what it has handed over until it is answered.
        unsafe { std::ptr::copy_nonoverlapping(self.base.add(at), bytes.as_mut_ptr(), len) };
        bytes
    }

    fn put(&self, at: usize, bytes: &[u8]) {
        self.check(at, bytes.len());
        // SAFETY: inside the mapping, as was just checked; what was handed over is ours until it is answered.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.base.add(at), bytes.len()) };
    }

    fn word(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.bytes(at, 4).try_into().expect("four bytes"))
    }

    fn long(&self, at: usize) -> usize {
        u64::from_le_bytes(self.bytes(at, 8).try_into().expect("eight bytes")) as usize
    }

    fn index(&self, at: usize) -> &AtomicU32 {
        self.check(at, 4);
        // SAFETY: inside the mapping and aligned (it begins at a page); the kernel accesses these words atomically, too.
        unsafe { AtomicU32::from_ptr(self.base.add(at).cast()) }
    }

    fn advance(&self, len: usize) {
        let tail = self.index(TAIL_AT);
        let next = (tail.load(Ordering::Relaxed) as usize + len) % self.commands_len;
        tail.store(next as u32, Ordering::Release);
    }

    /// The next command that was not answered. What is only padding, or about commands of the past, is passed over.
    fn next(&mut self) -> Option<Command> {
        loop {
            let (head, tail) = (self.index(HEAD_AT).load(Ordering::Acquire), self.index(TAIL_AT).load(Ordering::Relaxed));
            if head == tail {
                return None;
            }
            let entry = self.commands + tail as usize;
            let word = self.word(entry);
            let (operation, len) = (word & 7, (word & !7) as usize);
            assert!(len > 0, "an entry of the ring without a length");
            if operation == OP_CMD {
                return Some(self.command(entry, len));
            }
            if operation != OP_PAD {
                self.put(entry + FLAGS_AT, &[UNKNOWN_OP]);
            }
            self.advance(len);
        }
    }

    fn command(&self, entry: usize, len: usize) -> Command {
        let cdb = self.bytes(self.long(entry + CDB_AT), 16);
        let piece = |n| (self.long(entry + IOV_AT + 16 * n), self.long(entry + IOV_AT + 16 * n + 8));
        let pieces: Vec<(usize, usize)> = (0..self.word(entry + IOV_COUNT_AT) as usize).map(piece).collect();
        let data = pieces.iter().map(|&(at, len)| self.bytes(at, len)).collect::<Vec<_>>().concat();
        Command { entry, len, cdb, data, pieces }
    }

    fn answer(&mut self, command: &Command, response: &Response) {
        let mut rest = &response.data[..];
        for &(at, len) in &command.pieces {
            let (now, later) = rest.split_at(len.min(rest.len()));
            self.put(at, now);
            rest = later;
        }
        let entry = command.entry;
        // The answer takes the place of the request.
        self.put(entry + STATUS_AT, &[response.status, 0, 0, 0]);
        self.put(entry + SENSE_AT, &[0; SENSE_BYTES]);
        self.put(entry + SENSE_AT, &response.sense[..response.sense.len().min(SENSE_BYTES)]);
        let read = response.data.len().min(command.data.len());
        if read > 0 && read < command.data.len() {
            self.put(entry + READ_LEN_AT, &(read as u32).to_le_bytes());
            self.put(entry + FLAGS_AT, &[READ_LEN]);
        }
        self.advance(command.len);
        self.file.write_all(&[0; 4]).expect("the kernel is told");
    }
}
