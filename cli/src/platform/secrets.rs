//! The platform's own secrets, made once and kept in files only their owner can read. Nothing here is ever printed.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use anyhow::{Context as _, Result};
use kernel::settings::Secret;

/// Length of a generated password: 32 letters and digits are 190 bits.
const PASSWORD_CHARACTERS: usize = 32;

/// Bytes from the system's random source.
///
/// # Errors
/// When the system has none.
pub fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    File::open("/dev/urandom").and_then(|mut source| source.read_exact(&mut bytes)).context("reading /dev/urandom")?;
    Ok(bytes)
}

/// A password of letters and digits, so that it needs no escaping in a URL.
///
/// # Errors
/// As [`random`].
pub fn password() -> Result<Secret> {
    const ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    let mut text = String::with_capacity(PASSWORD_CHARACTERS);
    while text.len() < PASSWORD_CHARACTERS {
        let [byte] = random()?;
        // Bytes beyond the last whole multiple of the alphabet would make its first letters likelier.
        if usize::from(byte) < 256 / ALPHABET.len() * ALPHABET.len() {
            text.push(char::from(ALPHABET[usize::from(byte) % ALPHABET.len()]));
        }
    }
    Ok(Secret::new(text))
}

/// 32 random bytes in hexadecimal.
///
/// # Errors
/// As [`random`].
pub fn key() -> Result<Secret> {
    Ok(Secret::new(random::<32>()?.map(|byte| format!("{byte:02x}")).concat()))
}

/// Reads the secret at `path`, or makes it by `create` and stores it there (0600).
///
/// # Errors
/// When the file can be neither read nor written.
pub fn keep(path: &Path, create: impl FnOnce() -> Result<Secret>) -> Result<Secret> {
    match std::fs::read_to_string(path) {
        Ok(text) => return Ok(Secret::new(text.trim())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
    }
    let secret = create()?;
    write_private(path, format!("{}\n", secret.expose()).as_bytes())?;
    Ok(secret)
}

/// Writes a file whole or not at all, readable by its owner only.
///
/// # Errors
/// When the folder cannot be written.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<()> {
    let temporary = path.with_extension(format!("{:016x}.tmp", u64::from_le_bytes(random()?)));
    let write = || -> std::io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    };
    write().with_context(|| format!("writing {}", path.display()))
}

/// Makes a folder only its owner can enter, with its parents as they come.
///
/// # Errors
/// When it cannot be made.
pub fn private_folder(path: &Path) -> Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .and_then(|()| std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700)))
        .with_context(|| format!("making the folder {}", path.display()))
}
