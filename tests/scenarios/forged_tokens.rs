//! Forged access tokens (reliability.md §4.4): each is refused at the gateway and at a service asked directly, with one
//! constant answer. Most are signed with the platform's real key and wrong in one thing, so a verifier that only looks
//! at signatures fails too; and the same forge makes tokens that are taken, so one that refuses everything fails as well.

use std::time::{SystemTime, UNIX_EPOCH};

use auth::domain::{KeyId, MasterKey, SealedKey, SigningKey};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE, URL_SAFE_NO_PAD},
};
use nkeys::{KeyPair, KeyPairType};
use platform_tests::{Platform, Setup, broker::Broker, http::Reply, people::Person};
use reqwest::Method;
use serde_json::{Value, json};

/// Far beyond any leeway for clocks that disagree (60 s at most).
const LONG_AGO_S: i64 = 3600;

/// Makes tokens, from a real one.
struct Forge {
    genuine: String,
    header: Value,
    claims: Value,
    key: SigningKey,
}

impl Forge {
    async fn new(platform: &Platform, person: &Person) -> Forge {
        let tokens = platform.http().login(&person.email, &person.password).await;
        let genuine = tokens["accessToken"].as_str().unwrap().to_owned();
        let part = |index: usize| {
            let part = genuine.split('.').nth(index).unwrap();
            serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
        };
        let (header, claims): (Value, Value) = (part(0), part(1));
        let key = signing_key(platform, header["kid"].as_str().expect("tokens name their key")).await;
        Forge { genuine, header, claims, key }
    }

    /// A token of these texts, signed with the platform's key.
    fn sign(&self, header: &str, claims: &str) -> String {
        sign_with(|input| self.key.sign(input).as_ref().to_vec(), header, claims)
    }

    /// The genuine token with other claims.
    fn claiming(&self, change: impl FnOnce(&mut Value)) -> String {
        let mut claims = self.claims.clone();
        change(&mut claims);
        self.sign(&self.header.to_string(), &claims.to_string())
    }

    /// The genuine token with another header.
    fn headed(&self, change: impl FnOnce(&mut Value)) -> String {
        let mut header = self.header.clone();
        change(&mut header);
        self.sign(&header.to_string(), &self.claims.to_string())
    }
}

fn sign_with(sign: impl Fn(&[u8]) -> Vec<u8>, header: &str, claims: &str) -> String {
    let input = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let signature = sign(input.as_bytes());
    format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// What auth signs with: from its table, opened with its key file, as only it can.
async fn signing_key(platform: &Platform, kid: &str) -> SigningKey {
    let mut database = platform.superuser().await;
    let sealed_seed: Vec<u8> = sqlx::query_scalar("SELECT sealed_seed FROM auth.signing_keys WHERE id = $1")
        .bind(kid)
        .fetch_one(&mut database)
        .await
        .unwrap();
    let file = std::fs::read_to_string(platform.folder().join("secrets/auth.key")).unwrap();
    let master = MasterKey::parse(&file.into()).unwrap();
    let sealed = SealedKey { id: KeyId::from_storage(kid.to_owned()), sealed_seed };
    SigningKey::unseal(&sealed, &master.sealing_key()).unwrap()
}

/// Ed25519 as anybody may use it; nkeys are such keys.
fn stranger() -> KeyPair {
    KeyPair::new_from_raw(KeyPairType::User, [7; 32]).unwrap()
}

fn sign_as(key: &KeyPair, header: &str, claims: &str) -> String {
    sign_with(|input| key.sign(input).expect("a key with its seed"), header, claims)
}

fn public_key(key: &KeyPair) -> [u8; 32] {
    nkeys::from_public_key(&key.public_key()).unwrap().1
}

fn now_s() -> i64 {
    #[expect(clippy::disallowed_methods, reason = "services use real clocks, so forged times are relative to theirs")]
    let now = SystemTime::now();
    now.duration_since(UNIX_EPOCH).unwrap().as_secs().try_into().unwrap()
}

/// Number in the catalogue, what is wrong, the token.
fn forgeries(forge: &Forge, other: &str) -> Vec<(u32, String, String)> {
    let mut all = Vec::new();
    let mut add = |number: u32, what: &str, token: String| all.push((number, what.to_owned(), token));
    let parts: Vec<&str> = forge.genuine.split('.').collect();
    let [header, claims, signature] = parts[..] else { panic!("a JWS has three parts") };
    let now = now_s();

    for alg in ["none", "nOnE", "NONE", ""] {
        let token = forge.headed(|header| header["alg"] = alg.into());
        add(1, &format!("alg {alg:?}, signed"), token.clone());
        add(1, &format!("alg {alg:?}, unsigned"), format!("{}.", token.rsplit_once('.').unwrap().0));
    }
    add(2, "HS256 under the public key", hs256(forge));
    for alg in ["ES256", "RS256", "PS256", "ES256K", "Ed448", "HS256", "eddsa"] {
        add(3, &format!("alg {alg}"), forge.headed(|header| header["alg"] = alg.into()));
    }
    add(4, "an empty signature", format!("{header}.{claims}."));
    add(5, "another token's signature", format!("{header}.{claims}.{}", other.rsplit_once('.').unwrap().1));
    for (part, name) in [(0, "header"), (1, "claims"), (2, "signature")] {
        let mut bytes = URL_SAFE_NO_PAD.decode(parts[part]).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        let mut flipped = parts.clone();
        let text = URL_SAFE_NO_PAD.encode(bytes);
        flipped[part] = &text;
        add(6, &format!("one bit of the {name}"), flipped.join("."));
    }
    for kid in ["unknown", "", "../../../dev/null", "' OR 1=1 --", "\u{0}", &"k".repeat(10_000)] {
        add(8, &format!("kid {kid:.20}"), forge.headed(|header| header["kid"] = kid.into()));
    }
    add(7, "no kid", forge.headed(|header| _ = header.as_object_mut().unwrap().remove("kid")));
    add(7, "a kid that is a number", forge.headed(|header| header["kid"] = 5.into()));
    let (headers, claimed) = (forge.header.to_string(), forge.claims.to_string());
    add(10, "a stranger's signature under our kid", sign_as(&stranger(), &headers, &claimed));
    let own = URL_SAFE_NO_PAD.encode(public_key(&stranger()));
    let mut embedded = forge.header.clone();
    embedded["jwk"] = json!({ "kty": "OKP", "crv": "Ed25519", "x": own });
    add(11, "a stranger's key embedded", sign_as(&stranger(), &embedded.to_string(), &claimed));
    for remote in ["jku", "x5u"] {
        let mut header = forge.header.clone();
        header[remote] = "http://127.0.0.1:1/jwks.json".into();
        add(12, remote, sign_as(&stranger(), &header.to_string(), &claimed));
    }
    add(13, "an unknown critical extension", forge.headed(|header| header["crit"] = json!(["evil"])));
    add(14, "b64 false", forge.headed(|header| (header["b64"], header["crit"]) = (json!(false), json!(["b64"]))));
    add(15, "five parts", format!("{header}.{claims}.{signature}.x.y"));
    add(16, "two parts", format!("{header}.{claims}"));
    add(16, "four parts", format!("{header}.{claims}.{signature}.x"));
    add(16, "one part", header.to_owned());
    add(16, "dots", "..".to_owned());
    let padded = URL_SAFE.encode(URL_SAFE_NO_PAD.decode(signature).unwrap());
    add(17, "padding", format!("{header}.{claims}.{padded}"));
    add(17, "the other alphabet", format!("{header}.{claims}.{}", standard(signature)));
    add(17, "a blank within", format!("{header}. {claims}.{signature}"));
    add(17, "trailing bits", format!("{header}.{claims}.{}", trailing_bits(signature)));
    let twice = |text: &str, more: &str| format!("{{{more},{}", &text[1..]);
    add(18, "sub twice", forge.sign(&headers, &twice(&claimed, r#""sub":"0197f000-0000-7000-8000-000000000000""#)));
    add(18, "exp twice", forge.sign(&headers, &twice(&claimed, r#""exp":1"#)));
    add(19, "alg twice", forge.sign(&twice(&headers, r#""alg":"none""#), &claimed));
    for claim in ["exp", "iat", "iss", "aud", "sub", "jti", "sid"] {
        let token = forge.claiming(|claims| _ = claims.as_object_mut().unwrap().remove(claim));
        add(20, &format!("no {claim}"), token);
    }
    for exp in [json!((now + 600).to_string()), json!(-1), json!(null), json!([now + 600]), json!(true), json!(0)] {
        add(21, &format!("exp {exp}"), forge.claiming(|claims| claims["exp"] = exp.clone()));
    }
    let huge = claimed.replacen(&format!("\"exp\":{}", forge.claims["exp"]), "\"exp\":1e30", 1);
    add(21, "exp 1e30", forge.sign(&headers, &huge));
    add(22, "expired", forge.claiming(|claims| claims["exp"] = (now - 61).into()));
    add(23, "not yet valid", forge.claiming(|claims| claims["nbf"] = (now + LONG_AGO_S).into()));
    add(23, "nbf as text", forge.claiming(|claims| claims["nbf"] = "0".into()));
    add(
        24,
        "issued in the future",
        forge.claiming(|claims| {
            (claims["iat"], claims["exp"]) = ((now + LONG_AGO_S).into(), (now + 2 * LONG_AGO_S).into());
        }),
    );
    let issuer = forge.claims["iss"].as_str().expect("tokens name their issuer");
    for iss in ["https://evil.example", "", &format!("{issuer}/"), &issuer.to_uppercase()] {
        add(25, &format!("iss {iss}"), forge.claiming(|claims| claims["iss"] = iss.into()));
    }
    add(25, "iss as a list", forge.claiming(|claims| claims["iss"] = json!([issuer])));
    for aud in [json!("other"), json!(""), json!([]), json!(["other"]), json!({}), json!("trunkline2")] {
        add(26, &format!("aud {aud}"), forge.claiming(|claims| claims["aud"] = aud.clone()));
    }
    for typ in ["JWT", "id+jwt", "rt+jwt", "logout+jwt", ""] {
        add(27, &format!("typ {typ:?}"), forge.headed(|header| header["typ"] = typ.into()));
    }
    add(27, "no typ", forge.headed(|header| _ = header.as_object_mut().unwrap().remove("typ")));
    for sub in [json!(""), json!("admin"), json!(5), json!("../x")] {
        add(28, &format!("sub {sub}"), forge.claiming(|claims| claims["sub"] = sub.clone()));
    }
    add(31, "a signature that is not canonical", format!("{header}.{claims}.{}", not_canonical(signature)));
    for length in [0, 1, 31, 63] {
        let bytes = URL_SAFE_NO_PAD.decode(signature).unwrap();
        let cut = URL_SAFE_NO_PAD.encode(&bytes[..length]);
        add(31, &format!("{length} bytes of signature"), format!("{header}.{claims}.{cut}"));
    }
    add(32, "zeros for a signature", format!("{header}.{claims}.{}", URL_SAFE_NO_PAD.encode([0; 64])));
    let deep = format!("{{\"x\":{}1{},{}", "[".repeat(1000), "]".repeat(1000), &claimed[1..]);
    add(33, "claims 1,000 deep", forge.sign(&headers, &deep));
    for (what, claims) in
        [("a list", "[]"), ("text", "\"x\""), ("nothing", ""), ("null", "null"), ("a control character", "\u{1}")]
    {
        add(33, &format!("claims that are {what}"), forge.sign(&headers, claims));
    }
    let service = sign_as(&stranger(), &headers, &{
        let mut claims = forge.claims.clone();
        claims["roles"] = json!(["admin"]);
        claims.to_string()
    });
    add(35, "roles enlarged under another key", service);
    all
}

#[tokio::test]
async fn forged_tokens_are_refused_at_the_gateway_and_by_a_service() {
    let platform = Setup::new().start().await;
    let person = Person::registered(&platform.http()).await;
    let forge = Forge::new(&platform, &person).await;
    let other = Forge::new(&platform, &person).await.genuine;
    let ops = platform.user("ops").connect().await;
    // The forge works: what it makes of honest claims is taken, on both doors.
    for token in [forge.genuine.clone(), forge.claiming(|_| {}), forge.claiming(|claims| claims["extra"] = 1.into())] {
        assert_eq!(taken(&platform, &ops, &token).await, (200, 0), "{token}");
    }

    let mut shapes = std::collections::BTreeSet::new();
    for (number, what, token) in forgeries(&forge, &other) {
        let reply = platform.http().with_token(&token).get("/api/v1/users/me").await;
        let answer = ops.call_as(&token, "svc.identity.v1.get_me", &json!({})).await;

        let problem = reply.any_problem();
        assert_eq!((reply.status, &problem["code"]), (401, &"invalid_token".into()), "{number}, {what}: {reply:?}");
        assert!(reply.header("www-authenticate").starts_with("Bearer"), "{number}, {what}: RFC 6750 §3: {reply:?}");
        let told = answer.any_problem();
        assert_eq!((answer.error_code, &told["code"]), (401, &"invalid_token".into()), "{number}, {what}: {answer:?}");
        for mut problem in [problem, told] {
            problem["requestId"] = Value::Null;
            // A subject that nobody is, is honestly signed: its answer may say so.
            if number != 28 {
                shapes.insert(problem.to_string());
            }
        }
    }

    assert_eq!(shapes.len(), 1, "one answer, whatever is wrong: {shapes:#?}");
    assert_eq!(taken(&platform, &ops, &forge.genuine).await, (200, 0), "the genuine token is still taken");
    platform.check_calm();
}

#[tokio::test]
async fn roles_that_a_token_names_grant_nothing() {
    let platform = Setup::new().start().await;
    let person = Person::registered(&platform.http()).await;
    let forge = Forge::new(&platform, &person).await;
    let ops = platform.user("ops").connect().await;
    let roles = |claims: &mut Value| claims["roles"] = json!(["admin"]);

    // Under the platform's own key the token counts; what its user may is authz's to say all the same.
    let platforms = forge.claiming(roles);
    ops.call_as(&platforms, "svc.identity.v1.get_me", &json!({})).await.json();
    let mut claims = forge.claims.clone();
    roles(&mut claims);
    let services = KeyPair::from_seed(platform.user("identity").seed.trim()).unwrap();
    let forged = sign_as(&services, &forge.header.to_string(), &claims.to_string());

    ops.call_as(&platforms, "svc.identity.v1.list_users", &json!({})).await.problem(403, "permission_denied");
    ops.call_as(&forged, "svc.identity.v1.list_users", &json!({})).await.problem(401, "invalid_token");
    ops.call_as(&forge.genuine, "svc.identity.v1.list_users", &json!({})).await.problem(403, "permission_denied");
}

#[tokio::test]
async fn authorization_headers_are_taken_in_one_form() {
    let platform = Setup::new().start().await;
    let person = Person::registered(&platform.http()).await;
    let forge = Forge::new(&platform, &person).await;
    let token = &forge.genuine;
    let get = async |values: &[String]| {
        let mut request = platform.http().request(Method::GET, "/api/v1/users/me");
        for value in values {
            request = request.header("authorization", value);
        }
        Reply::of(request).await
    };

    for good in [format!("Bearer {token}"), format!("bearer {token}"), format!("BEARER {token}")] {
        assert_eq!(get(std::slice::from_ref(&good)).await.status, 200, "the scheme's case does not matter: {good:.12}");
    }
    for bad in [
        "Bearer".to_owned(),
        "Bearer ".to_owned(),
        token.clone(),
        format!("Bearer\t{token}"),
        format!("Bearer, {token}"),
        format!("Bearer {token}, Bearer {token}"),
        format!("Bearer {token} x"),
        format!("Bearer={token}"),
        format!("Basic {}", STANDARD.encode("admin:admin")),
        format!("Token {token}"),
        "Bearer \u{e9}".to_owned(),
    ] {
        let reply = get(std::slice::from_ref(&bad)).await;
        reply.any_problem();
        assert!([400, 401].contains(&reply.status), "{bad:.30}: {reply:?}");
    }
    let two = [format!("Bearer {token}"), format!("Bearer {token}")];
    let reply = get(&two).await;
    reply.any_problem();
    assert_eq!(reply.status, 400, "two of them: {reply:?}");
    let endless = get(&[format!("Bearer {}", "x".repeat(1024 * 1024))]).await;
    assert!([400, 401, 431].contains(&endless.status), "a token of 1 MB: {endless:?}");
    platform.check_calm();
}

/// Status over HTTP and error code over NATS.
async fn taken(platform: &Platform, ops: &Broker, token: &str) -> (u16, u16) {
    let reply = platform.http().with_token(token).get("/api/v1/users/me").await;
    let answer = ops.call_as(token, "svc.identity.v1.get_me", &json!({})).await;
    (reply.status, answer.error_code)
}

fn hs256(forge: &Forge) -> String {
    let mut header = forge.header.clone();
    header["alg"] = "HS256".into();
    let claims = forge.claims.to_string();
    let input = format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(claims));
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &forge.key.public_key());
    let tag = aws_lc_rs::hmac::sign(&key, input.as_bytes());
    format!("{input}.{}", URL_SAFE_NO_PAD.encode(tag))
}

/// The same bytes with `+` and `/`, made to differ where they happen not to.
fn standard(signature: &str) -> String {
    let swapped = signature.replace('-', "+").replace('_', "/");
    if swapped == signature { format!("+{}", &signature[1..]) } else { swapped }
}

/// 64 bytes are 85 characters and 4 of a 86th character's 6 bits: sets the last unused one.
fn trailing_bits(signature: &str) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let (rest, last) = signature.split_at(signature.len() - 1);
    let value = ALPHABET.iter().position(|letter| *letter == last.as_bytes()[0]).unwrap();
    format!("{rest}{}", char::from(ALPHABET[value | 1]))
}

/// Adds the group's order to S: the same point, but another encoding, which RFC 8032 §5.1.7 refuses.
fn not_canonical(signature: &str) -> String {
    const ORDER: [u8; 32] = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
    ];
    let mut bytes = URL_SAFE_NO_PAD.decode(signature).unwrap();
    let mut carry = 0;
    for (byte, order) in bytes[32..].iter_mut().zip(ORDER) {
        let sum = u16::from(*byte) + u16::from(order) + carry;
        *byte = sum.to_le_bytes()[0];
        carry = sum >> 8;
    }
    URL_SAFE_NO_PAD.encode(bytes)
}
