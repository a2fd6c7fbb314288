//! cowlfs
