//! System calls that std does not have, with their error number as the result that a test looks at.

use std::io;

/// The error number of a failed call; 0 when it did not fail.
pub fn errno<T>(result: io::Result<T>) -> i32 {
    result.err().and_then(|error| error.raw_os_error()).unwrap_or(0)
}

/// Turns what a C function returned into a result.
pub fn sys(returned: impl Into<i64>) -> io::Result<i64> {
    match returned.into() {
        -1 => Err(io::Error::last_os_error()),
        value => Ok(value),
    }
}
