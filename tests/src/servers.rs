//! The servers that tests share: one `nats-server` and one PostgreSQL a test process, with accounts rendered beforehand
//! and a migrated database to copy. Deliberately started once and never by hand: they end with the process, however it
//! ends, by the same companion that ends the processes of a killed `up`.

use std::{
    path::PathBuf,
    sync::atomic::{AtomicUsize, Ordering},
};

use tokio::sync::OnceCell;
use trunkline::platform::{
    folders,
    servers::{Options, Servers},
};

/// Accounts on the shared server: more than one binary has tests.
const ACCOUNTS_MAX: usize = 128;

static SHARED: OnceCell<Shared> = OnceCell::const_new();

/// Distinguishes the folders of one process.
static FOLDERS: AtomicUsize = AtomicUsize::new(0);

/// The shared servers and how much of them is taken.
pub struct Shared {
    /// Running.
    pub servers: Servers,
    next_account: AtomicUsize,
}

impl Shared {
    /// The servers, started by whoever asks first.
    pub async fn get() -> &'static Shared {
        SHARED
            .get_or_init(|| async {
                let options = Options::temporary(temporary_folder("shared"), cache(), ACCOUNTS_MAX);
                let servers = Servers::start(options).await.unwrap_or_else(|error| panic!("{error:#}"));
                Shared { servers, next_account: AtomicUsize::new(0) }
            })
            .await
    }

    /// The number of an account that nobody else has.
    pub fn take_account(&self) -> usize {
        let number = self.next_account.fetch_add(1, Ordering::Relaxed);
        assert!(number < ACCOUNTS_MAX, "a binary has more tests than accounts; raise ACCOUNTS_MAX");
        number
    }
}

/// Where fetched programs and packages are kept between runs: the folder that `up` uses.
pub fn cache() -> PathBuf {
    let folder = std::env::var_os("TRUNKLINE_CACHE").map(PathBuf::from);
    let folder = folder.unwrap_or_else(|| folders::default_cache().expect("a home folder"));
    folders::prepare_cache(&folder).expect("the cache folder can be made")
}

/// A name for a folder that does not exist yet, where PostgreSQL's own user can reach it.
pub fn temporary_folder(what: &str) -> PathBuf {
    let number = FOLDERS.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("trunkline-test-{}-{number}-{what}", std::process::id()))
}
