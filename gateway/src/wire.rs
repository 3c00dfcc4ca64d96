//! The bytes of a connection on their way between the socket and the HTTP server: finds out which protocol the peer
//! speaks, shows heads to the [`Link`], notices a peer that takes nothing, and gives the parser's own bare refusals the
//! form that every other answer has.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::link::Link;

/// What an HTTP/2 client says first (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A field that each of our own answers has and the parser's refusals have not.
const OWN_FIELD: &[u8] = b"\r\nx-request-id: ";

/// Read at a time while lingering.
const LINGER_READ_BYTES: usize = 8 * 1024;

/// Writes a whole answer in place of the parser's, given its status.
pub(crate) type Refuse = Arc<dyn Fn(u16) -> Bytes + Send + Sync>;

/// A connection's bytes.
pub(crate) struct Wire {
    stream: TcpStream,
    link: Arc<Link>,
    refuse: Refuse,
    http2: bool,
    /// Read while finding out the protocol, not yet handed on.
    ahead: Bytes,
    /// What is written instead of what the server gave, and still has to be.
    instead: Option<Bytes>,
}

impl Wire {
    /// Waits for the first bytes. Ends with an error when the peer closes before.
    pub(crate) async fn open(mut stream: TcpStream, link: Arc<Link>, refuse: Refuse) -> io::Result<Self> {
        let mut ahead = BytesMut::with_capacity(PREFACE.len());
        let http2 = loop {
            if stream.read_buf(&mut ahead).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if ahead.starts_with(PREFACE) {
                break true;
            }
            if !PREFACE.starts_with(&ahead) {
                break false;
            }
        };
        if http2 {
            link.speaks_http2();
        }
        Ok(Self { stream, link, refuse, http2, ahead: ahead.freeze(), instead: None })
    }

    pub(crate) fn is_http2(&self) -> bool {
        self.http2
    }

    /// Writes what stands instead of an answer, to its end.
    fn poll_instead(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(instead) = self.instead.as_mut().filter(|instead| !instead.is_empty()) {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, instead))?;
            instead.advance(written);
        }
        self.instead = None;
        Poll::Ready(Ok(()))
    }

    /// Takes what the peer is still sending, and drops it, until the peer closes too: a socket closed with bytes unread
    /// resets the connection, and the answer is lost on its way (RFC 9112 §9.6). The connection's guard bounds it.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.link.lingers();
        let mut unwanted = [MaybeUninit::uninit(); LINGER_READ_BYTES];
        loop {
            let mut buffer = ReadBuf::uninit(&mut unwanted);
            // An error is the peer's way of closing.
            let outcome = ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer));
            if outcome.is_err() || buffer.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }

    fn note<T>(&self, outcome: &Poll<io::Result<T>>) {
        self.link.blocked(outcome.is_pending());
    }
}

/// The status of a refusal by the parser: a head alone, which none of our answers is.
fn bare_refusal(bytes: &[u8]) -> Option<u16> {
    let status = bytes.strip_prefix(b"HTTP/1.1 ")?.get(..3)?;
    let is_bare = status[0] == b'4' && bytes.ends_with(b"\r\n\r\n") && !contains(bytes, OWN_FIELD);
    is_bare.then(|| std::str::from_utf8(status).ok()?.parse().ok())?
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        if self.ahead.is_empty() {
            ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        } else {
            let length = self.ahead.len().min(buffer.remaining());
            buffer.put_slice(&self.ahead.split_to(length));
        }
        if !self.http2 {
            self.link.received(&buffer.filled()[before..]);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.as_mut().poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let refused = slices.first().filter(|_| !self.http2).and_then(|first| bare_refusal(first));
        let outcome = match refused {
            None => Pin::new(&mut self.stream).poll_write_vectored(cx, slices),
            Some(status) => {
                if self.instead.is_none() {
                    self.instead = Some((self.refuse)(status));
                }
                let length = slices.first().map_or(0, |first| first.len());
                self.poll_instead(cx).map_ok(|()| length)
            }
        };
        self.note(&outcome);
        outcome
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
        self.poll_linger(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::bare_refusal;

    #[test]
    fn only_the_parsers_own_refusals_are_replaced() {
        let bare = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        assert_eq!(bare_refusal(bare), Some(431));
        assert_eq!(bare_refusal(b"HTTP/1.1 404 Not Found\r\nx-request-id: 1\r\ncontent-length: 0\r\n\r\n"), None);
        assert_eq!(bare_refusal(b"HTTP/1.1 200 OK\r\n\r\n"), None);
        assert_eq!(bare_refusal(b"HTTP/1.1 100 Continue\r\n\r\n"), None);
        assert_eq!(bare_refusal(b"HTTP/1.1 4"), None);
    }
}
