//! The body of a request, read whole and bounded in size and time. It is not looked into: a service decodes it.

use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::HeaderValue;
use http_body_util::BodyExt as _;
use hyper::body::Body as _;

use crate::head::Head;
use crate::refusal::Refusal;

/// Reads the body of a method that has one: at most `bytes_max` bytes within `timeout`, JSON by its head.
pub(crate) async fn read(head: &Head, body: Body, bytes_max: u32, timeout: Duration) -> Result<Bytes, Refusal> {
    if head.content_is_encoded {
        return Err(Refusal::unsupported_encoding());
    }
    if body.is_end_stream() {
        return if head.content_type.as_ref().is_none_or(is_json) {
            Ok(Bytes::new())
        } else {
            Err(Refusal::unsupported_media_type())
        };
    }
    if !head.content_type.as_ref().is_some_and(is_json) {
        return Err(Refusal::unsupported_media_type());
    }
    collect(body, bytes_max, timeout).await
}

/// Makes sure that a method without a body came without one.
pub(crate) async fn refuse(body: Body, timeout: Duration) -> Result<(), Refusal> {
    if body.is_end_stream() {
        return Ok(());
    }
    match collect(body, 0, timeout).await {
        Ok(_) => Ok(()),
        Err(refusal) if refusal.error.status() == 413 => Err(Refusal::unexpected_body()),
        Err(refusal) => Err(refusal),
    }
}

async fn collect(body: Body, bytes_max: u32, timeout: Duration) -> Result<Bytes, Refusal> {
    if body.size_hint().lower() > u64::from(bytes_max) {
        return Err(Refusal::body_too_large(bytes_max));
    }
    tokio::time::timeout(timeout, collect_frames(body, bytes_max))
        .await
        .unwrap_or_else(|_| Err(Refusal::body_timeout()))
}

async fn collect_frames(mut body: Body, bytes_max: u32) -> Result<Bytes, Refusal> {
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| Refusal::malformed_body())?.into_data() else {
            continue; // Trailers say nothing that anybody here asks.
        };
        if first.len() + rest.len() + data.len() > bytes_max as usize {
            return Err(Refusal::body_too_large(bytes_max));
        }
        if first.is_empty() {
            first = data;
        } else {
            rest.extend_from_slice(&data);
        }
    }
    if rest.is_empty() {
        return Ok(first); // Nearly every body comes in one piece, and is not copied.
    }
    let mut whole = BytesMut::with_capacity(first.len() + rest.len());
    whole.extend_from_slice(&first);
    whole.extend_from_slice(&rest);
    Ok(whole.freeze())
}

/// Whether a media type is JSON in UTF-8, which is the only JSON there is (RFC 8259 §8.1).
fn is_json(content_type: &HeaderValue) -> bool {
    let Ok(text) = content_type.to_str() else { return false };
    let (essence, parameters) = text.split_once(';').map_or((text, None), |(essence, rest)| (essence, Some(rest)));
    let utf_8 = |parameter: &str| {
        let (name, value) = parameter.trim().split_once('=').unwrap_or_default();
        let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
        name.eq_ignore_ascii_case("charset") && value.eq_ignore_ascii_case("utf-8")
    };
    essence.trim().eq_ignore_ascii_case("application/json") && parameters.is_none_or(utf_8)
}

#[cfg(test)]
mod tests {
    use super::*;

    const JSON: &str = "application/json";

    async fn status(content_type: Option<&'static str>, body: Body) -> u16 {
        let head = Head { content_type: content_type.map(HeaderValue::from_static), ..Head::default() };
        match read(&head, body, 10, Duration::from_secs(1)).await {
            Ok(bytes) => 200 + u16::try_from(bytes.len()).unwrap(),
            Err(refusal) => refusal.error.status(),
        }
    }

    fn pieces(pieces: &[&'static str]) -> Body {
        let pieces: Vec<Result<_, std::io::Error>> =
            pieces.iter().map(|piece| Ok(Bytes::from_static(piece.as_bytes()))).collect();
        Body::from_stream(futures::stream::iter(pieces))
    }

    #[tokio::test]
    async fn bodies_within_bounds_are_read_whole() {
        assert_eq!(status(Some(JSON), Body::from("0123456789")).await, 210);
        assert_eq!(status(Some(JSON), pieces(&["01", "23", "456"])).await, 207);
        assert_eq!(status(None, Body::empty()).await, 200);
    }

    #[tokio::test]
    async fn large_bodies_are_refused_with_and_without_a_length() {
        assert_eq!(status(Some(JSON), Body::from("0123456789a")).await, 413);
        assert_eq!(status(Some(JSON), pieces(&["01234", "56789", "a"])).await, 413);
    }

    #[tokio::test(start_paused = true)]
    async fn bodies_that_do_not_come_time_out() {
        assert_eq!(
            status(Some(JSON), Body::from_stream(futures::stream::pending::<Result<Bytes, std::io::Error>>())).await,
            408
        );
    }

    #[tokio::test]
    async fn other_types_and_encodings_are_refused() {
        for good in [
            "application/json; charset=utf-8",
            "Application/JSON;charset=\"UTF-8\"",
            "application/json ; charset=utf-8",
        ] {
            assert_eq!(status(Some(good), Body::from("{}")).await, 202, "{good}");
        }
        for bad in [
            "text/plain",
            "application/json; charset=utf-16",
            "application/json, text/plain",
            "application/jsonx",
            "multipart/form-data",
            "application/json; charset=utf-8; charset=utf-7",
            "application/json; boundary=x",
            "application/x-www-form-urlencoded",
            "",
        ] {
            assert_eq!(status(Some(bad), Body::from("{}")).await, 415, "{bad}");
            assert_eq!(status(Some(bad), Body::empty()).await, 415, "{bad}");
        }
        assert_eq!(status(None, Body::from("{}")).await, 415);
        let encoded =
            Head { content_is_encoded: true, content_type: Some(HeaderValue::from_static(JSON)), ..Head::default() };
        assert_eq!(read(&encoded, Body::from("{}"), 10, Duration::from_secs(1)).await.unwrap_err().error.status(), 415);
    }

    #[tokio::test]
    async fn body_where_none_belongs_is_refused() {
        let refused =
            |body| async { refuse(body, Duration::from_secs(1)).await.map_err(|refusal| refusal.error.status()) };
        assert_eq!(refused(Body::empty()).await, Ok(()));
        assert_eq!(refused(pieces(&[])).await, Ok(()));
        assert_eq!(refused(Body::from("x")).await, Err(400));
        assert_eq!(refused(pieces(&["x"])).await, Err(400));
    }
}
