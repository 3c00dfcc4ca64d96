//! Permissions and the patterns that stand for many of them. No pattern is ever matched by trying: both are three words,
//! and the words are compared.

use super::Fault;

/// Words of a permission: service, resource, action.
const WORDS: usize = 3;

/// Longest word in bytes.
const WORD_BYTES_MAX: usize = 64;

/// Longest permission or pattern in bytes.
const BYTES_MAX: usize = WORDS * WORD_BYTES_MAX + WORDS - 1;

const ANY: &str = "*";

/// One thing that somebody may do: `<service>.<resource>.<action>`, without wildcards.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Permission(Box<str>);

impl Permission {
    /// Three words of lower-case letters, digits, `_` and `-`, each of 64 bytes at most and beginning with a letter.
    pub fn parse(given: &str) -> Result<Self, Fault> {
        const INVALID: Fault =
            Fault::new("/permission", "invalid_permission", "Name a permission such as `identity.users.read`.");
        let pattern = Pattern::parse(given).map_err(|_| INVALID)?;
        if pattern.has_wildcard() { Err(INVALID) } else { Ok(Self(pattern.0)) }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Permissions by words: a `*` in front of other words stands for one word, a `*` at the end for all the rest.
///
/// Kept in its shortest form, so that two patterns are the same when their texts are: `identity.*.*` is `identity.*`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pattern(Box<str>);

impl Pattern {
    /// At most three words, of which the last is a `*` where there are fewer.
    pub fn parse(given: &str) -> Result<Self, Fault> {
        const INVALID: Fault = Fault::new(
            "/permission",
            "invalid_permission",
            "Give a permission such as `identity.users.read`, `audit.*.read`, `identity.*` or `*`.",
        );
        if given.len() > BYTES_MAX {
            return Err(INVALID);
        }
        let count = given.split('.').count();
        let fits = given.split('.').all(|word| word == ANY || is_word(word))
            && (count == WORDS || count < WORDS && given.ends_with(ANY));
        if !fits {
            return Err(INVALID);
        }
        let mut shortest = given;
        while let Some(shorter) = shortest.strip_suffix(".*").filter(|shorter| shorter.ends_with(ANY)) {
            // `a.*.*` is `a.*`, but `*.b.*` is not shortened to `*.b`.
            shortest = shorter;
        }
        Ok(Self(shortest.into()))
    }

    /// The pattern in its shortest form.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it stands for more than one permission.
    pub fn has_wildcard(&self) -> bool {
        self.0.split('.').any(|word| word == ANY)
    }

    /// Whether everything that `other` stands for is among what this stands for.
    pub fn covers(&self, other: &Self) -> bool {
        words(&self.0).into_iter().zip(words(&other.0)).all(|(own, other)| own == ANY || own == other)
    }

    /// How much it stands for, roughly, to put the narrower first: each wildcard counts for a thousand words.
    pub fn breadth(&self) -> u64 {
        words(&self.0).into_iter().map(|word| if word == ANY { 1_000 } else { 1 }).product()
    }

    /// In how many words this, widened, would still have to differ to cover `other`; 0 where it covers it.
    pub fn distance(&self, other: &Self) -> usize {
        words(&self.0).into_iter().zip(words(&other.0)).filter(|(own, other)| *own != ANY && own != other).count()
    }

    /// Every pattern, in its shortest form, that covers this one: eight at most.
    pub fn all_that_cover(&self) -> impl Iterator<Item = String> + '_ {
        let given = words(&self.0);
        let wild = (0..WORDS).filter(|place| given[*place] == ANY).fold(0, |mask, place| mask | 1_u8 << place);
        (0..1_u8 << WORDS).filter(move |mask| mask & wild == wild).map(move |mask| {
            let word = |place: usize| if mask & (1 << place) == 0 { given[place] } else { ANY };
            match (word(0), word(1), word(2)) {
                (ANY, ANY, ANY) => ANY.to_owned(),
                (service, ANY, ANY) => format!("{service}.*"),
                (service, resource, action) => format!("{service}.{resource}.{action}"),
            }
        })
    }
}

impl From<Permission> for Pattern {
    fn from(permission: Permission) -> Self {
        Self(permission.0)
    }
}

/// A pattern's words, with what a last `*` leaves out.
fn words(text: &str) -> [&str; WORDS] {
    let mut words = [ANY; WORDS];
    for (place, word) in words.iter_mut().zip(text.split('.')) {
        *place = word;
    }
    words
}

fn is_word(word: &str) -> bool {
    word.len() <= WORD_BYTES_MAX
        && word.starts_with(|first: char| first.is_ascii_lowercase())
        && word.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::parse(text).unwrap()
    }

    #[test]
    fn a_wildcard_is_one_word_in_front_and_all_the_rest_at_the_end() {
        let read = pattern("identity.users.read");
        for matching in [
            "*",
            "identity.*",
            "identity.users.*",
            "identity.users.read",
            "identity.*.read",
            "*.users.read",
            "*.*.read",
        ] {
            assert!(pattern(matching).covers(&read), "{matching}");
        }
        for other in
            ["audit.*", "identity.groups.*", "identity.users.create", "audit.*.read", "*.groups.*", "*.*.create"]
        {
            assert!(!pattern(other).covers(&read), "{other}");
        }
    }

    #[test]
    fn one_pattern_has_one_text() {
        for (given, shortest) in [
            ("*.*", "*"),
            ("*.*.*", "*"),
            ("identity.*.*", "identity.*"),
            ("identity.users.*", "identity.users.*"),
            ("*.users.*", "*.users.*"),
            ("a.b.c", "a.b.c"),
        ] {
            assert_eq!(pattern(given).as_str(), shortest);
        }
    }

    #[test]
    fn a_pattern_covers_what_is_narrower() {
        for (wide, narrow) in [
            ("*", "identity.*"),
            ("*", "*"),
            ("identity.*", "identity.*.read"),
            ("identity.*.read", "identity.users.read"),
            ("*.users.*", "identity.users.*"),
        ] {
            assert!(pattern(wide).covers(&pattern(narrow)), "{wide} {narrow}");
        }
        for (narrow, wide) in [
            ("identity.*", "*"),
            ("identity.users.*", "identity.*"),
            ("identity.*.read", "identity.users.*"),
            ("identity.users.read", "identity.users.*"),
            ("audit.*", "identity.users.read"),
        ] {
            assert!(!pattern(narrow).covers(&pattern(wide)), "{narrow} {wide}");
        }
    }

    #[test]
    fn exactly_the_listed_patterns_cover() {
        let listed = |text: &str| pattern(text).all_that_cover().collect::<Vec<_>>();
        assert_eq!(listed("a.b.c"), ["a.b.c", "*.b.c", "a.*.c", "*.*.c", "a.b.*", "*.b.*", "a.*", "*"]);
        assert_eq!(listed("a.*.c"), ["a.*.c", "*.*.c", "a.*", "*"]);
        assert_eq!(listed("*"), ["*"]);
        for text in ["a.b.c", "a.*.c", "a.b.*", "a.*", "*.b.c"] {
            for wide in listed(text) {
                assert_eq!(pattern(&wide).as_str(), wide);
                assert!(pattern(&wide).covers(&pattern(text)), "{wide} {text}");
            }
        }
    }

    #[test]
    fn distance_counts_the_words_in_the_way() {
        let read = pattern("identity.users.read");
        for (held, distance) in [
            ("identity.*", 0),
            ("identity.users.create", 1),
            ("identity.groups.*", 1),
            ("audit.*", 1),
            ("audit.entries.read", 2),
        ] {
            assert_eq!(pattern(held).distance(&read), distance, "{held}");
        }
    }

    #[test]
    fn what_is_neither_is_refused_at_once() {
        let long = "a".repeat(65);
        let huge = "a.".repeat(512 * 1024);
        for text in [
            "", ".", "a", "a.b", "a.b.c.d", "a.b.c.*", "a..c", "a.b.", ".b.c", "A.b.c", "a.b.c ", "a.b.**", "a*.b.c",
            "a.b.c\n", "ä.b.c", "1.b.c", "a.b.>", &long, &huge,
        ] {
            assert_eq!(Pattern::parse(text).unwrap_err().code, "invalid_permission", "{text:.20}");
        }
        for text in ["*", "a.*", "a.*.c", "a.b"] {
            assert_eq!(Permission::parse(text).unwrap_err().code, "invalid_permission", "{text}");
        }
    }
}
