//! Integration tests: one binary, so that everything is linked once.
//!
//! Each module states promises of the program as a whole, seen from outside the library, over real sockets, files and
//! processes; promises of one room stand beside its code.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod architecture;
mod bad_input;
mod budget;
mod cli;
mod conformance;
mod crash;
mod distributed;
mod dialects;
mod examples;
mod fake_claude;
mod fault_table;
mod faults;
mod golden;
mod llm;
mod lying_provider;
mod operations;
mod nats_faults;
mod nats_garbage;
mod nats_login;
mod nats_stores;
mod race;
mod redelivery;
mod redis_faults;
mod rig;
mod stop;
mod storm;
mod store_faults;
mod support;
mod thrift;
mod warm;
mod workspace;
