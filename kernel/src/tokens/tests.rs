//! The forged tokens that a verifier must refuse, each beside a token that it takes.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE, URL_SAFE_NO_PAD};
use chrono::DateTime;
use futures::future::BoxFuture;
use serde_json::{Value, json};

use super::*;
use crate::settings::Tokens as TokenSettings;

const NOW: i64 = 1_800_000_000;
const HEADER: &str = r#"{"alg":"EdDSA","typ":"at+jwt","kid":"k1"}"#;

struct Source {
    keys: Mutex<Result<Vec<PublicKey>, ()>>,
    fetches: AtomicUsize,
}

impl KeySource for Source {
    fn fetch(&self) -> BoxFuture<'_, Result<Vec<PublicKey>>> {
        self.fetches.fetch_add(1, Ordering::SeqCst);
        let keys = self.keys.lock().unwrap().clone();
        Box::pin(async move { keys.map_err(|()| Error::unavailable("down")) })
    }
}

struct Fixture {
    pair: Ed25519KeyPair,
    other: Ed25519KeyPair,
    source: Arc<Source>,
    clock: Clock,
    verifier: TokenVerifier,
}

fn public_key(id: &str, pair: &Ed25519KeyPair) -> PublicKey {
    PublicKey::new(id, &URL_SAFE_NO_PAD.encode(pair.public_key())).unwrap()
}

fn fixture() -> Fixture {
    let pair = Ed25519KeyPair::from_seed_unchecked(&[1; 32]).unwrap();
    let other = Ed25519KeyPair::from_seed_unchecked(&[2; 32]).unwrap();
    let keys = Mutex::new(Ok(vec![public_key("k1", &pair)]));
    let source = Arc::new(Source { keys, fetches: AtomicUsize::new(0) });
    let clock = Clock::manual(DateTime::from_timestamp(NOW, 0).unwrap());
    let settings = TokenSettings { cache_max: 100, ..TokenSettings::default() };
    let verifier = TokenVerifier::new(&settings, source.clone(), clock.clone(), &Metrics::new());
    Fixture { pair, other, source, clock, verifier }
}

fn claims() -> Value {
    json!({
        "iss": "trunkline", "aud": "trunkline", "sub": "user-1", "sid": "session-1", "jti": "token-1",
        "client_id": "web", "roles": ["admin"], "iat": NOW - 10, "exp": NOW + 290,
    })
}

/// The claims with one of them replaced, or left out where `value` is `None`.
fn claims_with(name: &str, value: Option<Value>) -> String {
    let mut claims = claims();
    match value {
        Some(value) => claims[name] = value,
        None => drop(claims.as_object_mut().unwrap().remove(name)),
    }
    claims.to_string()
}

impl Fixture {
    fn sign(&self, header: &str, payload: &str) -> String {
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
        let signature = self.pair.sign(signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    fn good(&self) -> String {
        self.sign(HEADER, &claims().to_string())
    }

    async fn takes(&self, token: &str) -> bool {
        match self.verifier.verify(token).await {
            Ok(_) => true,
            Err(error) => {
                assert_eq!((error.status(), error.code()), (401, "invalid_token"));
                assert_eq!(error.detail(), invalid_token().detail());
                false
            }
        }
    }

    async fn refuses_all(&self, tokens: impl IntoIterator<Item = String>) {
        assert!(self.takes(&self.good()).await, "the control");
        for token in tokens {
            assert!(!self.takes(&token).await, "{}", &token[..token.len().min(300)]);
        }
    }
}

#[tokio::test]
async fn good_token_gives_its_claims() {
    let fixture = fixture();

    let claims = fixture.verifier.verify(&fixture.good()).await.unwrap();

    assert_eq!((claims.sub.as_str(), claims.sid.as_str(), claims.exp), ("user-1", "session-1", NOW + 290));
    assert_eq!(claims.roles, ["admin"]);
}

#[tokio::test]
async fn algorithm_is_not_the_tokens_to_choose() {
    let fixture = fixture();
    let payload = claims().to_string();
    let unsigned = |alg: &str| {
        let header = format!(r#"{{"alg":"{alg}","typ":"at+jwt","kid":"k1"}}"#);
        format!("{}.{}.", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(&payload))
    };
    let hmac = {
        let header = HEADER.replace("EdDSA", "HS256");
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(&payload));
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, fixture.pair.public_key().as_ref());
        let tag = aws_lc_rs::hmac::sign(&key, signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag))
    };
    let mut forged: Vec<String> = ["none", "nOnE", "NONE", ""].iter().map(|alg| unsigned(alg)).collect();
    forged.push(hmac);
    for alg in ["ES256", "RS256", "Ed25519", "eddsa", "EdDSA ", "none"] {
        forged.push(fixture.sign(&HEADER.replace("EdDSA", alg), &payload));
    }

    fixture.refuses_all(forged).await;
}

#[tokio::test]
async fn signature_must_be_this_keys_over_these_bytes() {
    let fixture = fixture();
    let good = fixture.good();
    let segments: Vec<&str> = good.split('.').collect();
    let another = fixture.sign(HEADER, &claims_with("sub", Some(json!("user-2"))));
    let foreign = {
        let signed = format!("{}.{}", segments[0], segments[1]);
        let signature = fixture.other.sign(signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    };
    // S + L verifies in the group but is not canonical (RFC 8032 §5.1.7).
    let non_canonical = {
        let order: [u8; 32] = [
            0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0, 0,
            0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
        ];
        let mut signature = URL_SAFE_NO_PAD.decode(segments[2]).unwrap();
        let mut carry = 0_u16;
        for (byte, add) in signature[32..].iter_mut().zip(order) {
            carry += u16::from(*byte) + u16::from(add);
            *byte = carry.to_le_bytes()[0];
            carry >>= 8;
        }
        format!("{}.{}.{}", segments[0], segments[1], URL_SAFE_NO_PAD.encode(signature))
    };
    let mut forged = vec![
        format!("{}.{}.", segments[0], segments[1]),
        format!("{}.{}.{}", segments[0], segments[1], URL_SAFE_NO_PAD.encode([0; 64])),
        format!("{}.{}.{}", segments[0], segments[1], URL_SAFE_NO_PAD.encode([0; 63])),
        format!("{}.{}.{}", segments[0], segments[1], another.rsplit('.').next().unwrap()),
        foreign,
        non_canonical,
    ];
    for (place, segment) in segments.iter().enumerate() {
        let mut bytes = URL_SAFE_NO_PAD.decode(segment).unwrap();
        for position in [0, bytes.len() / 2, bytes.len() - 1] {
            bytes[position] ^= 1;
            let mut flipped: Vec<String> = segments.iter().map(ToString::to_string).collect();
            flipped[place] = URL_SAFE_NO_PAD.encode(&bytes);
            forged.push(flipped.join("."));
            bytes[position] ^= 1;
        }
    }

    fixture.refuses_all(forged).await;
}

#[tokio::test]
async fn small_order_key_is_no_key_that_signs() {
    // The identity element as key: with R the identity and S zero every message would "verify".
    let mut identity = [0; 32];
    identity[0] = 1;
    let fixture = fixture();
    *fixture.source.keys.lock().unwrap() =
        Ok(PublicKey::new("k1", &URL_SAFE_NO_PAD.encode(identity)).into_iter().collect());
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(HEADER), URL_SAFE_NO_PAD.encode(claims().to_string()));
    let mut signature = [0; 64];
    signature[0] = 1;

    // Whoever publishes such a key has given the signing away; what is checked is that nothing panics.
    let _ = fixture.verifier.verify(&format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))).await;
    assert!(PublicKey::new("k1", &URL_SAFE_NO_PAD.encode([1; 31])).is_none());
    assert!(PublicKey::new("../k1", &URL_SAFE_NO_PAD.encode([1; 32])).is_none());
}

#[tokio::test]
async fn key_id_is_a_name_and_nothing_else() {
    let fixture = fixture();
    let payload = claims().to_string();
    let long = "k".repeat(10_000);
    let ids = ["k2", "../../etc/passwd", "k1' OR '1'='1", "k1\u{0}", "", "k1 ", &long];
    let forged = ids.map(|id| fixture.sign(&json!({"alg": "EdDSA", "typ": "at+jwt", "kid": id}).to_string(), &payload));

    fixture.refuses_all(forged).await;
}

#[tokio::test]
async fn header_holds_what_it_must_and_nothing_more() {
    let fixture = fixture();
    let payload = claims().to_string();
    let more = [
        r#""jwk":{"kty":"OKP","crv":"Ed25519","x":"AAAA"}"#,
        r#""jku":"https://evil.example/jwks""#,
        r#""x5u":"https://evil.example/x""#,
        r#""x5c":[]"#,
        r#""crit":["exp"]"#,
        r#""crit":[]"#,
        r#""b64":false"#,
        r#""zip":"DEF""#,
        r#""cty":"JWT""#,
        r#""alg":"EdDSA""#,
        r#""alg":"none""#,
        r#""kid":"k1""#,
    ];
    let mut forged: Vec<String> =
        more.iter().map(|member| fixture.sign(&HEADER.replace('}', &format!(",{member}}}")), &payload)).collect();
    for typ in ["JWT", "at+JWT", "application/at+jwt", "rt+jwt", "id+jwt", "logout+jwt", ""] {
        forged.push(fixture.sign(&HEADER.replace("at+jwt", typ), &payload));
    }
    for header in [
        "",
        "null",
        "[]",
        "{}",
        r#"{"alg":"EdDSA","kid":"k1"}"#,
        r#"{"typ":"at+jwt","kid":"k1"}"#,
        r#"{"alg":"EdDSA","typ":"at+jwt"}"#,
        r#"{"alg":["EdDSA"],"typ":"at+jwt","kid":"k1"}"#,
        r#"{"alg":"EdDSA","typ":"at+jwt","kid":1}"#,
        r#"{"alg":"EdDSA","typ":"at+jwt","kid":"k1"} x"#,
    ] {
        forged.push(fixture.sign(header, &payload));
    }

    fixture.refuses_all(forged).await;
}

#[tokio::test]
async fn form_is_three_segments_of_canonical_base64url() {
    let fixture = fixture();
    let good = fixture.good();
    let segments: Vec<&str> = good.split('.').collect();
    let payload = claims().to_string();
    let signature = URL_SAFE_NO_PAD.decode(segments[2]).unwrap();
    // 64 bytes leave four loose bits in the last character; set, they are another spelling of the same bytes.
    let loose_bits = {
        let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let last = alphabet.find(good.chars().last().unwrap()).unwrap();
        format!("{}{}", &good[..good.len() - 1], &alphabet[last + 1..last + 2])
    };
    let forged = [
        String::new(),
        ".".to_owned(),
        "..".to_owned(),
        "a.b.c".to_owned(),
        format!("{}.{}", segments[0], segments[1]),
        format!("{good}.{}", segments[2]),
        format!("{good}.{}.{}", segments[0], segments[1]),
        format!("{good}="),
        format!("{good}=="),
        format!(" {good}"),
        format!("{good}\n"),
        good.replace('.', "\t."),
        format!("{}.{}.{}", segments[0], segments[1], URL_SAFE.encode(&signature)),
        format!("{}.{}.{}", segments[0], segments[1], STANDARD.encode(&signature)),
        loose_bits,
        format!("Bearer {good}"),
        "\u{0}".repeat(100),
        "é".repeat(100),
        // 1 MB, ten thousand claims, ten thousand levels.
        fixture.sign(HEADER, &payload.replace("user-1", &"u".repeat(1_000_000))),
        fixture.sign(
            HEADER,
            &payload.replace('{', &(0..10_000).fold("{".to_owned(), |all, n| all + &format!("\"c{n}\":1,"))),
        ),
        fixture.sign(
            HEADER,
            &claims_with("deep", Some(Value::Null)).replace("null", &("[".repeat(3_000) + &"]".repeat(3_000))),
        ),
    ];

    fixture.refuses_all(forged).await;
}

#[tokio::test]
async fn claims_are_there_once_and_of_their_type() {
    let fixture = fixture();
    let payload = claims().to_string();
    let mut forged = Vec::new();
    for name in ["iss", "aud", "sub", "sid", "jti", "client_id", "iat", "exp"] {
        forged.push(claims_with(name, None));
        for value in [json!(null), json!(""), json!([]), json!({}), json!(true), json!(["trunkline", "evil"])] {
            forged.push(claims_with(name, Some(value)));
        }
    }
    for name in ["sub", "iss", "exp", "roles"] {
        forged.push(payload.replacen('{', &format!("{{\"{name}\":{},", claims()[name]), 1));
    }
    for value in [json!("1900000000"), json!(1_900_000_000.0), json!(-1), json!(1e30), json!(u64::MAX), json!(0)] {
        forged.push(claims_with("exp", Some(value)));
    }
    for value in [json!(NOW + 6), json!(NOW + 3_600), json!("x"), json!(1.5)] {
        forged.push(claims_with("iat", Some(value.clone())));
        forged.push(claims_with("nbf", Some(value)));
    }
    for value in ["trunkline/", "Trunkline", "https://trunkline", "trunkline2"] {
        forged.push(claims_with("iss", Some(json!(value))));
        forged.push(claims_with("aud", Some(json!(value))));
    }
    // An audience that names others too does not count, though ours is among them.
    forged.push(claims_with("aud", Some(json!(["trunkline"]))));
    forged.push(claims_with("sub", Some(json!("a\u{0}b"))));
    forged.push(claims_with("sub", Some(json!("s".repeat(257)))));
    forged.push(claims_with("roles", Some(json!("admin"))));
    forged.push(claims_with("roles", Some(json!([1]))));
    forged.push(claims_with("roles", Some(json!(null))));
    forged.extend(["[]", "null", "\"x\"", "", "{", "{} {}"].map(str::to_owned));
    let forged: Vec<String> = forged.iter().map(|payload| fixture.sign(HEADER, payload)).collect();

    fixture.refuses_all(forged).await;
    for harmless in
        [claims_with("roles", None), claims_with("nbf", Some(json!(NOW + 5))), claims_with("scope", Some(json!(["x"])))]
    {
        assert!(fixture.takes(&fixture.sign(HEADER, &harmless)).await, "{harmless}");
    }
}

#[tokio::test]
async fn remembered_token_ends_with_its_time() {
    let fixture = fixture();
    let token = fixture.good();
    assert!(fixture.takes(&token).await);

    fixture.clock.advance(Duration::from_secs(294));
    assert!(fixture.takes(&token).await, "within the leeway");
    fixture.clock.advance(Duration::from_secs(1));

    assert!(!fixture.takes(&token).await);
    assert_eq!(fixture.source.fetches.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn withdrawn_key_ends_its_tokens_and_a_new_one_is_found() {
    let fixture = fixture();
    let old = fixture.good();
    assert!(fixture.takes(&old).await);
    let life = Lifecycle::new();
    fixture.verifier.keep_fresh(&life);

    *fixture.source.keys.lock().unwrap() = Ok(vec![public_key("k2", &fixture.pair)]);
    tokio::time::sleep(Duration::from_secs(61)).await;

    assert!(!fixture.takes(&old).await);
    assert!(fixture.takes(&fixture.sign(&HEADER.replace("k1", "k2"), &claims().to_string())).await);
    life.stop();
}

#[tokio::test(start_paused = true)]
async fn unknown_key_id_asks_once_in_thirty_seconds() {
    let fixture = fixture();
    let unknown = |n: usize| fixture.sign(&HEADER.replace("k1", &format!("u{n}")), &claims().to_string());
    assert!(fixture.takes(&fixture.good()).await);

    for n in 0..100 {
        assert!(!fixture.takes(&unknown(n)).await);
    }
    assert_eq!(fixture.source.fetches.load(Ordering::SeqCst), 1);

    tokio::time::advance(Duration::from_secs(30)).await;
    for n in 0..100 {
        assert!(!fixture.takes(&unknown(n)).await);
    }
    assert_eq!(fixture.source.fetches.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn one_fetch_serves_all_who_wait() {
    let fixture = fixture();
    let tokens: Vec<String> =
        (0..50).map(|n| fixture.sign(HEADER, &claims_with("jti", Some(json!(format!("t{n}")))))).collect();

    let verified = futures::future::join_all(tokens.iter().map(|token| fixture.verifier.verify(token))).await;

    assert!(verified.iter().all(Result::is_ok));
    assert_eq!(fixture.source.fetches.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn keys_that_cannot_be_had_are_503_and_known_ones_are_kept() {
    let fixture = fixture();
    let keys = std::mem::replace(&mut *fixture.source.keys.lock().unwrap(), Err(()));
    let status = async |token: &str| fixture.verifier.verify(token).await.unwrap_err().status();
    assert_eq!(status(&fixture.good()).await, 503);

    *fixture.source.keys.lock().unwrap() = keys;
    assert_eq!(status(&fixture.good()).await, 503, "not asked again at once");
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(fixture.takes(&fixture.good()).await);

    *fixture.source.keys.lock().unwrap() = Err(());
    let life = Lifecycle::new();
    fixture.verifier.keep_fresh(&life);
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert!(fixture.takes(&fixture.sign(HEADER, &claims_with("jti", Some(json!("t2"))))).await);
    life.stop();
}

#[tokio::test]
async fn cache_is_bounded() {
    let fixture = fixture();

    for n in 0..1_000 {
        assert!(fixture.takes(&fixture.sign(HEADER, &claims_with("jti", Some(json!(format!("t{n}")))))).await);
    }

    assert!(fixture.verifier.0.cache.len() <= 110, "{}", fixture.verifier.0.cache.len());
}
