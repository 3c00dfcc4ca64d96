//! Hands the auth service to the kernel.
fn main() {}
