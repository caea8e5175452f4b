//! Documents that travel together: the body of a `_bulk` request, and what is needed to send parts of it again.

use std::io::Write as _;
use std::ops::Range;
use std::time::{Duration, Instant};

use bytes::Bytes;
use jiff::Timestamp;

use super::document::{self, Circumstances, Source};
use crate::client::Delivery;

/// When a batch is full, or old enough to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub documents: usize,
    /// Of the request's body.
    pub bytes: usize,
    /// How long the first document waits for others.
    pub linger: Duration,
}

impl Default for Limits {
    /// Elasticsearch's own rate has its plateau between 1 and 5 MB a request.
    fn default() -> Self {
        Self { documents: 5_000, bytes: 4 * 1024 * 1024, linger: Duration::from_millis(10) }
    }
}

/// One message on its way into the sink.
#[derive(Debug)]
pub struct Entry {
    pub delivery: Delivery,
    pub circumstances: Circumstances,
    /// Its action line and its document in the body, both with their line end.
    action: Range<usize>,
    document: Range<usize>,
}

/// A batch that is being filled.
#[derive(Debug)]
pub struct Filling {
    body: Vec<u8>,
    entries: Vec<Entry>,
    /// Bytes of the payloads.
    payloads: usize,
    since: Instant,
    /// When the oldest of them was published; a message that was retained is as old as it is, and does not count.
    pub oldest: Option<Timestamp>,
}

impl Filling {
    /// A batch whose first document is about to be added at `now`.
    pub fn new(now: Instant) -> Self {
        Self { body: Vec::new(), entries: Vec::new(), payloads: 0, since: now, oldest: None }
    }

    /// Adds the document of a delivery.
    pub fn add(&mut self, delivery: Delivery, source: &Source, circumstances: Circumstances) {
        let start = self.body.len();
        write_action(&mut self.body, &circumstances.id);
        let middle = self.body.len();
        document::write(&mut self.body, &delivery, source, &circumstances);
        self.body.push(b'\n');
        if !delivery.message.retain {
            let published = circumstances.published;
            self.oldest = Some(self.oldest.map_or(published, |oldest| oldest.min(published)));
        }
        self.payloads += delivery.message.payload.len();
        let (action, document) = (start..middle, middle..self.body.len());
        self.entries.push(Entry { delivery, circumstances, action, document });
    }

    /// Bytes held: documents and payloads.
    pub fn size(&self) -> usize {
        self.body.len() + self.payloads
    }

    /// Whether nothing more is to be added.
    pub fn is_full(&self, limits: &Limits) -> bool {
        self.entries.len() >= limits.documents || self.body.len() >= limits.bytes
    }

    /// When it is to go even if it is not full.
    pub fn due(&self, limits: &Limits) -> Instant {
        self.since + limits.linger
    }

    /// The batch as it is.
    pub fn finish(self) -> Batch {
        Batch { body: Bytes::from(self.body), entries: self.entries }
    }
}

/// A batch on its way.
#[derive(Debug)]
pub struct Batch {
    body: Bytes,
    pub entries: Vec<Entry>,
}

impl Batch {
    /// The `_bulk` body of the entries at these places, in order.
    pub fn bulk(&self, places: &[usize]) -> Bytes {
        if places.len() == self.entries.len() {
            return self.body.clone();
        }
        let mut body = Vec::new();
        for entry in places.iter().map(|&place| &self.entries[place]) {
            body.extend_from_slice(&self.body[entry.action.start..entry.document.end]);
        }
        body.into()
    }

    /// The documents alone, a line each.
    pub fn lines(&self) -> Vec<u8> {
        let mut lines = Vec::with_capacity(self.body.len());
        self.entries.iter().for_each(|entry| lines.extend_from_slice(&self.body[entry.document.clone()]));
        lines
    }
}

/// `create` never overwrites: the same id a second time is a conflict, which is how redelivery is recognised.
pub fn write_action(out: &mut Vec<u8>, id: &str) {
    // Ids are ULIDs: nothing in them needs escaping.
    writeln!(out, "{{\"create\":{{\"_id\":\"{id}\"}}}}").expect("a vector takes every write");
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use jiff::Timestamp;
    use serde_json::Value;

    use super::super::document::{Circumstances, DataStream, Source};
    use super::{Filling, Limits};
    use crate::client::{Delivery, Message};
    use crate::mqtt::QoS;

    fn batch_of(ids: &[&str]) -> Filling {
        let source = Source {
            namespace: "shop".into(),
            name: "home".into(),
            data_stream: DataStream::parse("logs-mqtt.home-shop").unwrap(),
            dead_letters: DataStream::parse("logs-mqtt.deadletter-shop").unwrap(),
        };
        let mut filling = Filling::new(Instant::now());
        for (place, id) in ids.iter().enumerate() {
            let delivery = Delivery::made(Message::new("t", format!("{{\"id\":\n\"{id}\"}}"), QoS::AtLeastOnce), 1);
            let published = Timestamp::from_second(1000 - place as i64).unwrap();
            let circumstances = Circumstances { id: (*id).to_owned(), published, received: Timestamp::UNIX_EPOCH };
            filling.add(delivery, &source, circumstances);
        }
        filling
    }

    fn lines(body: &[u8]) -> Vec<Value> {
        assert_eq!(body.last(), Some(&b'\n'));
        std::str::from_utf8(body).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn a_bulk_body_alternates_action_and_document() {
        let batch = batch_of(&["A", "B", "C"]).finish();
        for places in [vec![0, 1, 2], vec![2], vec![0, 2]] {
            let lines = lines(&batch.bulk(&places));
            assert_eq!(lines.len(), 2 * places.len());
            for (pair, place) in lines.chunks(2).zip(&places) {
                let id = ["A", "B", "C"][*place];
                assert_eq!(pair[0]["create"]["_id"], id);
                assert_eq!(pair[1]["payload"]["id"], id);
            }
        }
    }

    #[test]
    fn the_lines_are_the_documents_alone() {
        let lines = lines(&batch_of(&["A", "B"]).finish().lines());
        assert_eq!(lines.iter().map(|line| line["event"]["id"].as_str().unwrap()).collect::<Vec<_>>(), ["A", "B"]);
    }

    #[test]
    fn a_batch_is_full_by_count_or_bytes_and_due_after_the_linger() {
        let batch = batch_of(&["A", "B"]);
        let limits = Limits { documents: 3, bytes: 10_000, linger: Duration::from_millis(7) };
        assert!(!batch.is_full(&limits));
        assert!(batch.is_full(&Limits { documents: 2, ..limits }));
        assert!(batch.is_full(&Limits { bytes: 100, ..limits }));
        assert_eq!(batch.due(&limits), batch.since + limits.linger);
        assert_eq!(batch.oldest, Timestamp::from_second(999).ok());
    }
}
