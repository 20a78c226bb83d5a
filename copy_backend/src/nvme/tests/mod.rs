//! The road against namespaces made up over simulated drives: every answer that a device or a kernel may give.

mod bytes;
mod fake;
mod road;
