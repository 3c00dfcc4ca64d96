//! Embeds the migrations, so that a binary carries the schema it was built for.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

fn main() {
    let crate_folder = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    let services = crate_folder.join("../migrations");
    println!("cargo:rerun-if-changed={}", services.display());

    let mut code = String::new();
    write_module(&mut code, "kernel", &crate_folder.join("migrations"));
    for folder in sorted(&services).into_iter().filter(|path| path.is_dir()) {
        write_module(&mut code, &file_name(&folder), &folder);
    }

    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    fs::write(out.join("migrations.rs"), format!("&[\n{code}]\n")).expect("OUT_DIR can be written to");
}

/// One element of the list of modules: its name and its files in order.
fn write_module(code: &mut String, module: &str, folder: &Path) {
    println!("cargo:rerun-if-changed={}", folder.display());
    writeln!(code, "Module {{ name: {module:?}, migrations: &[").expect("a string can be written to");
    let files = sorted(folder).into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "sql"));
    for (file, expected) in files.zip(1_i64..) {
        let stem = file_name(&file.with_extension(""));
        let parts = stem.split_once('_').and_then(|(version, name)| Some((version.parse::<i64>().ok()?, name)));
        let Some((version, name)) = parts.filter(|_| stem.as_bytes().get(4) == Some(&b'_')) else {
            panic!("{}: a migration is named NNNN_what.sql", file.display());
        };
        assert_eq!(version, expected, "{}: versions count from 1 without a gap", file.display());
        refuse_transaction_control(&file);
        let path = file.to_str().expect("a repository lies in a readable path");
        writeln!(code, "Migration {{ version: {version}, name: {name:?}, sql: include_str!({path:?}) }},")
            .expect("a string can be written to");
    }
    writeln!(code, "] }},").expect("a string can be written to");
}

/// A migration runs in one transaction together with its record; one that ended it would leave half of itself behind.
fn refuse_transaction_control(file: &Path) {
    let sql = fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let control = sql
        .lines()
        .map(|line| line.trim_start().to_ascii_uppercase())
        .find(|line| ["COMMIT", "ROLLBACK", "START TRANSACTION", "BEGIN;"].iter().any(|word| line.starts_with(word)));
    assert!(control.is_none(), "{}: a migration is one transaction and does not end or begin one", file.display());
}

fn sorted(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("a folder's entry can be read").path()).collect();
    paths.sort();
    paths
}

fn file_name(path: &Path) -> String {
    path.file_name().and_then(|name| name.to_str()).expect("a file of the repository has a readable name").to_owned()
}
