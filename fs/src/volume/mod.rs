//! The volume shell.
