//! Users by id, read once and kept until an event says that one changed (cache-aside). Who changes a user drops it in every
//! instance before it answers: the commit waits for the event, which drops it here and elsewhere alike (write-through).

use std::sync::Arc;

use kernel::authorization::{Change, Changes, Listen};
use kernel::cache::{Bounds, Cache, Caches, Filled};
use kernel::{Database, Result};

use crate::domain::{User, UserId};
use crate::storage;

/// What is kept at most.
const BOUNDS: Bounds = Bounds { entries: 10_000, weight: 8 * 1024 * 1024 };

/// Bytes of a user beside the text in it, about.
const USER_BYTES: u64 = 128;

/// Users at hand.
#[derive(Debug)]
pub(crate) struct Users {
    database: Database,
    changes: Changes,
    kept: Cache<UserId, Option<Arc<User>>>,
}

impl Users {
    pub(crate) fn new(database: Database, changes: &Changes, caches: &Caches) -> Arc<Self> {
        let kept = caches.open("users", BOUNDS, |_, user: &Option<Arc<User>>, _| {
            user.as_ref().map_or(0, |user| USER_BYTES + (user.email.len() + user.display_name.len()) as u64)
        });
        let users = Arc::new(Self { database, changes: changes.clone(), kept });
        users.lost();
        changes.listen(Arc::<Self>::clone(&users));
        users
    }

    /// The user with this id.
    pub(crate) async fn find(&self, id: UserId) -> Result<Option<Arc<User>>> {
        if !self.changes.are_believed() {
            return self.read(id).await;
        }
        let read = async || {
            let user = self.read(id).await?;
            // Nobody is kept for an id that anybody may make up.
            Ok(if user.is_some() { Filled::new(user) } else { Filled::passing(user) })
        };
        self.kept.get_or_fill(id, read).await
    }

    async fn read(&self, id: UserId) -> Result<Option<Arc<User>>> {
        let mut connection = self.database.pool().acquire().await?;
        Ok(storage::find_user(&mut connection, id).await?.map(Arc::new))
    }

    /// Drops a user of whom a change was committed, also where its event is late.
    pub(crate) fn forget(&self, id: UserId) {
        self.kept.invalidate(&id);
    }
}

impl Listen for Users {
    fn changed(&self, change: Change<'_>) {
        if let Change::User(id) = change
            && let Ok(id) = UserId::parse(id)
        {
            self.forget(id);
        }
    }

    fn lost(&self) {
        self.kept.suspend();
    }

    fn fresh(&self) {
        self.kept.resume();
    }
}
