//! Infrastructure of every service. No business rule.
