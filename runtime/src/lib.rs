//! cowl
