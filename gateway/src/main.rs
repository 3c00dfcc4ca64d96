//! Hands the gateway to the kernel.
fn main() {}
