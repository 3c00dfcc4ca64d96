//! W3C trace context (Level 1): the identity of a trace and of the span within it. Made and passed on whether or not
//! anything is exported, so that a log line can always be joined with its request.

use crate::Random;

/// Where in which trace something happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// Never all zeros.
    pub trace_id: [u8; 16],
    /// The span that caused this; never all zeros.
    pub span_id: [u8; 8],
    /// Whether the one who began the trace asked for it to be recorded.
    pub sampled: bool,
}

/// Characters of a version 00 `traceparent`: `00-<32>-<16>-<2>`.
const TRACEPARENT_LENGTH: usize = 55;

impl TraceContext {
    /// Begins a trace.
    pub fn root(random: &Random, sampled: bool) -> Self {
        Self { trace_id: non_zero(random.bytes()), span_id: non_zero(random.bytes()), sampled }
    }

    /// The same trace with a new span in it.
    pub fn child(&self, random: &Random) -> Self {
        Self { span_id: non_zero(random.bytes()), ..*self }
    }

    /// Reads a `traceparent` header. `None` for anything that the specification (§3.2.2) says to ignore.
    pub fn parse(header: &str) -> Option<Self> {
        let bytes = header.as_bytes();
        let version = header.get(0..2)?;
        let tail_allowed = version != "00";
        if bytes.len() < TRACEPARENT_LENGTH || (bytes.len() > TRACEPARENT_LENGTH && !tail_allowed) {
            return None;
        }
        if bytes.len() > TRACEPARENT_LENGTH && bytes[TRACEPARENT_LENGTH] != b'-' {
            return None;
        }
        if version == "ff" || bytes[2] != b'-' || bytes[35] != b'-' || bytes[52] != b'-' {
            return None;
        }
        let [_version] = from_hex::<1>(version)?;
        let trace_id = from_hex::<16>(header.get(3..35)?)?;
        let span_id = from_hex::<8>(header.get(36..52)?)?;
        let [flags] = from_hex::<1>(header.get(53..55)?)?;
        Self::from_parts(&trace_id, &span_id, flags & 1 == 1)
    }

    /// From raw bytes. `None` unless they are 16 and 8 long and neither is all zeros.
    pub fn from_parts(trace_id: &[u8], span_id: &[u8], sampled: bool) -> Option<Self> {
        let trace_id: [u8; 16] = trace_id.try_into().ok()?;
        let span_id: [u8; 8] = span_id.try_into().ok()?;
        (trace_id != [0; 16] && span_id != [0; 8]).then_some(Self { trace_id, span_id, sampled })
    }

    /// The `traceparent` header.
    pub fn to_traceparent(&self) -> String {
        format!("00-{}-{}-{:02x}", self.trace_id_hex(), to_hex(&self.span_id), u8::from(self.sampled))
    }

    /// 32 lower-case hexadecimal digits.
    pub fn trace_id_hex(&self) -> String {
        to_hex(&self.trace_id)
    }
}

fn non_zero<const N: usize>(mut bytes: [u8; N]) -> [u8; N] {
    if bytes == [0; N] {
        bytes[N - 1] = 1;
    }
    bytes
}

fn to_hex(bytes: &[u8]) -> String {
    let digit = |value: u8| char::from(b"0123456789abcdef"[usize::from(value)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 0xf)]).collect()
}

/// Lower case only, as the specification demands.
fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if pairs.len() != N || !rest.is_empty() {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn traceparent_round_trips() {
        let trace = TraceContext::parse(HEADER).unwrap();

        assert!(trace.sampled);
        assert_eq!(trace.trace_id_hex(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(trace.to_traceparent(), HEADER);
    }

    #[test]
    fn garbage_is_ignored() {
        let refused = [
            "",
            "00",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473\u{e9}-00f067aa0ba902b7-01",
            "\u{e9}\u{e9}-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0",
        ];

        for header in refused {
            assert_eq!(TraceContext::parse(header), None, "{header}");
        }
        let later_version = HEADER.replacen("00", "01", 1) + "-more";
        assert!(TraceContext::parse(&later_version).is_some());
    }

    #[test]
    fn child_stays_in_the_trace() {
        let random = Random::seeded(1);
        let root = TraceContext::root(&random, false);

        let child = root.child(&random);

        assert_eq!(child.trace_id, root.trace_id);
        assert_ne!(child.span_id, root.span_id);
    }
}
