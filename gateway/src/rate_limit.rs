//! How often one client may ask: GCRA per client address, in bounded memory. Limits are this process's own; several
//! gateways each count for themselves.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use governor::clock::{Clock, DefaultClock, Reference};
use governor::middleware::NoOpMiddleware;
use governor::state::keyed::DashMapStateStore;
use governor::{Quota, RateLimiter};

use crate::client;

/// Buckets that clients share while there is no room for one each.
const SHARED_BUCKETS: usize = 1_024;

/// Least time between two sweeps that found no room: a sweep looks at every client.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// One limit over all clients.
#[derive(Debug)]
pub(crate) struct RateLimit<C: Clock = DefaultClock> {
    limiter: RateLimiter<Bucket, DashMapStateStore<Bucket>, C, NoOpMiddleware<C::Instant>>,
    clock: C,
    started: C::Instant,
    clients_max: usize,
    /// Checks that may still be made before buckets are counted: each makes one at most, so that there are never more
    /// than `clients_max` of them.
    room: AtomicUsize,
    /// Nanoseconds since the start before which no sweep is tried.
    sweep_after: AtomicU64,
    hasher: RandomState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Bucket {
    Own(IpAddr),
    Shared(usize),
}

impl RateLimit {
    /// `burst` requests at once, then one each `interval`, of at most `clients_max` clients apart.
    pub(crate) fn new(interval: Duration, burst: NonZeroU32, clients_max: usize) -> Self {
        Self::with_clock(interval, burst, clients_max, DefaultClock::default())
    }
}

impl<C: Clock + Clone> RateLimit<C> {
    fn with_clock(interval: Duration, burst: NonZeroU32, clients_max: usize, clock: C) -> Self {
        let quota = Quota::with_period(interval.max(Duration::from_nanos(1))).expect("the interval is not zero");
        Self {
            limiter: RateLimiter::dashmap_with_clock(quota.allow_burst(burst), clock.clone()),
            started: clock.now(),
            clock,
            clients_max,
            room: AtomicUsize::new(clients_max),
            sweep_after: AtomicU64::new(0),
            hasher: RandomState::new(),
        }
    }

    /// Counts one request of `address`; an error says how long to wait.
    pub(crate) fn check(&self, address: IpAddr) -> Result<(), Duration> {
        let bucket = self.bucket(client::rate_key(address));
        self.limiter.check_key(&bucket).map_err(|not_until| not_until.wait_time_from(self.clock.now()))
    }

    fn bucket(&self, key: IpAddr) -> Bucket {
        if self.take_room() || self.make_room() {
            return Bucket::Own(key);
        }
        let hash = usize::try_from(self.hasher.hash_one(key)).unwrap_or(usize::MAX);
        Bucket::Shared(hash % SHARED_BUCKETS)
    }

    fn take_room(&self) -> bool {
        self.room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |room| room.checked_sub(1)).is_ok()
    }

    /// Forgets clients whose bucket is full again, which is what a new one would have.
    fn make_room(&self) -> bool {
        let now = self.clock.now().duration_since(self.started).as_u64();
        if now < self.sweep_after.load(Ordering::Relaxed) {
            return false;
        }
        self.limiter.retain_recent();
        let room = self.clients_max.saturating_sub(self.limiter.len());
        if room == 0 {
            let pause = u64::try_from(SWEEP_INTERVAL.as_nanos()).unwrap_or(u64::MAX);
            self.sweep_after.store(now.saturating_add(pause), Ordering::Relaxed);
        }
        self.room.store(room, Ordering::Relaxed);
        self.take_room()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use governor::clock::FakeRelativeClock;

    use super::*;

    fn limit(clients_max: usize) -> (RateLimit<FakeRelativeClock>, FakeRelativeClock) {
        let clock = FakeRelativeClock::default();
        let burst = NonZeroU32::new(3).unwrap();
        (RateLimit::with_clock(Duration::from_secs(2), burst, clients_max, clock.clone()), clock)
    }

    fn client(number: u32) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from_bits(number))
    }

    #[test]
    fn burst_passes_then_one_each_interval() {
        let (limit, clock) = limit(10);

        assert!((0..3).all(|_| limit.check(client(1)).is_ok()));
        assert_eq!(limit.check(client(1)), Err(Duration::from_secs(2)));
        assert!(limit.check(client(2)).is_ok());
        clock.advance(Duration::from_secs(2));
        assert!(limit.check(client(1)).is_ok());
        assert!(limit.check(client(1)).is_err());
    }

    #[test]
    fn memory_is_bounded_whoever_asks() {
        let (limit, _clock) = limit(100);

        for number in 0..100_000 {
            let _ = limit.check(client(number));
        }

        assert!(limit.limiter.len() <= 100 + SHARED_BUCKETS, "{}", limit.limiter.len());
    }

    #[test]
    fn forgotten_clients_make_room() {
        let (limit, clock) = limit(10);
        assert!((0..40).all(|number| limit.check(client(number)).is_ok()));

        clock.advance(Duration::from_secs(10));
        assert!(limit.check(client(41)).is_ok());

        assert_eq!(limit.limiter.len(), 1);
    }
}
