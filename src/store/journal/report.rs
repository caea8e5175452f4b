//! What recovery found, for people, for the log and for metrics.

use serde::{Deserialize, Serialize};

/// Entries of a list that a report keeps; the rest is counted.
const LISTED: usize = 1000;

/// What recovery found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// What it means, in words; a line for each finding.
    pub summary: Vec<String>,
    /// Segments that were read.
    pub segments: u64,
    /// Bytes of records that were read.
    pub bytes: u64,
    pub records: u64,
    pub sessions: u64,
    /// Messages that are still needed.
    pub messages: u64,
    pub deliveries: u64,
    pub retained: u64,
    pub milliseconds: u64,
    /// What was being written when the process or the machine stopped. Nothing of it had been acknowledged.
    pub torn: Option<Torn>,
    /// Places that could not be read.
    pub damage: Vec<Damage>,
    /// Bytes that could not be read, and places, also of those that are not listed.
    pub damaged_bytes: u64,
    pub damaged_places: u64,
    /// Segments that could not be read as a whole while an earlier broker ran. Their files are among what was set aside.
    #[serde(default)]
    pub set_aside: Vec<u32>,
    /// Segments that should be there and are not.
    pub missing_segments: Vec<u32>,
    /// Deliveries whose message cannot be read any more, and those of sessions whose own record is gone.
    pub lost_deliveries: u64,
    /// Keys of sessions whose own record cannot be read; what belonged to them is lost.
    pub lost_sessions: Vec<u64>,
    /// Files in the directory that are not the journal's. They are left alone.
    pub foreign: Vec<String>,
}

/// An end that was cut.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Torn {
    pub segment: u32,
    pub offset: u64,
    pub bytes: u64,
}

/// A place that could not be read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Damage {
    pub segment: u32,
    pub offset: u64,
    pub bytes: u64,
    /// What is known of it.
    pub what: String,
    /// The file that holds the bytes now.
    pub saved: Option<String>,
}

impl Report {
    /// Whether something that should be there could not be read.
    pub fn is_damaged(&self) -> bool {
        self.damaged_places > 0
            || !self.set_aside.is_empty()
            || !self.missing_segments.is_empty()
            || self.lost_deliveries > 0
            || !self.lost_sessions.is_empty()
    }

    /// Whether there is room in the list for one more.
    pub(super) fn lists_more(&self) -> bool {
        self.damage.len() < LISTED
    }

    pub(super) fn damaged(&mut self, damage: Damage) {
        self.damaged_bytes += damage.bytes;
        self.damaged_places += 1;
        if self.lists_more() {
            self.damage.push(damage);
        }
    }

    pub(super) fn lost_session(&mut self, key: u64) {
        if self.lost_sessions.len() < LISTED {
            self.lost_sessions.push(key);
        }
    }

    /// Says in words what was found.
    pub(super) fn summarise(&mut self) {
        let mut lines = vec![format!(
            "Read {} records from {} segments: {} sessions, {} deliveries of {} messages, {} retained.",
            self.records, self.segments, self.sessions, self.deliveries, self.messages, self.retained
        )];
        if let Some(torn) = &self.torn {
            lines.push(format!(
                "Cut {} bytes from the end of segment {} at {}: they were being written when the process or the \
                 machine stopped, and nothing of them had been acknowledged.",
                torn.bytes, torn.segment, torn.offset
            ));
        }
        if self.damaged_places > 0 {
            lines.push(format!(
                "{} places with {} bytes are damaged: the disk gave back something else than was written, or nothing. \
                 What stood there is lost: messages, or the word that one was delivered, so that it is delivered again. What \
                 can be had of it is in the folder `{}`, or will be. Check the disk.",
                self.damaged_places,
                self.damaged_bytes,
                super::disk::DAMAGED
            ));
        }
        if !self.set_aside.is_empty() {
            lines.push(format!(
                "Segments could not be read as a whole while the broker ran; what it could read was kept. Their files are \
                 in the folder `{}` until somebody deletes them: {:?}.",
                super::disk::DAMAGED,
                self.set_aside
            ));
        }
        if !self.missing_segments.is_empty() {
            lines.push(format!("Segments are missing, and all that they held: {:?}.", self.missing_segments));
        }
        if !self.lost_sessions.is_empty() {
            lines.push(format!(
                "The records of {} sessions cannot be read; their clients begin anew.",
                self.lost_sessions.len()
            ));
        }
        if self.lost_deliveries > 0 {
            lines.push(format!(
                "{} deliveries are lost, because their message or their session is.",
                self.lost_deliveries
            ));
        }
        if !self.foreign.is_empty() {
            lines.push(format!("Not the journal's, and left alone: {}.", self.foreign.join(", ")));
        }
        self.summary = lines;
    }
}
