//! Integration tests: one binary, one module per concern.

mod conformance;
mod support;
