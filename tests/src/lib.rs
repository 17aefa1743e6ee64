//! What tests of loaded programs share.

pub mod fixture;
pub mod frames;
