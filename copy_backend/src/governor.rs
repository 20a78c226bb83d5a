//! A word in every command of a copy: whether it may begin yet, or at all.
//!
//! Stopping and pacing happen at command boundaries: what a device has been asked to do is waited for.

/// Asked before each command, told after it. Called by the thread that copies; while it waits, commands in other zones go on.
pub trait Governor: Sync {
    /// May a command of `bytes` bytes begin? Returns when it may, or at once with `false`: the copy ends here.
    fn admit(&self, bytes: u64) -> bool;
    /// Most bytes in a command.
    fn command_bytes(&self) -> u64 {
        u64::MAX
    }
    /// `bytes` more are known to be copied.
    fn copied(&self, _bytes: u64) {}
}

/// Everything, at once.
pub(crate) struct Free;

impl Governor for Free {
    fn admit(&self, _bytes: u64) -> bool {
        true
    }
}
