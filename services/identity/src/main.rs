//! Hands the identity service to the kernel.
fn main() {}
