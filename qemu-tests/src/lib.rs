//! Test beds and claims.
