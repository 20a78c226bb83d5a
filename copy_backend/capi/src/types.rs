//! Structures and constants as the header has them.

use copy_backend::{CopyReport, Ending, RangeReport};
use std::ffi::c_char;

macro_rules! constants {
    ($($(#[$doc:meta])* $name:ident: $kind:ty = $value:expr;)*) => {
        $($(#[$doc])* pub const $name: $kind = $value;)*
        /// Every constant with its value, for the test of the header.
        pub const CONSTANTS: &[(&str, i64)] = &[$((stringify!($name), $name as i64)),*];
    };
}

constants! {
    /// The version of this interface.
    FERRYCOPY_ABI: u32 = 2;
    /// Success.
    FERRYCOPY_OK: i32 = 0;
    /// Nothing has ended yet.
    FERRYCOPY_NOTHING: i32 = 1;
    /// A request that makes no sense.
    FERRYCOPY_INVALID: i32 = -1;
    /// A device that cannot be used.
    FERRYCOPY_DEVICE: i32 = -2;
    /// No such copy.
    FERRYCOPY_UNKNOWN: i32 = -3;
    /// A failure inside the library.
    FERRYCOPY_PANIC: i32 = -4;
    /// By the device where it can.
    FERRYCOPY_ROUTE_AUTO: u32 = 0;
    /// By the device or not at all.
    FERRYCOPY_ROUTE_OFFLOAD: u32 = 1;
    /// Through the host.
    FERRYCOPY_ROUTE_HOST: u32 = 2;
    /// No verification.
    FERRYCOPY_VERIFY_OFF: u32 = 0;
    /// One range in sixteen.
    FERRYCOPY_VERIFY_SAMPLED: u32 = 1;
    /// Everything.
    FERRYCOPY_VERIFY_FULL: u32 = 2;
    /// Copies are sent below device-mapper.
    FERRYCOPY_OFFLOAD_BELOW_DM: u32 = 1;
    /// Copies are sent below md.
    FERRYCOPY_OFFLOAD_BELOW_MD: u32 = 2;
    /// Never write to the device.
    FERRYCOPY_READ_ONLY: u32 = 1;
    /// Open it although others use it.
    FERRYCOPY_SHARED: u32 = 2;
    /// Everything is copied.
    FERRYCOPY_DONE: u32 = 0;
    /// It was cancelled.
    FERRYCOPY_STOPPED: u32 = 1;
    /// It failed.
    FERRYCOPY_FAILED: u32 = 2;
}

macro_rules! structures {
    ($($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $kind:ty,)* })*) => {
        $(
            $(#[$doc])*
            #[repr(C)]
            #[derive(Clone, Copy, Debug)]
            pub struct $name { $($(#[$field_doc])* pub $field: $kind,)* }
        )*
        /// Every structure with its size and the offsets of its fields, for the test of the header.
        pub const STRUCTURES: &[(&str, usize, &[(&str, usize)])] = &[
            $((stringify!($name), size_of::<$name>(), &[$((stringify!($field), std::mem::offset_of!($name, $field))),*])),*
        ];
    };
}

structures! {
    /// A device to open.
    ferrycopy_device {
        /// A C string.
        path: *const c_char,
        /// `FERRYCOPY_READ_ONLY`, `FERRYCOPY_SHARED`.
        flags: u32,
        /// 0.
        reserved: u32,
    }
    /// How to copy.
    ferrycopy_options {
        /// `FERRYCOPY_ROUTE_*`.
        route: u32,
        /// `FERRYCOPY_VERIFY_*`.
        verify: u32,
        /// `FERRYCOPY_OFFLOAD_BELOW_*`.
        flags: u32,
        /// 0.
        reserved: u32,
        /// A C string or NULL: the file that `ferrycopy caps --calibrate` wrote.
        profile: *const c_char,
    }
    /// Bytes of a device.
    ferrycopy_range {
        /// In the order of opening, from 0.
        device: u32,
        /// 0.
        reserved: u32,
        /// First byte.
        offset: u64,
        /// Bytes.
        length: u64,
    }
    /// What became of a copy.
    ferrycopy_result {
        /// Known to be copied.
        bytes: u64,
        /// From the first byte on without a gap.
        bytes_in_order: u64,
        /// By a device.
        offloaded: u64,
        /// Through the host.
        host_read: u64,
        /// Through the host.
        host_written: u64,
        /// On all roads.
        commands: u64,
        /// How long it took.
        nanoseconds: u64,
        /// `FERRYCOPY_DONE`, `FERRYCOPY_STOPPED`, `FERRYCOPY_FAILED`.
        ending: u32,
        /// Our own process played the device.
        simulated: u32,
    }
    /// What became of a range.
    ferrycopy_range_result {
        /// Known to be copied.
        bytes: u64,
        /// From its first byte on without a gap.
        bytes_in_order: u64,
    }
    /// A road between two devices.
    ferrycopy_road {
        /// Most bytes in a range.
        max_range_bytes: u64,
        /// Most bytes in a command.
        max_command_bytes: u64,
        /// Most ranges in a command.
        max_ranges: u32,
        /// Our own process plays the device.
        simulated: u32,
        /// Not through the host.
        offload: u32,
        /// A C string.
        name: [c_char; 20],
    }
}

impl From<&CopyReport> for ferrycopy_result {
    fn from(report: &CopyReport) -> Self {
        Self {
            bytes: report.bytes,
            bytes_in_order: report.bytes_in_order,
            offloaded: report.counters.offloaded,
            host_read: report.counters.host_read,
            host_written: report.counters.host_written,
            commands: report.counters.commands,
            nanoseconds: u64::try_from(report.elapsed.as_nanos()).unwrap_or(u64::MAX),
            ending: match report.ending {
                Ending::Done => FERRYCOPY_DONE,
                Ending::Stopped => FERRYCOPY_STOPPED,
                Ending::Failed(_) => FERRYCOPY_FAILED,
            },
            simulated: report.simulated.into(),
        }
    }
}

impl From<&RangeReport> for ferrycopy_range_result {
    fn from(report: &RangeReport) -> Self {
        let bytes_in_order = report.done.first().filter(|(offset, _)| *offset == 0).map_or(0, |(_, bytes)| *bytes);
        Self { bytes: report.bytes, bytes_in_order }
    }
}
