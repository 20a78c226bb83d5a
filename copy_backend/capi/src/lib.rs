//! The C interface of the copy engine: `include/ferrycopy.h` says what each call does.
//!
//! No panic crosses it ([`guarded`]); pointers that must not be NULL are checked; a test holds the header against the definitions here.

mod types;

pub use types::*;

use copy_backend::topology::OffloadBelow;
use copy_backend::{
    BytePosition, ByteRange, Copier, CopyError, CopyId, CopyReport, Ending, EngineConfig, GivenProfile, Pace, RangeCopy, RouteChoice,
    VerifyMode,
};
use parking_lot::Mutex;
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{CStr, CString, OsStr, c_char};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use zns::raw::{RawOptions, open_raw};
use zns::{DeviceId, ZonedDevice};

/// A copier, and the results that were told of but not taken.
#[expect(non_camel_case_types, reason = "the name in C")]
pub struct ferrycopy {
    copier: Copier,
    devices: Vec<Arc<dyn ZonedDevice>>,
    ended: Mutex<HashMap<u64, copy_backend::Result<CopyReport>>>,
}

/// A failed call: its status and why.
type Failure = (i32, String);

thread_local! {
    static LAST_ERROR: RefCell<CString> = RefCell::default();
}

fn remember(words: &str) {
    let text = CString::new(words.replace('\0', " ")).unwrap_or_default();
    LAST_ERROR.with(|last| *last.borrow_mut() = text);
}

fn invalid(words: impl Into<String>) -> Failure {
    (FERRYCOPY_INVALID, words.into())
}

fn unknown() -> Failure {
    (FERRYCOPY_UNKNOWN, "there is no such copy, or it has ended, or its result was taken".to_owned())
}

fn refused(error: &CopyError) -> Failure {
    let status = if matches!(error, CopyError::Device(_)) { FERRYCOPY_DEVICE } else { FERRYCOPY_INVALID };
    (status, error.to_string())
}

/// Runs a call: its failure becomes a status and words, a panic a status of its own.
fn guarded(call: impl FnOnce() -> Result<i32, Failure>) -> i32 {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(status)) => status,
        Ok(Err((status, words))) => {
            remember(&words);
            status
        }
        Err(_) => {
            remember("a failure inside the library");
            FERRYCOPY_PANIC
        }
    }
}

/// # Safety
/// A pointer that is not NULL points to `T`s, `count` of them, which nobody changes meanwhile.
unsafe fn slice<'a, T>(start: *const T, count: usize, name: &str) -> Result<&'a [T], Failure> {
    if count == 0 {
        return Ok(&[]);
    }
    if start.is_null() {
        return Err(invalid(format!("{name} is NULL")));
    }
    // SAFETY: the caller says so.
    Ok(unsafe { std::slice::from_raw_parts(start, count) })
}

/// # Safety
/// A pointer that is not NULL came from [`ferrycopy_open`] and was not closed.
unsafe fn copier<'a>(copier: *const ferrycopy) -> Result<&'a ferrycopy, Failure> {
    // SAFETY: the caller says so.
    unsafe { copier.as_ref() }.ok_or_else(|| invalid("the copier is NULL"))
}

/// # Safety
/// A pointer that is not NULL points to room for a `T`.
unsafe fn place<T>(room: *mut T, value: T) {
    if !room.is_null() {
        // SAFETY: the caller says so.
        unsafe { room.write(value) };
    }
}

/// Devices that were opened.
fn known(this: &ferrycopy, devices: [u32; 2]) -> Result<[DeviceId; 2], Failure> {
    for device in devices {
        this.devices.get(device as usize).ok_or_else(|| invalid(format!("there is no device {device}")))?;
    }
    Ok([device_id(devices[0])?, device_id(devices[1])?])
}

fn device_id(device: u32) -> Result<DeviceId, Failure> {
    u8::try_from(device).map(DeviceId).map_err(|_| invalid(format!("there is no device {device}")))
}

/// The version of this interface.
#[unsafe(no_mangle)]
pub extern "C" fn ferrycopy_abi() -> u32 {
    FERRYCOPY_ABI
}

/// Opens devices.
///
/// # Safety
/// As the header says: pointers are valid for the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ferrycopy_open(
    devices: *const ferrycopy_device,
    count: usize,
    options: *const ferrycopy_options,
    result: *mut *mut ferrycopy,
) -> i32 {
    guarded(|| {
        if result.is_null() {
            return Err(invalid("copier is NULL"));
        }
        // SAFETY: not NULL, and the caller says that it is valid.
        unsafe { result.write(std::ptr::null_mut()) };
        // SAFETY: as above.
        let named = unsafe { slice(devices, count, "devices") }?;
        if named.is_empty() || named.len() > 256 {
            return Err(invalid(format!("{} devices were named: from 1 to 256 are possible", named.len())));
        }
        // SAFETY: optional, else valid.
        let options = unsafe { options.as_ref() };
        // SAFETY: the string that they name is valid, too.
        let config = options.map_or(Ok(EngineConfig::default()), |options| unsafe { config(options) })?;
        let mut opened = Vec::with_capacity(named.len());
        for device in named {
            if device.path.is_null() {
                return Err(invalid("a path is NULL"));
            }
            // SAFETY: not NULL, and a C string as the caller says.
            let path = unsafe { path(device.path) };
            let options = RawOptions { read_only: device.flags & FERRYCOPY_READ_ONLY != 0, shared: device.flags & FERRYCOPY_SHARED != 0 };
            opened.push(open_raw(path, &options).map_err(|error| (FERRYCOPY_DEVICE, error.to_string()))?);
        }
        let copier = Copier::new(opened.clone(), config).map_err(|error| refused(&error))?;
        let boxed = Box::new(ferrycopy { copier, devices: opened, ended: Mutex::default() });
        // SAFETY: not NULL, and the caller says that it is valid.
        unsafe { result.write(Box::into_raw(boxed)) };
        Ok(FERRYCOPY_OK)
    })
}

/// # Safety
/// It points to a C string that nobody changes meanwhile.
unsafe fn path<'a>(name: *const c_char) -> &'a Path {
    // SAFETY: the caller says so.
    Path::new(OsStr::from_bytes(unsafe { CStr::from_ptr(name) }.to_bytes()))
}

/// # Safety
/// `options.profile` is NULL or points to a C string.
unsafe fn config(options: &ferrycopy_options) -> Result<EngineConfig, Failure> {
    let route = match options.route {
        FERRYCOPY_ROUTE_AUTO => RouteChoice::Auto,
        FERRYCOPY_ROUTE_OFFLOAD => RouteChoice::Offload,
        FERRYCOPY_ROUTE_HOST => RouteChoice::Host,
        other => return Err(invalid(format!("{other} is no route"))),
    };
    let verify = match options.verify {
        FERRYCOPY_VERIFY_OFF => VerifyMode::Off,
        FERRYCOPY_VERIFY_SAMPLED => VerifyMode::Sampled,
        FERRYCOPY_VERIFY_FULL => VerifyMode::Full,
        other => return Err(invalid(format!("{other} is no kind of verification"))),
    };
    let dm = options.flags & FERRYCOPY_OFFLOAD_BELOW_DM != 0;
    let md = options.flags & FERRYCOPY_OFFLOAD_BELOW_MD != 0;
    // SAFETY: not NULL, and a C string as the caller says.
    let profile = (!options.profile.is_null()).then(|| GivenProfile::load(unsafe { path(options.profile) }));
    Ok(EngineConfig { route, verify, offload_below: OffloadBelow { dm, md }, profile })
}

/// Closes a copier.
///
/// # Safety
/// NULL, or a copier that was not closed and that no other call uses.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ferrycopy_close(copier: *mut ferrycopy) {
    guarded(|| {
        if !copier.is_null() {
            // SAFETY: it came from `ferrycopy_open`, and the caller gives it up.
            drop(unsafe { Box::from_raw(copier) });
        }
        Ok(FERRYCOPY_OK)
    });
}

/// Bytes of a device and of its block.
///
/// # Safety
/// As the header says: pointers are valid for the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ferrycopy_device_size(this: *const ferrycopy, device: u32, bytes: *mut u64, block: *mut u32) -> i32 {
    guarded(|| {
        // SAFETY: the caller says so.
        let this = unsafe { copier(this) }?;
        let device = this.devices.get(device as usize).ok_or_else(|| invalid(format!("there is no device {device}")))?;
        // SAFETY: optional, else valid.
        unsafe {
            place(bytes, device.size_bytes());
            place(block, device.geometry().block_size);
        }
        Ok(FERRYCOPY_OK)
    })
}

/// The road between two devices.
///
/// # Safety
/// As the header says: pointers are valid for the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ferrycopy_road_between(this: *const ferrycopy, from: u32, to: u32, road: *mut ferrycopy_road) -> i32 {
    guarded(|| {
        // SAFETY: the caller says so.
        let this = unsafe { copier(this) }?;
        let [from, to] = known(this, [from, to])?;
        let route = this.copier.engine().route(from, to);
        let mut name = [0; 20];
        // One byte stays zero.
        for (place, byte) in name[..19].iter_mut().zip(route.road.name().bytes()) {
            *place = byte as c_char;
        }
        let found = ferrycopy_road {
            max_range_bytes: route.limits.max_range_bytes,
            max_command_bytes: route.limits.max_command_bytes,
            max_ranges: route.limits.max_ranges,
            simulated: route.simulated.into(),
            offload: route.road.is_offload().into(),
            name,
        };
        if road.is_null() {
            return Err(invalid("road is NULL"));
        }
        // SAFETY: not NULL, else valid.
        unsafe { place(road, found) };
        Ok(FERRYCOPY_OK)
    })
}

/// Is the profile used between two devices?
///
/// # Safety
/// As the header says: pointers are valid for the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ferrycopy_profile_used(this: *const ferrycopy, from: u32, to: u32) -> i32 {
    guarded(|| {
        // SAFETY: the caller says so.
        let this = unsafe { copier(this) }?;
        let [from, to] = known(this, [from, to])?;
        let found = this.copier.engine().profile_use(from, to);
        if found.in_use {
            return Ok(FERRYCOPY_OK);
        }
        Err((FERRYCOPY_NOTHING, found.reason.unwrap_or_else(|| "no profile was given".to_owned())))
    })
}

/// Starts a copy.
///
/// # Safety
/// As the header says: pointers are valid for the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ferrycopy_submit(
    this: *const ferrycopy,
    sources: *const ferrycopy_range,
    count: usize,
    target_device: u32,
    target_offset: u64,
    rate: u64,
    id: *mut u64,
) -> i32 {
    guarded(|| {
        // SAFETY: the caller says so.
        let (this, sources) = unsafe { (copier(this)?, slice(sources, count, "sources")?) };
        if id.is_null() {
            return Err(invalid("id is NULL"));
        }
        let started = submit(this, sources, target_device, target_offset, rate)?;
        // SAFETY: not NULL, and valid.
        unsafe { place(id, started.0) };
        Ok(FERRYCOPY_OK)
    })
}

fn submit(this: &ferrycopy, sources: &[ferrycopy_range], device: u32, offset: u64, rate: u64) -> Result<CopyId, Failure> {
    let range = |range: &ferrycopy_range| Ok(ByteRange { device: device_id(range.device)?, offset: range.offset, length: range.length });
    let copy = RangeCopy {
        sources: sources.iter().map(range).collect::<Result<_, Failure>>()?,
        target: BytePosition { device: device_id(device)?, offset },
        pace: (rate > 0).then(|| Arc::new(Pace::new(rate))),
    };
    this.copier.submit(copy).map_err(|error| refused(&error))
}

/// A descriptor to wait on.
///
/// # Safety
/// As the header says: pointers are valid for the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ferrycopy_event_fd(this: *const ferrycopy) -> i32 {
    // SAFETY: the caller says so.
    guarded(|| Ok(unsafe { copier(this) }?.copier.event_fd().as_raw_fd()))
}

/// A copy that has ended.
///
/// # Safety
/// As the header says: pointers are valid for the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ferrycopy_poll(this: *const ferrycopy, id: *mut u64) -> i32 {
    guarded(|| {
        // SAFETY: the caller says so.
        let this = unsafe { copier(this) }?;
        if id.is_null() {
            return Err(invalid("id is NULL"));
        }
        let Some(finished) = this.copier.poll() else { return Ok(FERRYCOPY_NOTHING) };
        this.ended.lock().insert(finished.id.0, finished.report);
        // SAFETY: not NULL, and valid.
        unsafe { place(id, finished.id.0) };
        Ok(FERRYCOPY_OK)
    })
}

/// Waits for a copy.
///
/// # Safety
/// As the header says: pointers are valid for the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ferrycopy_wait(this: *const ferrycopy, id: u64) -> i32 {
    // SAFETY: the caller says so.
    guarded(|| wait(unsafe { copier(this) }?, id))
}

fn wait(this: &ferrycopy, id: u64) -> Result<i32, Failure> {
    match this.copier.wait(CopyId(id)) {
        Some(report) => drop(this.ended.lock().insert(id, report)),
        None if this.ended.lock().contains_key(&id) => {}
        None => return Err(unknown()),
    }
    Ok(FERRYCOPY_OK)
}

/// Takes a result.
///
/// # Safety
/// As the header says: pointers are valid for the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ferrycopy_take(
    this: *const ferrycopy,
    id: u64,
    result: *mut ferrycopy_result,
    ranges: *mut ferrycopy_range_result,
    capacity: usize,
) -> i32 {
    // SAFETY: the caller says so.
    guarded(|| unsafe { take(copier(this)?, id, result, ranges, capacity) })
}

/// # Safety
/// `result` and `ranges` are NULL or valid, the latter for `capacity` results.
unsafe fn take(
    this: &ferrycopy,
    id: u64,
    result: *mut ferrycopy_result,
    ranges: *mut ferrycopy_range_result,
    capacity: usize,
) -> Result<i32, Failure> {
    let report = this.ended.lock().remove(&id).ok_or_else(unknown)?.map_err(|error| refused(&error))?;
    remember(if let Ending::Failed(reason) = &report.ending { reason } else { "" });
    // SAFETY: optional, else valid.
    unsafe { place(result, ferrycopy_result::from(&report)) };
    if !ranges.is_null() {
        for (index, range) in report.ranges.iter().enumerate().take(capacity) {
            // SAFETY: there is room for `capacity` of them.
            unsafe { place(ranges.add(index), ferrycopy_range_result::from(range)) };
        }
    }
    Ok(FERRYCOPY_OK)
}

/// How far a copy is.
///
/// # Safety
/// As the header says: pointers are valid for the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ferrycopy_progress(this: *const ferrycopy, id: u64, bytes: *mut u64) -> i32 {
    guarded(|| {
        // SAFETY: the caller says so.
        let copied = unsafe { copier(this) }?.copier.progress(CopyId(id)).ok_or_else(unknown)?;
        // SAFETY: NULL or valid.
        unsafe { place(bytes, copied) };
        Ok(FERRYCOPY_OK)
    })
}

/// Cancels a copy.
///
/// # Safety
/// As the header says: pointers are valid for the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ferrycopy_cancel(this: *const ferrycopy, id: u64) -> i32 {
    guarded(|| {
        // SAFETY: the caller says so.
        let found = unsafe { copier(this) }?.copier.cancel(CopyId(id));
        if found { Ok(FERRYCOPY_OK) } else { Err(unknown()) }
    })
}

/// Submits, waits and takes.
///
/// # Safety
/// As the header says: pointers are valid for the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ferrycopy_copy(
    this: *const ferrycopy,
    sources: *const ferrycopy_range,
    count: usize,
    target_device: u32,
    target_offset: u64,
    rate: u64,
    result: *mut ferrycopy_result,
    ranges: *mut ferrycopy_range_result,
    capacity: usize,
) -> i32 {
    guarded(|| {
        // SAFETY: the caller says so.
        let (this, sources) = unsafe { (copier(this)?, slice(sources, count, "sources")?) };
        let id = submit(this, sources, target_device, target_offset, rate)?;
        wait(this, id.0)?;
        // SAFETY: the caller says so.
        unsafe { take(this, id.0, result, ranges, capacity) }
    })
}

/// Why the last call of this thread failed.
#[unsafe(no_mangle)]
pub extern "C" fn ferrycopy_last_error() -> *const c_char {
    LAST_ERROR.with(|last| last.borrow().as_ptr())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_a_status() {
        assert_eq!(guarded(|| panic!("a bug")), FERRYCOPY_PANIC);
        // SAFETY: the pointer stays valid until the next call of this thread.
        let words = unsafe { CStr::from_ptr(ferrycopy_last_error()) };
        assert_eq!(words.to_str(), Ok("a failure inside the library"));
    }
}
