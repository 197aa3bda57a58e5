//! Real servers for the tests: each on a free port with a directory of its own, and gone with its handle.
//!
//! A test that needs a server fails where there is none; it is never skipped. Nothing here may touch a server that it has
//! not started, and nothing may rely on a fixed port.

pub(crate) mod certificates;
pub(crate) mod redis;
pub(crate) mod wire;
