//! Integration tests: the parts together, over real sockets and real files.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod workspace;
