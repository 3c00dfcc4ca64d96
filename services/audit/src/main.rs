//! Hands the audit service to the kernel.
fn main() {}
