//! The core, driven by tests.

mod model;
