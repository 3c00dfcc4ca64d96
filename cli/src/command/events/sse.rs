//! Server-sent events (WHATWG HTML §9.2.6), as far as the gateway sends them, from bytes in any pieces.

use anyhow::{Result, ensure};

/// Bytes of one block at most: an event's body has 256 KiB.
const BLOCK_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What stands between two empty lines.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Block {
    /// Where the stream stands with it.
    pub(super) id: Option<u64>,
    /// Empty for a heartbeat.
    pub(super) event: String,
    pub(super) data: String,
}

/// What has been received and is not a whole block yet.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    received: Vec<u8>,
    /// Up to here there is no end of a block.
    searched: usize,
}

impl Blocks {
    /// Adds bytes. Fails where they do not look like events at all.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<()> {
        self.received.extend_from_slice(bytes);
        ensure!(self.received.len() - self.searched <= BLOCK_BYTES_MAX * 2, "the gateway sends no events");
        Ok(())
    }

    /// The next whole block.
    pub(super) fn next(&mut self) -> Option<Block> {
        let unsearched = &self.received[self.searched..];
        let Some(end) = unsearched.windows(2).position(|two| two == b"\n\n") else {
            self.searched = self.received.len().saturating_sub(1);
            return None;
        };
        let block: Vec<u8> = self.received.drain(..self.searched + end + 2).collect();
        self.searched = 0;
        Some(parse(&String::from_utf8_lossy(&block)))
    }
}

fn parse(text: &str) -> Block {
    let mut block = Block::default();
    for line in text.lines() {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "id" => block.id = value.parse().ok(),
            "event" => value.clone_into(&mut block.event),
            "data" => {
                if !block.data.is_empty() {
                    block.data.push('\n');
                }
                block.data.push_str(value);
            }
            _ => {}
        }
    }
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_come_whole_from_any_pieces() {
        let text =
            "retry: 1000\nid: 7\n\n: still here\nid: 9\n\nid: 10\nevent: a.b.c\ndata: {\"x\":\"ü\"}\n\nid: 11\neve";
        let mut blocks = Blocks::default();
        let mut found = Vec::new();
        for byte in text.as_bytes() {
            blocks.push(&[*byte]).unwrap();
            found.extend(blocks.next());
        }

        let block =
            |id, event: &str, data: &str| Block { id: Some(id), event: event.to_owned(), data: data.to_owned() };
        assert_eq!(found, [block(7, "", ""), block(9, "", ""), block(10, "a.b.c", "{\"x\":\"ü\"}")]);
        blocks.push(b"nt: d\n\n").unwrap();
        assert_eq!(blocks.next(), Some(block(11, "d", "")));
    }
}
