//! Starts the real platform for tests.
