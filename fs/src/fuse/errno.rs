//! The errno of every error: the only place in the project where one becomes the other.
//!
//! ENOSYS is never among them: the kernel takes it for "this filesystem cannot do that" and stops asking for good.

use crate::error::FsError;

/// The errno that a program sees.
pub fn errno(error: &FsError) -> i32 {
    match error {
        FsError::NotFound => libc::ENOENT,
        FsError::Exists => libc::EEXIST,
        FsError::NotADirectory => libc::ENOTDIR,
        FsError::IsADirectory => libc::EISDIR,
        FsError::NotEmpty => libc::ENOTEMPTY,
        FsError::NameTooLong => libc::ENAMETOOLONG,
        FsError::Invalid(_) => libc::EINVAL,
        FsError::NotPermitted => libc::EPERM,
        FsError::Access => libc::EACCES,
        FsError::NoSpace => libc::ENOSPC,
        FsError::FileTooLarge => libc::EFBIG,
        FsError::TooManyLinks => libc::EMLINK,
        FsError::NoAttribute => libc::ENODATA,
        FsError::Range => libc::ERANGE,
        FsError::TooBig => libc::E2BIG,
        FsError::NoSuchOffset => libc::ENXIO,
        FsError::Unsupported(_) => libc::EOPNOTSUPP,
        FsError::ReadOnly(_) => libc::EROFS,
        // What a device or a copy road says about itself (EBUSY, EOPNOTSUPP, ENOSPC of a backing file) would mean
        // something else to a program that reads a file: to it, all of this is an I/O error.
        FsError::Corrupt { .. }
        | FsError::DataChecksum { .. }
        | FsError::Volume(_)
        | FsError::Device(_)
        | FsError::Copy(_)
        | FsError::Internal(_) => libc::EIO,
    }
}

/// Is this an error that whoever runs the machine must hear of, beyond the program that met it?
pub fn is_alarming(error: &FsError) -> bool {
    errno(error) == libc::EIO
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::Addr;
    use crate::ids::Ino;

    #[test]
    fn every_error_has_the_errno_that_posix_names() {
        let table: Vec<(FsError, i32)> = vec![
            (FsError::NotFound, libc::ENOENT),
            (FsError::Exists, libc::EEXIST),
            (FsError::NotADirectory, libc::ENOTDIR),
            (FsError::IsADirectory, libc::EISDIR),
            (FsError::NotEmpty, libc::ENOTEMPTY),
            (FsError::NameTooLong, libc::ENAMETOOLONG),
            (FsError::Invalid("x"), libc::EINVAL),
            (FsError::NotPermitted, libc::EPERM),
            (FsError::Access, libc::EACCES),
            (FsError::NoSpace, libc::ENOSPC),
            (FsError::FileTooLarge, libc::EFBIG),
            (FsError::TooManyLinks, libc::EMLINK),
            (FsError::NoAttribute, libc::ENODATA),
            (FsError::Range, libc::ERANGE),
            (FsError::TooBig, libc::E2BIG),
            (FsError::NoSuchOffset, libc::ENXIO),
            (FsError::Unsupported("x"), libc::EOPNOTSUPP),
            (FsError::ReadOnly("x".into()), libc::EROFS),
            (FsError::Corrupt { what: "node", addr: Addr::NONE, detail: "x".into() }, libc::EIO),
            (FsError::DataChecksum { ino: Ino(2), block: 0, addr: Addr::NONE }, libc::EIO),
            (FsError::Volume("x".into()), libc::EIO),
            (FsError::Device(zns::DeviceError::PowerLost), libc::EIO),
            (FsError::Internal("x"), libc::EIO),
        ];
        for (error, expected) in table {
            assert_eq!(errno(&error), expected, "{error:?}");
            assert_ne!(errno(&error), libc::ENOSYS);
            assert_eq!(is_alarming(&error), expected == libc::EIO);
        }
    }

    #[test]
    fn a_busy_device_is_an_io_error_to_a_program() {
        let busy = FsError::Device(zns::DeviceError::Busy { path: "/dev/x".into(), through: None });
        assert_eq!(errno(&busy), libc::EIO);
    }
}
