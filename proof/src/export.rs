//! A whole export: one entry a line in the order of the log, and a last line with the checkpoint that covers them.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::io::{self, BufRead};

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::checkpoint::{Checkpoint, Json, PublicKey};
use crate::encoding::Hash;
use crate::entry::{Entry, Personal, hashed_time};
use crate::finding::{Finding, Findings, Kind};
use crate::walk::{Place, Walk};

/// Bytes of a line at most: an entry's details are 256 KiB, and each of its other fields a few KiB.
const LINE_BYTES_MAX: u64 = 1024 * 1024;

/// What an export is worth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportReport {
    /// Entries that were read.
    pub entries: u64,
    /// Sequence of the first; 0 where there is none.
    pub first: i64,
    /// Sequence of the last that was read; 0 where there is none.
    pub last: i64,
    /// The checkpoint that covers them, whatever it is worth.
    pub checkpoint: Option<Checkpoint>,
    /// What is wrong, in order of sequence, at most [`FINDINGS_MAX`](crate::FINDINGS_MAX).
    pub findings: Vec<Finding>,
    /// How many there are.
    pub findings_count: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct EntryLine<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    sequence: Cow<'a, str>,
    #[serde(borrow)]
    time: Cow<'a, str>,
    #[serde(borrow)]
    actor: Reference<'a>,
    #[serde(borrow)]
    action: Cow<'a, str>,
    #[serde(borrow)]
    target: Reference<'a>,
    #[serde(borrow)]
    outcome: Cow<'a, str>,
    #[serde(borrow)]
    ip_address: Cow<'a, str>,
    #[serde(borrow)]
    user_agent: Cow<'a, str>,
    #[serde(borrow)]
    request_id: Cow<'a, str>,
    #[serde(borrow)]
    trace_id: Cow<'a, str>,
    #[serde(borrow)]
    details: &'a RawValue,
    #[serde(borrow)]
    personal_salt: Cow<'a, str>,
    #[serde(borrow)]
    actor_name: Cow<'a, str>,
    #[serde(borrow)]
    target_name: Cow<'a, str>,
    personal_digest: Hash,
    previous_hash: Hash,
    hash: Hash,
}

#[derive(Deserialize)]
struct Reference<'a> {
    #[serde(borrow)]
    r#type: Cow<'a, str>,
    #[serde(borrow)]
    id: Cow<'a, str>,
}

#[derive(Deserialize)]
struct LastLine {
    checkpoint: Json,
}

/// Verifies an export. Signatures count when made by one of `trusted`; by the checkpoint's own key where none is given.
///
/// Fails only where it cannot be read.
pub fn verify_lines(mut lines: impl BufRead, trusted: &[PublicKey]) -> io::Result<ExportReport> {
    let (mut line, mut encoded) = (Vec::with_capacity(4 * 1024), Vec::with_capacity(4 * 1024));
    let mut walk: Option<Walk> = None;
    let mut checkpoint = None;
    let mut late = Findings::default();
    let (mut number, mut first, mut last) = (0_u64, 0, 0);
    while read_line(&mut lines, &mut line)? {
        number += 1;
        if line.is_empty() {
            continue;
        }
        if checkpoint.is_some() {
            late.add(last + 1, Kind::Inserted, format!("Line {number} stands behind the checkpoint."));
            continue;
        }
        if line.starts_with(br#"{"checkpoint":"#) {
            match serde_json::from_slice::<LastLine>(&line).map(|line| Checkpoint::try_from(line.checkpoint)) {
                Ok(Ok(read)) => checkpoint = Some(read),
                _ => late.add(last, Kind::BadSignature, format!("Line {number} is no checkpoint.")),
            }
            continue;
        }
        let Some((entry, personal)) = parse(&line) else {
            walk.get_or_insert_with(|| Walk::new(Place::START)).unreadable(format!("Line {number} is no entry."));
            continue;
        };
        last = entry.sequence;
        let walk = walk.get_or_insert_with(|| {
            first = entry.sequence;
            Walk::new(if first == 1 { Place::START } else { Place::before(first) })
        });
        let digest = entry.personal_digest;
        let personal = personal.as_ref().map(OwnedPersonal::as_personal);
        walk.entry(entry.link(&mut encoded), personal.as_ref(), digest);
    }

    let mut walk = walk.unwrap_or_else(|| Walk::new(Place::START));
    match &checkpoint {
        Some(checkpoint) => judge(&mut walk, checkpoint, trusted, last, &mut late),
        None => late.add(last + 1, Kind::Truncated, "The end is not there: an export ends with a checkpoint."),
    }
    let (mut findings, entries, _) = walk.finish();
    for late in late.sorted() {
        findings.add(late.sequence, late.kind, late.detail);
    }
    let findings_count = findings.count();
    Ok(ExportReport { entries, first, last, checkpoint, findings: findings.sorted(), findings_count })
}

fn judge(walk: &mut Walk, checkpoint: &Checkpoint, trusted: &[PublicKey], last: i64, findings: &mut Findings) {
    if let Err(fault) = checkpoint.verify(trusted) {
        findings.add(checkpoint.sequence, Kind::BadSignature, format!("The checkpoint does not count: {fault}."));
        return;
    }
    match last.cmp(&checkpoint.sequence) {
        Ordering::Less => {
            let detail = format!("The end is not there: {} was signed.", checkpoint.sequence);
            findings.add(last + 1, Kind::Truncated, detail);
        }
        Ordering::Equal => walk.checkpoint(checkpoint.sequence, checkpoint.hash),
        Ordering::Greater => findings.add(checkpoint.sequence + 1, Kind::Inserted, "It stands behind what was signed."),
    }
}

/// Reads a line without its end into `line`. False at the end of the file.
fn read_line(lines: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    let read = io::Read::take(&mut *lines, LINE_BYTES_MAX).read_until(b'\n', line)?;
    while line.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
        line.pop();
    }
    Ok(read > 0)
}

struct OwnedPersonal<'a> {
    salt: Cow<'a, str>,
    ip_address: Cow<'a, str>,
    user_agent: Cow<'a, str>,
    actor_name: Cow<'a, str>,
    target_name: Cow<'a, str>,
}

impl OwnedPersonal<'_> {
    fn as_personal(&self) -> Personal<'_> {
        Personal {
            salt: &self.salt,
            ip_address: &self.ip_address,
            user_agent: &self.user_agent,
            actor_name: &self.actor_name,
            target_name: &self.target_name,
        }
    }
}

fn parse(line: &[u8]) -> Option<(Entry<'_>, Option<OwnedPersonal<'_>>)> {
    let line: EntryLine<'_> = serde_json::from_slice(line).ok()?;
    // Any other way of writing the number would be another text with the same hash.
    let sequence =
        line.sequence.parse().ok().filter(|number: &i64| *number > 0 && number.to_string() == line.sequence)?;
    let personal = OwnedPersonal {
        salt: line.personal_salt,
        ip_address: line.ip_address,
        user_agent: line.user_agent,
        actor_name: line.actor_name,
        target_name: line.target_name,
    };
    let time = match line.time {
        Cow::Borrowed(time) => hashed_time(time)?,
        Cow::Owned(time) => hashed_time(&time)?.into_owned().into(),
    };
    let entry = Entry {
        sequence,
        id: line.id,
        time,
        actor_type: line.actor.r#type,
        actor_id: line.actor.id,
        action: line.action,
        target_type: line.target.r#type,
        target_id: line.target.id,
        outcome: line.outcome,
        request_id: line.request_id,
        trace_id: line.trace_id,
        details: line.details.get().into(),
        personal_digest: line.personal_digest,
        previous_hash: line.previous_hash,
        hash: line.hash,
    };
    let personal = (!personal.as_personal().is_erased()).then_some(personal);
    Some((entry, personal))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::tests::{checkpoint, json};
    use crate::entry::tests::{PERSONAL, entry};

    /// Entries from 1 on, and the last line.
    fn export(entries: i64) -> Vec<String> {
        let mut previous = Hash::ZERO;
        let mut lines: Vec<String> = (1..=entries)
            .map(|sequence| {
                let mut entry = Entry { previous_hash: previous, ..entry(sequence) };
                entry.hash = entry.link(&mut Vec::new()).hash_at(sequence, previous);
                previous = entry.hash;
                line(&entry)
            })
            .collect();
        lines.push(format!(r#"{{"checkpoint":{}}}"#, json(&checkpoint(1, entries, previous))));
        lines
    }

    fn line(entry: &Entry<'_>) -> String {
        format!(
            r#"{{"id":"{}","sequence":"{}","time":"{}","actor":{{"type":"{}","id":"{}"}},"action":"{}","target":{{"type":"{}","id":"{}"}},"outcome":"{}","ipAddress":"{}","userAgent":"{}","requestId":"{}","traceId":"{}","details":{},"personalSalt":"{}","personalDigest":"{}","actorName":"{}","targetName":"{}","previousHash":"{}","hash":"{}"}}"#,
            entry.id,
            entry.sequence,
            entry.time,
            entry.actor_type,
            entry.actor_id,
            entry.action,
            entry.target_type,
            entry.target_id,
            entry.outcome,
            PERSONAL.ip_address,
            PERSONAL.user_agent,
            entry.request_id,
            entry.trace_id,
            entry.details,
            PERSONAL.salt,
            entry.personal_digest,
            PERSONAL.actor_name,
            PERSONAL.target_name,
            entry.previous_hash,
            entry.hash
        )
    }

    fn found(lines: &[String]) -> Vec<(i64, Kind)> {
        let trusted = checkpoint(1, 1, Hash::ZERO).public_key;
        let report = verify_lines(lines.join("\n").as_bytes(), &[trusted]).unwrap();
        report.findings.into_iter().map(|finding| (finding.sequence, finding.kind)).collect()
    }

    #[test]
    fn sound_export_is_sound_and_says_what_it_holds() {
        let trusted = checkpoint(1, 1, Hash::ZERO).public_key;

        let report = verify_lines(export(5).join("\r\n").as_bytes(), &[trusted]).unwrap();

        assert_eq!((report.entries, report.first, report.last, report.findings), (5, 1, 5, vec![]));
        assert_eq!(found(&export(5)[2..]), [], "a part of the log");
        assert_eq!(found(&export(0)), []);
    }

    #[test]
    fn every_way_of_tampering_is_found() {
        let altered = |alter: fn(&mut Vec<String>)| {
            let mut lines = export(9);
            alter(&mut lines);
            found(&lines)
        };

        assert_eq!(altered(|lines| lines[3] = lines[3].replace("SUCCESS", "DENIED")), [(4, Kind::Altered)]);
        assert_eq!(altered(|lines| lines[3] = lines[3].replace("192.0.2.1", "192.0.2.2")), [(4, Kind::Altered)]);
        assert_eq!(altered(|lines| lines[3] = lines[3].replace(PERSONAL.salt, "")), [(4, Kind::Altered)]);
        assert_eq!(altered(|lines| lines[3].truncate(40)), [(4, Kind::Altered)]);
        assert_eq!(altered(|lines| drop(lines.remove(3))), [(4, Kind::Missing)]);
        assert_eq!(altered(|lines| lines.swap(3, 4)), [(4, Kind::Reordered)]);
        assert_eq!(altered(|lines| lines.insert(3, lines[1].clone())), [(2, Kind::Inserted)]);
        assert_eq!(altered(|lines| drop(lines.drain(6..9))), [(7, Kind::Truncated)]);
        assert_eq!(altered(|lines| lines.truncate(6)), [(7, Kind::Truncated)]);
        assert_eq!(altered(|lines| lines[9] = export(5)[5].clone()), [(6, Kind::Inserted)]);
        assert_eq!(altered(|lines| lines.push(lines[0].clone())), [(10, Kind::Inserted)]);
        let signed_by_another = |lines: &mut Vec<String>| {
            let hash = Checkpoint::from_json(&lines[9].as_bytes()[14..lines[9].len() - 1]).unwrap().hash;
            lines[9] = format!(r#"{{"checkpoint":{}}}"#, json(&checkpoint(2, 9, hash)));
        };
        assert_eq!(altered(signed_by_another), [(9, Kind::BadSignature)]);
    }

    #[test]
    fn erased_entry_is_sound() {
        let mut lines = export(5);
        for erased in [PERSONAL.ip_address, PERSONAL.user_agent, PERSONAL.salt, PERSONAL.target_name] {
            lines[2] = lines[2].replace(&format!("\"{erased}\""), "\"\"");
        }

        assert_eq!(found(&lines), []);
    }
}
