//! CodeSwarm: a written proposal in, a working code base out, never a cent over budget.
//!
//! This is the guided tour. It follows one task down the street; each stop names the item to open next. Nothing flows
//! backwards: workers never call the coordinator, and views never write.
//!
//! 1. [`cli::main`] reads `codeswarm run proposal.md`; [`fleet::LocalFleet`] starts a coordinator and a worker in this process,
//!    the same ones that the other programs of `bin/` start alone.
//! 2. [`coordinator::submit`] sets the job's limit in the [`backend::Ledger`] and appends
//!    [`protocol::Event::JobSubmitted`] to the [`backend::EventLog`].
//! 3. The [`coordinator::Coordinator`] folds the log into a [`job::Job`], a pure state machine:
//!    [`job::Job::apply`] takes a fact in, [`job::Job::decide`] answers a wish with the facts to record. Its
//!    [`graph::Graph`] knows which tasks are ready, [`schedule::choose`] which of them go out next.
//! 4. The dispatch is logged, then a [`protocol::TaskMessage`] is published to the queue of its agent type through the
//!    [`backend::Broker`]. It names everything the task may read by digest and holds none of it.
//! 5. A [`worker::Worker`] pulls it into a free slot and claims the attempt in the [`backend::StateStore`], so that one
//!    outcome counts, however often the message is delivered.
//! 6. [`agent::build_request`] turns the message and its context into one request in the task's [`agent::Role`].
//! 7. [`llm::Metered`] bounds the request's worst case, has it set aside as a [`budget::Reservation`], calls the
//!    [`llm::Provider`] and settles what the call cost. There is no other way to call a model.
//! 8. [`agent::extract`] takes exactly one product out of the reply, or says why not in words for the next attempt. The
//!    product goes into [`backend::Artifacts`], the outcome into the claim, then the result is reported and the
//!    message acknowledged.
//! 9. The coordinator turns the result into events, and these free the next tasks. Files of a finished feature are put
//!    into the output by [`workspace::Workspace`], all or none.
//! 10. When no task is left the job ends, and [`cli`] shows what came of it and answers the exit code.
//!
//! The modules below are in order: each may import only those above it. `ARCHITECTURE.md` has the rules, the crash
//! table and the budget's invariants.

pub mod error;
pub mod clock;
pub mod metric;
pub mod protocol;
pub mod config;
pub mod graph;
pub mod job;
pub mod schedule;
pub mod backend;
pub mod budget;
pub mod resilience;
pub mod llm;
pub mod agent;
pub mod workspace;
pub mod worker;
pub mod coordinator;
pub mod fleet;
pub mod telemetry;
pub mod cli;
