//! On-disk types.
