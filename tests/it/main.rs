//! Integration tests: the parts together, over real sockets and real files.
//!
//! One binary, so that everything is linked once. Each module states promises of the program as a whole, seen from
//! outside the library; promises of one room stand beside its code.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod architecture;
mod golden;
