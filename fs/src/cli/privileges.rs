//! What a daemon may do beyond what its user may: as little as it needs, for it reads images that anybody may have made.
//!
//! Capabilities belong to threads, so this is done before the first one is made that has to do with the volume; the one that makes the mount does it for
//! itself. The user stays the same: root's files remain root's, but
//! programs of others, modules, the network and the clock are out of reach. ARCHITECTURE.md says what each one that is kept is for.

use rustix::io::{Errno, Result};
use rustix::process::geteuid;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};

/// What a daemon keeps of what it has. `block_devices`: it has more to do with them than reading and writing.
fn needed(block_devices: bool) -> CapabilitySet {
    let always = CapabilitySet::SYS_ADMIN | CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH | CapabilitySet::IPC_LOCK;
    if block_devices { always | CapabilitySet::SYS_RAWIO } else { always }
}

/// Gives up what is not needed, for good.
///
/// # Errors
/// The system call that failed.
pub fn give_up(block_devices: bool) -> Result<()> {
    let CapabilitySets { permitted: has, effective, .. } = capabilities(None)?;
    let keeps = has & needed(block_devices);
    // Those go with the others below, too; some sandboxes do not know this call.
    let _ = clear_ambient_capability_set();
    // Whoever can unmount without fusermount3, which is set-uid, runs no other program.
    if keeps.contains(CapabilitySet::SYS_ADMIN) {
        if effective.contains(CapabilitySet::SETPCAP) {
            bound(keeps)?;
        }
        if geteuid().is_root() {
            set_no_new_privs(true)?;
        }
    }
    set_capabilities(None, CapabilitySets { effective: keeps, permitted: keeps, inheritable: CapabilitySet::empty() })
}

/// Nothing that is run from here on gets more than `keeps`, whatever its file says.
fn bound(keeps: CapabilitySet) -> Result<()> {
    for number in 0..u64::BITS {
        let one = CapabilitySet::from_bits_retain(1 << number);
        match capability_is_in_bounding_set(one) {
            Ok(true) if !keeps.contains(one) => remove_capability_from_bounding_set(one)?,
            Ok(_) => {}
            // Beyond the last one that the kernel knows.
            Err(Errno::INVAL) => break,
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}
