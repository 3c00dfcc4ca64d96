//! Pages of a list by key (`WHERE key < last ORDER BY key DESC LIMIT n`): as quick on the last page as on the first, and
//! nothing is shown twice or left out when rows come and go meanwhile. Counting pages or jumping to one is not offered.

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Error, Result};

/// Items of a page whose size is not given.
pub const SIZE_DEFAULT: u32 = 50;

/// Items of a page at most.
pub const SIZE_MAX: u32 = 500;

/// Characters of a token at most; a key is a few values.
const TOKEN_MAX: usize = 1_024;

/// Bytes of the check sum that a token begins with.
const CHECK_BYTES: usize = 8;

/// Which page of a list is asked for. `K` is the key of an item: what the list is ordered by, unique.
#[derive(Debug, PartialEq, Eq)]
pub struct Page<K> {
    list: String,
    size: u32,
    after: Option<K>,
}

impl<K: Serialize + DeserializeOwned> Page<K> {
    /// Reads the `page_size` and `page_token` of a request: 0 means [`SIZE_DEFAULT`], an empty token the first page.
    ///
    /// `list` names the list and what it is filtered by, so that a token counts for the list it came from only. 422 with
    /// pointer `/pageSize` for more than [`SIZE_MAX`], `/pageToken` for a token that this list did not give.
    pub fn parse(list: impl Into<String>, page_size: u32, page_token: &str) -> Result<Self> {
        let list = list.into();
        let size = match page_size {
            0 => SIZE_DEFAULT,
            1..=SIZE_MAX => page_size,
            _ => return Err(Error::field("/pageSize", "out_of_range", format!("must be at most {SIZE_MAX}"))),
        };
        let after = match page_token {
            "" => None,
            token => Some(decode(&list, token).ok_or_else(|| {
                Error::field("/pageToken", "invalid", "is not a token that this list gave with these filters")
            })?),
        };
        Ok(Self { list, size, after })
    }

    /// The key of the last item of the page before; `None` for the first page.
    pub fn after(&self) -> Option<&K> {
        self.after.as_ref()
    }

    /// Items of the page at most.
    pub fn size(&self) -> usize {
        self.size as usize
    }

    /// The token of the page behind the item with this key, for a page that ends before it is full.
    pub fn token_behind(&self, key: &K) -> String {
        encode(&self.list, key)
    }

    /// How many rows to read: one more than the page takes, which tells whether another page follows.
    pub fn limit(&self) -> i64 {
        i64::from(self.size) + 1
    }

    /// Cuts what was read down to the page. The token is that of the next page; empty on the last one.
    pub fn cut<T>(self, mut rows: Vec<T>, key: impl FnOnce(&T) -> K) -> (Vec<T>, String) {
        let size = self.size as usize;
        if rows.len() <= size {
            return (rows, String::new());
        }
        rows.truncate(size);
        let token = rows.last().map(|last| encode(&self.list, &key(last))).unwrap_or_default();
        (rows, token)
    }
}

fn encode<K: Serialize>(list: &str, key: &K) -> String {
    let key = serde_json::to_vec(key).expect("a key is plain values");
    let mut token = check_sum(list, &key).to_vec();
    token.extend(key);
    URL_SAFE_NO_PAD.encode(token)
}

fn decode<K: DeserializeOwned>(list: &str, token: &str) -> Option<K> {
    let token = (token.len() <= TOKEN_MAX).then(|| URL_SAFE_NO_PAD.decode(token).ok())??;
    let (check, key) = token.split_at_checked(CHECK_BYTES)?;
    (check == check_sum(list, key)).then(|| serde_json::from_slice(key).ok())?
}

/// Catches mistakes, not attacks: a forged token says no more than a place in a list that its holder may read anyway.
fn check_sum(list: &str, key: &[u8]) -> [u8; CHECK_BYTES] {
    let sum = digest(&SHA256, &[list.as_bytes(), &[0], key].concat());
    let mut check = [0; CHECK_BYTES];
    check.copy_from_slice(&sum.as_ref()[..CHECK_BYTES]);
    check
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pointer(outcome: Result<Page<i64>>) -> String {
        let error = outcome.expect_err("refused");
        assert_eq!(error.status(), 422);
        error.errors()[0].pointer.clone()
    }

    #[test]
    fn size_has_a_default_and_a_bound() {
        assert_eq!(Page::<i64>::parse("users", 0, "").unwrap().limit(), 51);
        assert_eq!(Page::<i64>::parse("users", 500, "").unwrap().limit(), 501);
        assert_eq!(pointer(Page::parse("users", 501, "")), "/pageSize");
    }

    #[test]
    fn pages_follow_each_other_to_the_end() {
        let all: Vec<i64> = (0..5).collect();
        let (mut seen, mut token) = (Vec::new(), String::new());

        loop {
            let page = Page::<i64>::parse("users", 2, &token).unwrap();
            let rest = all.iter().copied().filter(|item| page.after().is_none_or(|after| item > after));
            let rows: Vec<i64> = rest.take(usize::try_from(page.limit()).unwrap()).collect();
            let (rows, next) = page.cut(rows, |last| *last);
            seen.extend(rows);
            token = next;
            if token.is_empty() {
                break;
            }
        }

        assert_eq!(seen, all);
    }

    #[test]
    fn tampered_and_foreign_tokens_are_refused() {
        let token = encode("users?state=ACTIVE", &17_i64);

        assert_eq!(Page::parse("users?state=ACTIVE", 2, &token).unwrap().after(), Some(&17_i64));
        assert_eq!(pointer(Page::parse("users", 2, &token)), "/pageToken");
        for position in 0..token.len() {
            let mut other = token.clone().into_bytes();
            other[position] = if other[position] == b'A' { b'B' } else { b'A' };
            let other = String::from_utf8(other).unwrap();
            assert_eq!(pointer(Page::parse("users?state=ACTIVE", 2, &other)), "/pageToken", "{other}");
        }
        for garbage in ["x", "====", "\u{e9}", &"A".repeat(10_000)] {
            assert_eq!(pointer(Page::parse("users?state=ACTIVE", 2, garbage)), "/pageToken");
        }
    }
}
