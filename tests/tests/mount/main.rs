//! Tests through a real mount: the built programs, the kernel, and a volume of its own for each test.

mod acls;
mod administration;
mod attributes;
mod bad_days;
mod benchmark;
mod copy;
mod crash;
mod data;
mod devices;
mod flags;
mod foreign;
mod full;
mod locks;
mod names;
mod nodes;
mod one_user;
mod options;
mod overload;
mod privileges;
mod programs;
mod recorded;
mod reflink;
mod repair;
mod semantics;
mod space;
mod syncing;
