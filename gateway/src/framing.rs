//! What HTTP/1 framing the server's parser forgives and we do not.
//!
//! hyper lets `Transfer-Encoding` win over `Content-Length`, folds equal `Content-Length` lines into one, takes a bare LF
//! for a line's end (RFC 9112 §2.2, §6.1 and RFC 9110 §8.6 allow each) and drops a fragment from the target. These are
//! ways to smuggle a request past a proxy that reads it otherwise, and the parser leaves no trace of them. So this
//! watches the bytes of a head go by and counts; it parses nothing and decides nothing about where a message ends.

const CONTENT_LENGTH: &[u8] = b"content-length:";
const TRANSFER_ENCODING: &[u8] = b"transfer-encoding:";

/// Longest name looked for.
const NAME_BYTES_MAX: usize = TRANSFER_ENCODING.len();

/// Watches one head. Ask it once the head is complete; a new one watches the next.
#[derive(Debug, Default)]
pub(crate) struct HeadWatch {
    /// Lines that were not empty.
    lines: usize,
    /// Bytes of the present line.
    line_length: usize,
    /// The present line's first bytes, in lower case.
    line_start: [u8; NAME_BYTES_MAX],
    last: u8,
    /// What follows is a body, or a request sent ahead, and is not looked at.
    ended: bool,
    content_lengths: usize,
    transfer_encodings: usize,
    bare_line_feeds: usize,
    fragments: usize,
}

impl HeadWatch {
    /// Whether part of a head has come but not its end.
    pub(crate) fn is_inside(&self) -> bool {
        !self.ended && (self.lines > 0 || self.line_length > 0)
    }

    /// Whether the head can be read in more than one way.
    pub(crate) fn is_ambiguous(&self) -> bool {
        self.bare_line_feeds > 0 || self.fragments > 0 || self.content_lengths + self.transfer_encodings > 1
    }

    /// Takes the bytes as they come off the connection, in pieces of any size.
    pub(crate) fn see(&mut self, mut bytes: &[u8]) {
        while !self.ended && !bytes.is_empty() {
            let end = bytes.iter().position(|&byte| byte == b'\n');
            let (line, rest) = bytes.split_at(end.unwrap_or(bytes.len()));
            for (kept, byte) in self.line_start.iter_mut().skip(self.line_length).zip(line) {
                *kept = byte.to_ascii_lowercase();
            }
            if self.lines == 0 {
                self.fragments += usize::from(line.contains(&b'#'));
            }
            self.line_length += line.len();
            self.last = line.last().copied().unwrap_or(self.last);
            if end.is_some() {
                self.end_line();
            }
            bytes = rest.get(1..).unwrap_or_default();
        }
    }

    fn end_line(&mut self) {
        let carriage_return = self.line_length > 0 && self.last == b'\r';
        let text_length = self.line_length - usize::from(carriage_return);
        let name = &self.line_start[..text_length.min(NAME_BYTES_MAX)];
        self.bare_line_feeds += usize::from(!carriage_return);
        self.content_lengths += usize::from(name.starts_with(CONTENT_LENGTH));
        self.transfer_encodings += usize::from(name.starts_with(TRANSFER_ENCODING));
        // Empty lines before the request line do not end it (RFC 9112 §2.2).
        self.ended = text_length == 0 && self.lines > 0;
        self.lines += usize::from(text_length > 0);
        self.line_length = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::HeadWatch;

    /// Whether the head is ambiguous, which must not depend on how the bytes were cut.
    fn is_ambiguous(head: &str) -> bool {
        let mut whole = HeadWatch::default();
        whole.see(head.as_bytes());
        let mut bytewise = HeadWatch::default();
        head.as_bytes().iter().for_each(|&byte| bytewise.see(&[byte]));
        assert_eq!(whole.is_ambiguous(), bytewise.is_ambiguous(), "{head:?}");
        assert_eq!(whole.is_inside(), bytewise.is_inside(), "{head:?}");
        whole.is_ambiguous()
    }

    #[test]
    fn sound_heads_pass() {
        for head in [
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n{\n\n}\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 26\r\n\r\n\r\nContent-Length: 1\r\ncontent-length: 2\r\n",
            "GET / HTTP/1.1\r\nX-Content-Length: 1\r\nContent-Length: 0\r\n\r\n",
        ] {
            assert!(!is_ambiguous(head), "{head:?}");
        }
    }

    #[test]
    fn heads_with_two_readings_are_noticed() {
        for head in [
            "POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\nCONTENT-LENGTH: 5\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
            "GET /a#/b HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n\n",
        ] {
            assert!(is_ambiguous(head), "{head:?}");
        }
    }

    #[test]
    fn being_inside_lasts_from_the_first_byte_to_the_empty_line() {
        let mut watch = HeadWatch::default();
        assert!(!watch.is_inside());
        watch.see(b"GET / HT");
        assert!(watch.is_inside());
        watch.see(b"TP/1.1\r\n\r");
        assert!(watch.is_inside());
        watch.see(b"\nrest");
        assert!(!watch.is_inside());
    }
}
