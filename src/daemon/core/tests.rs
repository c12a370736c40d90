//! Tests that drive the core.

mod model;
