//! Putting a process together: provider, roles, stores, coordinator and workers, in one process or several.
//!
//! `codeswarm run` is nothing special: it starts the same coordinator and the same worker that the other programs start
//! alone, on the same stores. This room only wires and supervises; it must never decide what a job does.

mod alone;
mod assemble;
mod error;
mod guards;
mod local;
mod providers;

pub use alone::{Stop, serve, work};
pub use assemble::{Parts, Replay, check_roles, faults};
pub use error::FleetError;
pub use local::{LocalFleet, LocalOptions};
pub use providers::{Endpoint, canonical, endpoints, prices};
