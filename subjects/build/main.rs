//! Compiles the contract: from the `.proto` files with our options to types, their JSON, traits, clients, the route
//! table, the broker's permissions and the OpenAPI document. Needs no `protoc`.
//!
//! A fault in the contract (an operation without an access rule, two routes alike, a target field that does not exist)
//! stops the build with a sentence that names it.

#![allow(clippy::print_stdout, reason = "a build script speaks to cargo so")]

mod baseline;
mod model;
mod openapi;
mod rust;
mod types;

use std::{env, error::Error, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    println!("cargo::rerun-if-changed=build");
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);

    let mut files: Vec<PathBuf> = Vec::new();
    for service in fs::read_dir("proto/trunkline")? {
        for file in fs::read_dir(service?.path().join("v1"))? {
            files.push(file?.path());
        }
    }
    files.sort();
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).include_source_info(true).open_files(&files)?;

    let contract = model::Contract::read(&compiler.descriptor_pool())?;
    types::generate(compiler.file_descriptor_set(), &contract, &out)?;
    rust::generate(&contract, &out)?;
    fs::write(out.join("openapi.json"), openapi::document(&contract)?)?;
    fs::write(out.join("baseline.json"), baseline::document(&contract)?)?;
    Ok(())
}
