//! How many clients may tail at once: all together, and one user.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kernel::Error;

/// When a client that found no place may try again.
const RETRY_AFTER: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Admission {
    streams_max: u32,
    per_user_max: u32,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    streams: u32,
    users: HashMap<String, u32>,
}

/// A stream's place, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    admission: Arc<Admission>,
    user: String,
}

impl Admission {
    pub(super) fn new(streams_max: u32, per_user_max: u32) -> Arc<Self> {
        Arc::new(Self { streams_max, per_user_max, taken: Mutex::default() })
    }

    /// A place for one more stream of `user`; 429 where the user has enough, 503 where there is none left.
    pub(super) fn admit(self: &Arc<Self>, user: &str) -> Result<Place, Error> {
        let mut taken = self.taken();
        if taken.streams >= self.streams_max {
            let error = Error::new(503, "overloaded", "Too many clients are tailing events. Try again later.");
            return Err(error.retry_after(RETRY_AFTER));
        }
        let own = taken.users.entry(user.to_owned()).or_default();
        if *own >= self.per_user_max {
            let error = Error::new(429, "too_many_streams", "This user is tailing events too often. End one first.");
            return Err(error.retry_after(RETRY_AFTER));
        }
        *own += 1;
        taken.streams += 1;
        Ok(Place { admission: Arc::clone(self), user: user.to_owned() })
    }

    /// Every step leaves the counts whole.
    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.admission.taken();
        taken.streams -= 1;
        if let Some(own) = taken.users.get_mut(&self.user) {
            *own -= 1;
            if *own == 0 {
                taken.users.remove(&self.user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Admission;

    #[test]
    fn places_are_bounded_for_one_and_for_all_and_come_back() {
        let admission = Admission::new(3, 2);
        let (first, _second) = (admission.admit("a").unwrap(), admission.admit("a").unwrap());
        assert_eq!(admission.admit("a").unwrap_err().status(), 429);
        let _third = admission.admit("b").unwrap();
        assert_eq!(admission.admit("c").unwrap_err().status(), 503);

        drop(first);

        assert!(admission.admit("a").is_ok());
        assert_eq!(admission.taken().users.len(), 2);
    }
}
