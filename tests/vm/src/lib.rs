//! A virtual machine for tests on real drivers: zoned NVMe with Copy, SCSI, device-mapper, md, and kernels that the host does not run.
//!
//! A guest's `/` is the host's `/`, read-only under an overlay in memory, so that programs which were built here run there as they are; its kernel is one
//! of Debian's. There is no KVM in it: QEMU translates, and a boot takes a few seconds. [`Machine`] says what the guest has, [`Machine::run`] boots it, runs
//! one command and tells how that ended. Everything is killed and removed when the call returns, panics or its process dies.
//!
//! Invariants: nothing outside the user's cache directory and the run's own temporary directory is written, save packages that root installs; a guest that
//! ran no command is never taken for one whose command succeeded.

pub mod archive;
pub mod boot_image;
pub mod devices;
pub mod kernel;
pub mod machine;
pub mod module_list;
pub mod process;
pub mod program;
pub mod xfs_tools;

pub use devices::{BadSector, CopyLimits, Device, Namespace};
pub use kernel::Kernel;
pub use machine::{Machine, Run};
pub use program::{Need, inside};

/// Makes everything ready that any guest needs: programs, QEMU and the given kernels. Root installs what is missing; `progress` hears of work that takes a while.
///
/// # Errors
/// What is missing and how to get it.
pub fn prepare(kernels: &[Kernel], progress: &dyn Fn(&str)) -> anyhow::Result<()> {
    for &kernel in kernels {
        kernel::provide(kernel, progress)?;
    }
    Ok(())
}
