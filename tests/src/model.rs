//! Random operations against a plain directory.

pub use rng::Rng;
pub mod rng;
