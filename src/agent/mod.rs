//! Agents: what turns a task message into one call of a model, and the model's reply into one checked product.
//!
//! An agent is data, not a running thing: a [`Role`] (a prompt file, a model, capabilities) and a [`ReplyFormat`] (the output
//! contract). [`build_request`] packs the context in, [`extract`] takes exactly one product out or says why not in words
//! the model can act on. Everything here is pure: no input or output, no clock, no randomness. Text that comes from the
//! proposal, from files or from a reply is data; this room must never let it become a path, a second file or an instruction.

mod block;
mod context;
mod elision;
mod error;
mod head;
mod rejection;
mod reply;
mod request;
mod role;
mod signature;
mod template;

pub use context::{ContextLimits, ContextText, TaskContext};
pub use error::AgentError;
pub use head::contract_head;
pub use rejection::Rejection;
pub use reply::{Parsed, Product, ReplyFormat, extract};
pub use request::{build_request, minimum_output_tokens};
pub use role::{AgentChoice, Role, RoleBook, RoleOverride};
pub use signature::signatures;
