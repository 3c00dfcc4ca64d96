use std::cell::RefCell;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::{LocalSet, yield_now};

use super::*;
use crate::{Error, Random};

fn cache<K: Name, V: Clone + Send + Sync + 'static, T: Name>(bounds: Bounds) -> (Cache<K, V, T>, Metrics) {
    let metrics = Metrics::new();
    (Caches::new(&metrics).open("things", bounds, |_, _, _| 1), metrics)
}

const MANY: Bounds = Bounds { entries: 1_000, weight: 1_000 };

fn count(metrics: &Metrics, name: &str) -> u64 {
    let line = format!("trunkline_cache_{name}{{cache=\"things\"}} ");
    let page = metrics.encode();
    page.lines().find_map(|entry| entry.strip_prefix(&line)?.parse().ok()).unwrap_or_else(|| panic!("{name}: {page}"))
}

async fn put(cache: &Cache<u32, u32, &'static str>, key: u32, tags: &[&'static str]) {
    let filled = Filled::tagged(key * 10, tags.to_vec());
    assert_eq!(cache.get_or_fill(key, async || Ok(filled)).await.unwrap(), key * 10);
}

#[tokio::test]
async fn next_read_hits_until_the_key_or_a_tag_is_dropped() {
    let (cache, metrics) = cache(MANY);
    put(&cache, 1, &["a"]).await;
    put(&cache, 2, &["a", "b"]).await;
    put(&cache, 3, &[]).await;
    assert_eq!((cache.get(&1), cache.get(&2), cache.get(&3)), (Some(10), Some(20), Some(30)));

    cache.invalidate_tag(&"b");
    assert_eq!((cache.get(&1), cache.get(&2), cache.get(&3)), (Some(10), None, Some(30)));
    cache.invalidate(&3);
    assert_eq!((cache.get(&1), cache.get(&3)), (Some(10), None));
    cache.invalidate_tag(&"nobody bears it");
    assert_eq!(cache.get(&1), Some(10));

    assert_eq!((count(&metrics, "fills_total"), count(&metrics, "invalidations_total")), (3, 2));
    assert_eq!((count(&metrics, "entries"), count(&metrics, "weight")), (1, 1));
    assert_eq!(count(&metrics, "hits_total"), 7);
}

#[tokio::test]
async fn concurrent_misses_of_one_key_read_once() {
    let (cache, metrics) = cache::<u32, u32, ()>(MANY);
    let reads = AtomicU32::new(0);
    let fill = async || {
        reads.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(5)).await;
        Ok(Filled::new(7))
    };

    let all = futures::future::join_all((0..100).map(|_| cache.get_or_fill(1, fill))).await;

    assert!(all.into_iter().all(|value| value.unwrap() == 7));
    assert_eq!(reads.load(Ordering::Relaxed), 1);
    assert_eq!(count(&metrics, "misses_total"), 100);
}

#[tokio::test]
async fn failed_fill_fails_for_all_who_wait_and_is_not_stored() {
    let (cache, _metrics) = cache::<u32, u32, ()>(MANY);
    let reads = AtomicU32::new(0);
    let fill = async || {
        reads.fetch_add(1, Ordering::Relaxed);
        yield_now().await;
        Err(Error::unavailable("away"))
    };

    let all = futures::future::join_all((0..10).map(|_| cache.get_or_fill(1, fill))).await;

    assert!(all.into_iter().all(|value| value.unwrap_err().status() == 503));
    assert_eq!(reads.load(Ordering::Relaxed), 1);
    assert_eq!(cache.get_or_fill(1, async || Ok(Filled::new(1))).await.unwrap(), 1);
}

#[tokio::test]
async fn fill_that_is_given_up_is_begun_again_by_who_waits() {
    let (cache, _metrics) = cache::<u32, u32, ()>(MANY);
    let mut given_up = Box::pin(cache.get_or_fill(1, std::future::pending));
    assert!(futures::poll!(&mut given_up).is_pending());
    let mut waiting = Box::pin(cache.get_or_fill(1, async || Ok(Filled::new(2))));
    assert!(futures::poll!(&mut waiting).is_pending());

    drop(given_up);

    assert_eq!(waiting.await.unwrap(), 2);
    assert_eq!(cache.get(&1), Some(2));
}

#[tokio::test]
async fn fill_that_began_before_a_drop_is_not_stored_nor_given_to_who_came_later() {
    let (cache, metrics) = cache::<u32, &str, &str>(MANY);
    for drop in
        [(|cache| cache.invalidate(&1)) as fn(&Cache<_, _, _>), |cache| cache.invalidate_tag(&"tag"), Cache::clear]
    {
        let (old, old_read) = oneshot::channel();
        let mut early = Box::pin(cache.get_or_fill(1, async || Ok(Filled::tagged(old_read.await.unwrap(), ["tag"]))));
        assert!(futures::poll!(&mut early).is_pending());
        let mut joined = Box::pin(cache.get_or_fill(1, async || Ok(Filled::new("not read"))));
        assert!(futures::poll!(&mut joined).is_pending());

        drop(&cache);
        let mut late = Box::pin(cache.get_or_fill(1, async || Ok(Filled::tagged("new", ["tag"]))));
        let _ready_where_it_need_not_wait = futures::poll!(&mut late);
        old.send("old").unwrap();

        assert_eq!(early.await.unwrap(), "old");
        assert_eq!(joined.await.unwrap(), "old", "who came before the change may see what was before it");
        assert_eq!(cache.get_or_fill(1, async || Ok(Filled::tagged("new", ["tag"]))).await.unwrap(), "new");
        cache.invalidate(&1);
    }
    assert_eq!(count(&metrics, "void_fills_total"), 3);
}

#[tokio::test]
async fn drop_of_something_else_leaves_a_fill_alone() {
    let (cache, _metrics) = cache::<u32, u32, &str>(MANY);
    let (send, read) = oneshot::channel();
    let mut fill = Box::pin(cache.get_or_fill(1, async || Ok(Filled::tagged(read.await.unwrap(), ["tag"]))));
    assert!(futures::poll!(&mut fill).is_pending());

    for other in 2..1_000 {
        cache.invalidate(&other);
    }
    cache.invalidate_tag(&"other");
    send.send(5).unwrap();

    assert_eq!(fill.await.unwrap(), 5);
    assert_eq!(cache.get(&1), Some(5));
}

#[tokio::test]
async fn suspended_cache_gives_and_stores_nothing() {
    let (cache, _metrics) = cache::<u32, u32, &str>(MANY);
    put(&cache, 1, &[]).await;
    let (send, read) = oneshot::channel();
    let mut before = Box::pin(cache.get_or_fill(2, async || Ok(Filled::new(read.await.unwrap()))));
    assert!(futures::poll!(&mut before).is_pending());

    cache.suspend();
    assert_eq!(cache.get(&1), None);
    assert_eq!(cache.get_or_fill(1, async || Ok(Filled::new(11))).await.unwrap(), 11);
    assert_eq!(cache.get_or_fill(1, async || Ok(Filled::new(12))).await.unwrap(), 12);
    cache.resume();

    send.send(2).unwrap();
    assert_eq!(before.await.unwrap(), 2);
    assert!(cache.is_empty(), "what began before the gap is worth nothing after it");
    put(&cache, 1, &[]).await;
    assert_eq!(cache.get(&1), Some(10));
}

#[tokio::test]
async fn neither_bound_is_crossed() {
    let metrics = Metrics::new();
    let caches = Caches::new(&metrics);
    let few: Cache<u32, Vec<u8>, u32> =
        caches.open("things", Bounds { entries: 100, weight: 1_000_000 }, |_, value, _| value.len() as u64);
    for key in 0..1_000 {
        few.get_or_fill(key, async || Ok(Filled::tagged(vec![0; 10], [key % 7, key]))).await.unwrap();
        assert!(few.len() <= 100);
    }
    assert!(few.len() > 50 && count(&metrics, "evictions_total") >= 900);
    assert!(few.state().is_indexed_exactly());

    let light: Cache<u32, Vec<u8>, u32> =
        caches.open("light", Bounds { entries: 1_000, weight: 10_000 }, |_, value, _| value.len() as u64);
    for key in 0..1_000 {
        light.get_or_fill(key, async || Ok(Filled::new(vec![0; 1_000]))).await.unwrap();
        assert!(light.len() <= 10);
    }
    light.get_or_fill(1, async || Ok(Filled::tagged(vec![0; 100_000], [1]))).await.unwrap();
    assert!(light.state().is_indexed_exactly(), "what does not fit leaves nothing behind");
}

/// The truth behind the cache in the test below: for each key a version and a tag, for each tag a version.
struct Truth {
    keys: Vec<(u64, usize)>,
    tags: Vec<u64>,
    /// What writers have answered.
    confirmed_keys: Vec<u64>,
    confirmed_tags: Vec<u64>,
}

const KEYS: usize = 6;
const TAGS: usize = 3;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Value {
    key: u64,
    tag: usize,
    tag_version: u64,
}

impl Truth {
    fn new() -> Self {
        let keys = (0..KEYS).map(|key| (0, key % TAGS)).collect();
        Self { keys, tags: vec![0; TAGS], confirmed_keys: vec![0; KEYS], confirmed_tags: vec![0; TAGS] }
    }
}

fn below(random: &Random, bound: usize) -> usize {
    usize::try_from(u64::from_le_bytes(random.bytes()) % bound as u64).unwrap()
}

async fn pass(random: &Random) {
    for _ in 0..below(random, 4) {
        yield_now().await;
    }
}

async fn read(truth: &RefCell<Truth>, random: &Random, key: usize) -> Result<Filled<Value, usize>> {
    pass(random).await;
    let (version, tag) = truth.borrow().keys[key];
    pass(random).await;
    let tag_version = truth.borrow().tags[tag];
    pass(random).await;
    Ok(Filled::tagged(Value { key: version, tag, tag_version }, [tag]))
}

/// Readers that give up, writers of keys and tags, and times when drops are not heard of, in an order that the seed chooses.
/// Nobody ever reads what is older than what was confirmed when they came, and in the end the cache holds the truth.
#[tokio::test]
async fn no_interleaving_of_fills_and_drops_gives_an_old_value() {
    for seed in 0..300 {
        let random = Random::seeded(seed);
        let (cache, _metrics) = cache::<usize, Value, usize>(Bounds { entries: 4, weight: 4 });
        let truth = Rc::new(RefCell::new(Truth::new()));
        let deaf = Rc::new(RefCell::new(false));
        let tasks = LocalSet::new();
        for _ in 0..8 {
            let (cache, truth, random) = (cache.clone(), Rc::clone(&truth), random.clone());
            tasks.spawn_local(async move {
                for _ in 0..20 {
                    let key = below(&random, KEYS);
                    let (floor, tag_floors) = {
                        let truth = truth.borrow();
                        (truth.confirmed_keys[key], truth.confirmed_tags.clone())
                    };
                    let wanted = cache.get_or_fill(key, || read(&truth, &random, key));
                    let patience = async {
                        if below(&random, 3) == 0 { pass(&random).await } else { std::future::pending().await }
                    };
                    tokio::select! {
                        value = wanted => {
                            let value = value.unwrap();
                            assert!(value.key >= floor, "seed {seed}: {value:?} is older than {floor}");
                            let floor = tag_floors[value.tag];
                            assert!(value.tag_version >= floor, "seed {seed}: {value:?} is older than {floor}");
                        }
                        () = patience => {}
                    }
                    pass(&random).await;
                }
            });
        }
        for _ in 0..3 {
            let (cache, truth, random, deaf) = (cache.clone(), Rc::clone(&truth), random.clone(), Rc::clone(&deaf));
            tasks.spawn_local(async move {
                for _ in 0..20 {
                    pass(&random).await;
                    let (key, tag) = (below(&random, KEYS), below(&random, TAGS));
                    let of_key = below(&random, 2) == 0;
                    let version = {
                        let mut truth = truth.borrow_mut();
                        if of_key {
                            truth.keys[key] = (truth.keys[key].0 + 1, tag);
                            truth.keys[key].0
                        } else {
                            truth.tags[tag] += 1;
                            truth.tags[tag]
                        }
                    };
                    pass(&random).await;
                    if !*deaf.borrow() {
                        if of_key { cache.invalidate(&key) } else { cache.invalidate_tag(&tag) }
                    }
                    let mut truth = truth.borrow_mut();
                    let confirmed =
                        if of_key { &mut truth.confirmed_keys[key] } else { &mut truth.confirmed_tags[tag] };
                    *confirmed = version.max(*confirmed);
                }
            });
        }
        let (own, own_random) = (cache.clone(), random.clone());
        tasks.spawn_local(async move {
            for _ in 0..3 {
                pass(&own_random).await;
                own.suspend();
                *deaf.borrow_mut() = true;
                pass(&own_random).await;
                *deaf.borrow_mut() = false;
                own.resume();
                pass(&own_random).await;
            }
        });
        tasks.await;

        let truth = truth.borrow();
        for key in 0..KEYS {
            if let Some(value) = cache.get(&key) {
                let (version, tag) = truth.keys[key];
                assert_eq!(value, Value { key: version, tag, tag_version: truth.tags[tag] }, "seed {seed}");
            }
        }
        assert!(cache.state().is_indexed_exactly(), "seed {seed}");
        assert!(cache.state().is_idle(), "seed {seed}: nothing is left of what was under way");
    }
}
