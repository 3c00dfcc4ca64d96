//! HTTP/2 without TLS, with prior knowledge (RFC 9113 §3.3).

use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};
use platform_tests::http::Http;
use tokio::net::TcpStream;

use crate::shared;

type Sender = hyper::client::conn::http2::SendRequest<Empty<Bytes>>;

#[expect(clippy::disallowed_methods, reason = "ends with the runtime of the test")]
async fn connect(gateway: &Http) -> Sender {
    let address = gateway.base().strip_prefix("http://").unwrap();
    let stream = TcpStream::connect(address).await.unwrap();
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

async fn ask(sender: &mut Sender, uri: &str, host: Option<&str>) -> (u16, serde_json::Value) {
    let mut request = hyper::Request::get(uri);
    if let Some(host) = host {
        request = request.header("host", host);
    }
    let response = sender.send_request(request.body(Empty::new()).unwrap()).await.unwrap();
    assert!(!response.headers().contains_key("connection"));
    assert!(response.headers().contains_key("x-request-id"));
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&body).unwrap())
}

#[tokio::test]
async fn many_requests_share_one_connection() {
    let platform = shared().await;
    let sender = connect(&platform.gateway(1)).await;

    let requests = (0..200).map(|_| {
        let mut sender = sender.clone();
        async move { ask(&mut sender, "http://gateway/livez", None).await.0 }
    });

    assert_eq!(futures::future::join_all(requests).await, [200; 200]);
}

#[tokio::test]
async fn authority_and_host_must_agree() {
    let platform = shared().await;
    let mut sender = connect(&platform.gateway(1)).await;

    assert_eq!(ask(&mut sender, "http://a.example/livez", Some("a.example")).await.0, 200);
    let (status, problem) = ask(&mut sender, "http://a.example/livez", Some("b.example")).await;
    assert_eq!((status, problem["code"].as_str()), (400, Some("malformed_request")));
    assert_eq!(ask(&mut sender, "http://a.example/livez", None).await.0, 200, "the connection is not the stream");
}
