//! Requests that two readers could cut differently (reliability.md §4.1): refused, the connection closed, and what
//! follows on it never answered.

use crate::raw::{Connection, PROBE};
use crate::shared;

const LOGIN: &str = "POST /api/v1/auth/login HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n";

/// What, bytes after the head of a login, status, code.
type Case = (&'static str, String, u16, &'static str);

fn login(what: &'static str, rest: &str, status: u16, code: &'static str) -> Case {
    (what, format!("{LOGIN}{rest}"), status, code)
}

fn plain(what: &'static str, head: &str) -> Case {
    (what, head.to_owned(), 400, "malformed_request")
}

fn ambiguous() -> Vec<Case> {
    let bad = |what, rest: &str| login(what, rest, 400, "malformed_request");
    let bad_body =
        |what, rest: &str| login(what, &format!("Transfer-Encoding: chunked\r\n\r\n{rest}"), 400, "malformed_body");
    vec![
        bad("CL, then TE", "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        bad("TE, then CL", "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n"),
        bad("two equal CL", "Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}"),
        bad("two CL", "Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}"),
        bad("CL with a sign", "Content-Length: +2\r\n\r\n{}"),
        bad("negative CL", "Content-Length: -1\r\n\r\n{}"),
        bad("a list of CL", "Content-Length: 5, 6\r\n\r\n{}"),
        bad("a list of equal CL", "Content-Length: 2, 2\r\n\r\n{}"),
        bad("CL beyond 64 bits", "Content-Length: 99999999999999999999\r\n\r\n{}"),
        bad("hexadecimal CL", "Content-Length: 0x2\r\n\r\n{}"),
        bad("an unknown TE", "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
        bad("a compressing TE", "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
        bad("chunked not last", "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n"),
        bad("two TE", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        bad_body("chunk size overflow", "fffffffffffffffff\r\n{}\r\n0\r\n\r\n"),
        bad_body("chunk size of letters", "zz\r\n{}\r\n0\r\n\r\n"),
        bad_body("negative chunk size", "-2\r\n{}\r\n0\r\n\r\n"),
        bad_body("chunks ended by LF", "2\n{}\n0\n\n"),
        bad_body("chunk longer than its size", "1\r\n{}\r\n0\r\n\r\n"),
        bad_body("huge chunk extension", &format!("2;{}\r\n{{}}\r\n0\r\n\r\n", "x".repeat(20_000))),
        (
            "TE on HTTP/1.0",
            format!("{}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", LOGIN.replace("/1.1", "/1.0")),
            400,
            "malformed_request",
        ),
        plain("bare LF", "GET /livez HTTP/1.1\nHost: a\n\n"),
        plain("one bare LF", "GET /livez HTTP/1.1\r\nHost: a\nX: b\r\n\r\n"),
        plain("bare CR", "GET /livez HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n"),
        plain("obsolete folding", "GET /livez HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n"),
        plain("NUL", "GET /livez HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n"),
        plain("space before the colon", "GET /livez HTTP/1.1\r\nHost : a\r\n\r\n"),
        plain("a name that is no token", "GET /livez HTTP/1.1\r\nHost: a\r\nX(: a\r\n\r\n"),
        plain("no Host", "GET /livez HTTP/1.1\r\n\r\n"),
        plain("two Hosts", "GET /livez HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
        plain("a Host with user information", "GET /livez HTTP/1.1\r\nHost: u@a\r\n\r\n"),
        plain("absolute form", "GET http://a/livez HTTP/1.1\r\nHost: a\r\n\r\n"),
        plain("a fragment", "GET /livez#x HTTP/1.1\r\nHost: a\r\n\r\n"),
        plain("tabs in the request line", "GET\t/livez\tHTTP/1.1\r\nHost: a\r\n\r\n"),
        plain("two spaces in the request line", "GET  /livez HTTP/1.1\r\nHost: a\r\n\r\n"),
        plain("HTTP/0.9", "GET /livez\r\n\r\n"),
        plain("an unknown version", "GET /livez HTTP/3.0\r\nHost: a\r\n\r\n"),
        plain("a TLS greeting", "\u{16}\u{3}\u{1}\r\n\r\n"),
        plain(
            "two tokens",
            "GET /livez HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer a\r\nAuthorization: Bearer b\r\n\r\n",
        ),
        login("an unknown expectation", "Content-Length: 2\r\nExpect: miracles\r\n\r\n{}", 417, "expectation_failed"),
    ]
}

#[tokio::test]
async fn ambiguous_requests_are_refused_once_and_the_connection_closed() {
    let platform = shared().await;
    let gateway = platform.gateway(1);

    for (what, bytes, status, code) in ambiguous() {
        let mut connection = Connection::open(&gateway).await;
        connection.send(format!("{bytes}{PROBE}")).await;

        let answer = connection.answer().await.unwrap_or_else(|| panic!("{what}: no answer"));
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{what}: {answer:?}");
        assert!(connection.closes().await, "{what}: a second answer or an open connection");
    }
    assert!(Connection::open(&gateway).await.serves().await);
}

#[tokio::test]
async fn ambiguity_is_noticed_however_the_bytes_are_cut() {
    let platform = shared().await;
    let gateway = platform.gateway(1);
    let mut connection = Connection::open(&gateway).await;

    // Each part must have been read before the next is sent, which only a good request in front can show.
    connection.send(PROBE).await;
    assert_eq!(connection.answer().await.unwrap().status, 200);
    for part in [LOGIN, "Content-Len", "gth: 2\r\ncontent-", "length: 2\r\n", "\r\n{}"] {
        connection.send(part).await;
        tokio::task::yield_now().await;
    }

    assert_eq!(connection.answer().await.unwrap().code(), "malformed_request");
    assert!(connection.closes().await);
}

#[tokio::test]
async fn sound_requests_are_answered_one_by_one() {
    let platform = shared().await;
    let gateway = platform.gateway(1);
    let chunked = format!("{LOGIN}Transfer-Encoding: chunked\r\n\r\n1\r\n{{\r\n1;x=y\r\n}}\r\n0\r\nTrailer: x\r\n\r\n");
    let sized = format!("{LOGIN}Content-Length: 4\r\n\r\n{{\n\n}}");

    let mut connection = Connection::open(&gateway).await;
    connection.send(format!("\r\n{PROBE}{sized}{chunked}{sized}{PROBE}")).await;

    let mut statuses = Vec::new();
    for _ in 0..5 {
        statuses.push(connection.answer().await.expect("each is answered").status);
    }
    assert_eq!((statuses[0], statuses[4]), (200, 200));
    assert!(statuses[1..4].iter().all(|status| *status == statuses[1] && (400..500).contains(status)), "{statuses:?}");
    assert!(connection.serves().await);
}

#[tokio::test]
async fn bytes_after_an_upgrade_are_no_request() {
    let platform = shared().await;
    let mut connection = Connection::open(&platform.gateway(1)).await;

    let head = "GET /livez HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    connection.send(format!("{head}{PROBE}")).await;

    let answer = connection.answer().await.unwrap();
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
    assert!(connection.closes().await);
}

#[tokio::test]
async fn body_that_ends_early_is_refused() {
    let platform = shared().await;
    let mut connection = Connection::open(&platform.gateway(1)).await;

    connection.send(format!("{LOGIN}Content-Length: 20\r\n\r\n{{}}")).await;
    connection.half_close().await;

    assert!(connection.answer().await.is_none_or(|answer| answer.code() == "malformed_body"));
    assert!(connection.closes().await);
}
