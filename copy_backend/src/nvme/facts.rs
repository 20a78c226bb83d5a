//! What is known of an open namespace, and what a pair of them can do.

use super::carve::Limits;
use super::command::{Format, MOST_BLOCKS, MOST_RANGES, Protection};
use super::identify::{self, Controller, IDENTIFY_BYTES, Namespace};
use super::wire::{AdminCommand, Answer, Wire};
use crate::backend::NoRoad;
use std::io;
use std::sync::Arc;
use zns::NvmeStatus;

const IDENTIFY: u8 = 0x06;
const GET_FEATURES: u8 = 0x0a;
const SET_FEATURES: u8 = 0x09;
const HOST_BEHAVIOR: u32 = 0x16;
const HOST_BEHAVIOR_BYTES: usize = 512;
/// CDFE within the Host Behavior Support data.
const CDFE: usize = 4;

/// Most bytes that one command is given, whatever the device takes: a zone waits for it, and so does whoever wants to unmount.
pub const MOST_BYTES: u64 = 16 << 20;

/// An open namespace.
pub struct Open {
    /// The kernel's name.
    pub name: String,
    /// The way to it.
    pub wire: Arc<dyn Wire>,
    /// Its id.
    pub nsid: u32,
    /// The controller it was reached by.
    pub controller: Controller,
    /// Itself.
    pub namespace: Namespace,
    /// End-to-end protection.
    pub protection: Option<Protection>,
}

/// An answer in words.
pub fn say(answer: Answer) -> String {
    match answer {
        Answer::Kernel { errno } => format!("{}", io::Error::from_raw_os_error(errno)),
        Answer::Device { status, .. } => format!("{}", NvmeStatus(status & 0x7ff)),
    }
}

fn is_success(answer: Answer) -> bool {
    matches!(answer, Answer::Device { status: 0, .. })
}

fn identify(wire: &dyn Wire, nsid: u32, cns: u32) -> Result<Vec<u8>, String> {
    let mut data = vec![0; IDENTIFY_BYTES];
    match wire.admin(AdminCommand { opcode: IDENTIFY, nsid, cdw10: cns, cdw11: 0 }, &mut data) {
        answer if is_success(answer) => Ok(data),
        answer => Err(format!("Identify (CNS {cns}) failed: {}", say(answer))),
    }
}

impl Open {
    /// Asks a namespace and its controller what they are.
    ///
    /// # Errors
    /// Why it cannot be used for Copy, in words.
    pub fn ask(name: &str, wire: Arc<dyn Wire>) -> Result<Self, NoRoad> {
        let about = |reason: String| NoRoad::from(format!("{name}: {reason}"));
        let nsid = wire.nsid().map_err(about)?;
        let controller = Controller::parse(&identify(&*wire, 0, 1).map_err(about)?).map_err(about)?;
        if !controller.copy {
            return Err(about("its controller does not have the Copy command".into()));
        }
        let data = identify(&*wire, nsid, 0).map_err(about)?;
        let namespace = Namespace::parse(&data).map_err(about)?;
        if namespace.max_range == 0 || namespace.max_command == 0 {
            let lie = about("it advertises Copy with limits of zero: it takes none".into());
            tracing::warn!("{}", lie.reason);
            return Err(lie);
        }
        let protection = protection_of(&*wire, nsid, &namespace, &data).map_err(about)?;
        Ok(Self { name: name.to_owned(), wire, nsid, controller, namespace, protection })
    }

    /// One namespace, or of one subsystem?
    fn is(&self, other: &Self) -> bool {
        self.nsid == other.nsid && self.controller.subsystem == other.controller.subsystem
    }

    /// Makes sure that a format across namespaces may be used: by Host Behavior Support, which a host sets once.
    fn enable(&self, format: Format) -> Result<(), String> {
        let bit = 1u16 << format.number();
        let feature = |opcode| AdminCommand { opcode, nsid: 0, cdw10: HOST_BEHAVIOR, cdw11: 0 };
        let mut data = vec![0; HOST_BEHAVIOR_BYTES];
        let enabled = |data: &[u8]| u16::from_le_bytes([data[CDFE], data[CDFE + 1]]);
        let got = self.wire.admin(feature(GET_FEATURES), &mut data);
        if is_success(got) && enabled(&data) & bit != 0 {
            return Ok(());
        }
        if !is_success(got) {
            return Err(format!("Host Behavior Support cannot be read: {}", say(got)));
        }
        let wanted = (enabled(&data) | (self.controller.formats & 0xc)).to_le_bytes();
        data[CDFE..CDFE + 2].copy_from_slice(&wanted);
        match self.wire.admin(feature(SET_FEATURES), &mut data) {
            answer if is_success(answer) => Ok(()),
            Answer::Kernel { errno: libc::EACCES | libc::EPERM } => {
                Err("descriptor formats across namespaces must be enabled by Host Behavior Support, and this kernel does not let programs \
                 set it (Linux 7.2 and later refuse even root; before, root may)"
                    .into())
            }
            answer => Err(format!("descriptor formats across namespaces cannot be enabled by Host Behavior Support: {}", say(answer))),
        }
    }
}

fn protection_of(wire: &dyn Wire, nsid: u32, namespace: &Namespace, data: &[u8]) -> Result<Option<Protection>, String> {
    match (namespace.protection, namespace.metadata) {
        (0, 0) => Ok(None),
        (0, bytes) => {
            Err(format!("each of its blocks has {bytes} bytes of metadata that are no protection information: nobody moves them along"))
        }
        (kind, bytes) => {
            // Where the extended data do not exist there is only one kind of guard.
            let extended = identify(wire, nsid, 5);
            let guard =
                extended.map_or(Ok(super::command::Guard::Bits16), |extended| identify::guard(&extended, identify::flbas(data)?))?;
            if bytes != guard.bytes() {
                return Err(format!("its metadata of {bytes} bytes hold more than protection information: nobody moves the rest along"));
            }
            Ok(Some(Protection { kind, guard }))
        }
    }
}

/// What commands from some namespaces to some others are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ability {
    /// Of the source range entries.
    pub format: Format,
    /// Of each command.
    pub limits: Limits,
    /// Of all namespaces.
    pub protection: Option<Protection>,
}

/// What is possible from any of `from` to any of `to`.
///
/// # Errors
/// Why nothing is, in words.
pub fn ability(from: &[Arc<Open>], to: &[Arc<Open>]) -> Result<Ability, String> {
    let all = || from.iter().chain(to);
    let (Some(first), Some(target)) = (from.first(), to.first()) else { return Err("there is no namespace".into()) };
    let across = all().any(|open| !open.is(target));
    let wide = target.protection.is_some_and(|protection| protection.guard != super::command::Guard::Bits16);
    let format = Format { wide, across };
    for open in all() {
        if open.controller.subsystem != target.controller.subsystem {
            return Err(format!("{} and {} are in different NVMe subsystems: no Copy leads from one to the other", open.name, target.name));
        }
        if (open.namespace.block_size, open.protection) != (target.namespace.block_size, target.protection) {
            return Err(format!("{} and {} differ in block size or protection information", open.name, target.name));
        }
    }
    if !target.controller.offers(format.number()) {
        let formats = target.controller.formats;
        return Err(format!("the controller of {} does not offer descriptor format {} (OCFS {formats:#x})", target.name, format.number()));
    }
    if across {
        to.iter().try_for_each(|open| open.enable(format)).map_err(|reason| format!("{} to {}: {reason}", first.name, target.name))?;
    }
    let least = |limit: &dyn Fn(&Namespace) -> u64| all().map(|open| limit(&open.namespace)).min().unwrap_or(0);
    let block_size = u64::from(target.namespace.block_size);
    let command_blocks = least(&|namespace| namespace.max_command.into()).min((MOST_BYTES / block_size).max(1));
    let limits = Limits {
        block_size,
        range_blocks: least(&|namespace| namespace.max_range.into()).min(MOST_BLOCKS).min(command_blocks),
        command_blocks,
        ranges: (least(&|namespace| namespace.max_ranges.into()) as u32).min(MOST_RANGES),
        across,
    };
    Ok(Ability { format, limits, protection: target.protection })
}
