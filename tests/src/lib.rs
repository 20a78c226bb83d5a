//! What the tests of this crate stand on: volumes that are mounted for one test, and a way to say at run time that a test
//! cannot run here.

pub mod errno;
pub mod fuzzing;
pub mod guest;
pub mod lines;
pub mod mounted;
pub mod recorder;
pub mod sim;
pub mod skip;

pub use errno::{errno, sys};
pub use mounted::{Builder, Mounted};
