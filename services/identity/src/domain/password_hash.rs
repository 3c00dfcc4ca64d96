//! Argon2id (RFC 9106) as PHC strings, and whether one that is kept should be made again.

use argon2::password_hash::phc;
use argon2::{Algorithm, Argon2, Block, Params, Version};

/// Bytes of a salt and of a hash (RFC 9106 §4).
const SALT_BYTES: usize = 16;
const HASH_BYTES: usize = 32;

/// The least memory, in KiB, for so many iterations: what the OWASP Password Storage Cheat Sheet holds to be equal.
const MEMORY_KIB_MIN: [(u32, u32); 5] = [(1, 47_104), (2, 19_456), (3, 12_288), (4, 9_216), (5, 7_168)];

/// The most memory, in KiB, that one hash may take: 256 MiB. A bound on what a stored string can make us allocate.
const MEMORY_KIB_MAX: u32 = 256 * 1_024;

/// The most passes and lanes, for the same reason.
const ITERATIONS_MAX: u32 = 64;
const PARALLELISM_MAX: u32 = 16;

/// What a hash costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashParameters {
    memory_kib: u32,
    iterations: u32,
    parallelism: u32,
}

impl HashParameters {
    /// Refuses, with the reason, what is weaker than OWASP's equivalents or beyond all measure.
    pub fn new(memory_kib: u32, iterations: u32, parallelism: u32) -> Result<Self, String> {
        let row = MEMORY_KIB_MIN.iter().rev().find(|(passes, _)| *passes <= iterations);
        let Some((_, memory_kib_min)) = row else {
            return Err("at least 1 iteration is needed".to_owned());
        };
        if memory_kib < *memory_kib_min {
            return Err(format!(
                "{memory_kib} KiB are too little for {iterations} iterations; at least {memory_kib_min} are needed"
            ));
        }
        if !(1..=PARALLELISM_MAX).contains(&parallelism) || iterations > ITERATIONS_MAX || memory_kib > MEMORY_KIB_MAX {
            return Err(format!(
                "at most {MEMORY_KIB_MAX} KiB, {ITERATIONS_MAX} iterations and a parallelism of 1 to {PARALLELISM_MAX} are sensible"
            ));
        }
        Ok(Self { memory_kib, iterations, parallelism })
    }

    /// What has to be done beside a hash of these parameters to have done the work of one of `current`; `None` where it is as much
    /// or more.
    fn shortfall(self, current: Self) -> Option<Self> {
        let blocks = |parameters: Self| u64::from(parameters.memory_kib) * u64::from(parameters.iterations);
        let missing = blocks(current).checked_sub(blocks(self)).filter(|missing| *missing > 0)?;
        let memory_kib = u32::try_from(missing / u64::from(current.iterations)).ok()?;
        Some(Self { memory_kib, ..current })
    }

    fn engine(self) -> Option<Argon2<'static>> {
        let params = Params::new(self.memory_kib, self.iterations, self.parallelism, Some(HASH_BYTES)).ok()?;
        Some(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
    }
}

/// What a check came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The password is another one.
    Wrong,
    /// It is the password.
    Right,
    /// It is the password, and its hash was made with other parameters than those in force: make a new one.
    RightButOutdated,
}

/// An argon2id hash with its salt and parameters.
#[derive(Clone)]
pub struct PasswordHash(String);

impl PasswordHash {
    /// Hashes `password`. `memory` is scratch space: it grows as needed and may be used again for the next one.
    pub fn make(password: &[u8], salt: [u8; SALT_BYTES], parameters: HashParameters, memory: &mut Vec<Block>) -> Self {
        let hash = compute(password, &salt, parameters, memory).expect("parameters that were accepted make a hash");
        let engine = parameters.engine().expect("parameters that were accepted make a hash");
        let phc = phc::PasswordHash {
            algorithm: Algorithm::Argon2id.ident(),
            version: Some(Version::V0x13.into()),
            params: engine.params().try_into().expect("parameters fit a PHC string"),
            salt: Some(phc::Salt::new(&salt).expect("16 bytes are a salt")),
            hash: Some(phc::Output::new(&hash).expect("32 bytes are a hash")),
        };
        Self(phc.to_string())
    }

    /// A hash as it was kept. Whether it is well-formed shows when it is verified.
    pub fn from_storage(phc: String) -> Self {
        Self(phc)
    }

    /// The PHC string, for keeping.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `password` is the one that was hashed. A string that is no argon2id hash within bounds matches nothing. Whatever it
    /// comes to, the work of `current` has been done at least: a hash from before that was raised must not tell, by being checked
    /// sooner than nobody's is, that somebody has it.
    pub fn verify(&self, password: &[u8], current: HashParameters, memory: &mut Vec<Block>) -> Verdict {
        let Some(stored) = Stored::parse(&self.0) else {
            Self::waste(password, current, memory);
            return Verdict::Wrong;
        };
        let Some(hash) = compute(password, stored.salt.as_ref(), stored.parameters, memory) else {
            Self::waste(password, current, memory);
            return Verdict::Wrong;
        };
        if let Some(shortfall) = stored.parameters.shortfall(current) {
            Self::waste(password, shortfall, memory);
        }
        match aws_lc_rs::constant_time::verify_slices_are_equal(&hash, stored.hash.as_bytes()) {
            Ok(()) if stored.parameters == current => Verdict::Right,
            Ok(()) => Verdict::RightButOutdated,
            Err(_) => Verdict::Wrong,
        }
    }

    /// Does the work of a check and knows nothing afterwards: for an address that nobody has.
    pub fn waste(password: &[u8], parameters: HashParameters, memory: &mut Vec<Block>) {
        std::hint::black_box(compute(password, &[0; SALT_BYTES], parameters, memory));
    }
}

impl std::fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PasswordHash")
    }
}

struct Stored {
    parameters: HashParameters,
    salt: phc::Salt,
    hash: phc::Output,
}

impl Stored {
    fn parse(text: &str) -> Option<Self> {
        let phc = phc::PasswordHash::new(text).ok()?;
        let (salt, hash) = (phc.salt?, phc.hash?);
        let params = Params::try_from(&phc).ok()?;
        let parameters =
            HashParameters { memory_kib: params.m_cost(), iterations: params.t_cost(), parallelism: params.p_cost() };
        let bounded = parameters.memory_kib <= MEMORY_KIB_MAX
            && parameters.iterations <= ITERATIONS_MAX
            && parameters.parallelism <= PARALLELISM_MAX;
        let is_ours = phc.algorithm == Algorithm::Argon2id.ident()
            && phc.version == Some(Version::V0x13.into())
            && hash.len() == HASH_BYTES;
        (bounded && is_ours).then_some(Self { parameters, salt, hash })
    }
}

fn compute(
    password: &[u8],
    salt: &[u8],
    parameters: HashParameters,
    memory: &mut Vec<Block>,
) -> Option<[u8; HASH_BYTES]> {
    let engine = parameters.engine()?;
    let blocks = engine.params().block_count();
    if memory.len() < blocks {
        memory.resize(blocks, Block::default());
    }
    let mut hash = [0; HASH_BYTES];
    engine.hash_password_into_with_memory(password, salt, &mut hash, &mut memory[..blocks]).ok()?;
    Some(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters(memory_kib: u32, iterations: u32) -> HashParameters {
        HashParameters::new(memory_kib, iterations, 1).unwrap()
    }

    #[test]
    fn hash_is_a_phc_string_and_knows_its_password() {
        let current = parameters(19_456, 2);
        let mut memory = Vec::new();

        let hash = PasswordHash::make(b"correct horse battery staple", [7; 16], current, &mut memory);

        assert!(hash.as_str().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{}", hash.as_str());
        assert_eq!(hash.verify(b"correct horse battery staple", current, &mut memory), Verdict::Right);
        assert_eq!(hash.verify(b"correct horse battery stapler", current, &mut memory), Verdict::Wrong);
    }

    #[test]
    fn other_parameters_are_verified_and_found_outdated() {
        let hash = PasswordHash::make(b"correct horse battery staple", [7; 16], parameters(12_288, 3), &mut Vec::new());

        let verdict = hash.verify(b"correct horse battery staple", parameters(19_456, 2), &mut Vec::new());

        assert_eq!(verdict, Verdict::RightButOutdated);
    }

    #[test]
    fn what_an_older_hash_lacks_of_the_present_work_is_done_besides() {
        let shortfall = |(memory_kib, iterations), current| parameters(memory_kib, iterations).shortfall(current);
        let raised = HashParameters::new(65_536, 3, 4).unwrap();

        assert_eq!(
            shortfall((19_456, 2), raised),
            Some(HashParameters { memory_kib: 65_536 - 19_456 * 2 / 3 - 1, iterations: 3, parallelism: 4 })
        );
        assert_eq!(
            shortfall((19_456, 2), parameters(38_912, 2)),
            Some(HashParameters { memory_kib: 19_456, iterations: 2, parallelism: 1 })
        );
        for (stored, current) in [((19_456, 2), (19_456, 2)), ((47_104, 2), (19_456, 2)), ((19_456, 4), (38_912, 2))] {
            assert_eq!(shortfall(stored, parameters(current.0, current.1)), None);
        }
    }

    #[test]
    fn scratch_space_may_be_used_again_for_less_and_for_more() {
        let mut memory = Vec::new();
        let make = |memory: &mut Vec<Block>, kib, passes| {
            PasswordHash::make(b"pw", [1; 16], parameters(kib, passes), memory).as_str().to_owned()
        };

        let fresh = make(&mut Vec::new(), 12_288, 3);
        make(&mut memory, 19_456, 2);

        assert_eq!(make(&mut memory, 12_288, 3), fresh);
        assert_eq!(make(&mut memory, 47_104, 1), make(&mut Vec::new(), 47_104, 1));
    }

    /// Computed by the reference implementation's command line tool, which comes with the RFC's authors' code:
    /// `echo -n password | argon2 somesalt -id -t 2 -m 16 -p 1`.
    #[test]
    fn hash_of_the_reference_implementation_is_verified() {
        let hash = PasswordHash::from_storage(
            "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc".to_owned(),
        );

        assert_eq!(hash.verify(b"password", parameters(19_456, 2), &mut Vec::new()), Verdict::RightButOutdated);
    }

    #[test]
    fn what_is_no_hash_of_ours_matches_nothing() {
        for stored in [
            "",
            "password",
            "$argon2i$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
            "$argon2id$v=19$m=4294967295,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
            "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ",
        ] {
            let verdict = PasswordHash::from_storage(stored.to_owned()).verify(
                b"password",
                parameters(19_456, 2),
                &mut Vec::new(),
            );
            assert_eq!(verdict, Verdict::Wrong, "{stored}");
        }
    }

    #[test]
    fn weak_and_absurd_parameters_are_refused() {
        for (memory_kib, iterations, parallelism) in [
            (47_104, 1, 1),
            (19_456, 2, 1),
            (12_288, 3, 1),
            (9_216, 4, 1),
            (7_168, 5, 1),
            (7_168, 9, 1),
            (65_536, 3, 4),
        ] {
            assert!(HashParameters::new(memory_kib, iterations, parallelism).is_ok());
        }
        for (memory_kib, iterations, parallelism) in [
            (19_456, 1, 1),
            (19_455, 2, 1),
            (12_287, 3, 1),
            (7_167, 9, 1),
            (19_456, 0, 1),
            (19_456, 2, 0),
            (19_456, 2, 17),
            (u32::MAX, 2, 1),
        ] {
            assert!(HashParameters::new(memory_kib, iterations, parallelism).is_err());
        }
    }
}
