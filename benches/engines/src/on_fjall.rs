//! fjall: a log-structured merge tree. One keyspace for messages, one for queues.

use std::path::Path;

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use crate::engine::{Engine, Failure, Op, Payload, Target};

pub struct Fjall {
    database: Database,
    messages: Keyspace,
    queues: Keyspace,
}

fn key(target: Target) -> [u8; 12] {
    let mut key = [0; 12];
    key[..4].copy_from_slice(&target.session.to_be_bytes());
    key[4..].copy_from_slice(&target.seq.to_be_bytes());
    key
}

fn target(key: &[u8]) -> Result<Target, Failure> {
    Ok(Target {
        session: u32::from_be_bytes(key.get(..4).ok_or("a short key")?.try_into()?),
        seq: u64::from_be_bytes(key.get(4..12).ok_or("a short key")?.try_into()?),
    })
}

impl Engine for Fjall {
    fn open(directory: &Path) -> Result<Self, Failure> {
        let database = Database::builder(directory).open()?;
        let messages = database.keyspace("messages", KeyspaceCreateOptions::default)?;
        let queues = database.keyspace("queues", KeyspaceCreateOptions::default)?;
        Ok(Self { database, messages, queues })
    }

    fn commit(&mut self, ops: &[Op]) -> Result<(), Failure> {
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncData));
        for op in ops {
            match op {
                Op::Publish { id, payload, targets } => {
                    batch.insert(&self.messages, id.to_be_bytes(), payload.as_slice());
                    for target in targets {
                        batch.insert(&self.queues, key(*target), id.to_be_bytes());
                    }
                }
                Op::Done { target, last } => {
                    batch.remove(&self.queues, key(*target));
                    if let Some(id) = last {
                        batch.remove(&self.messages, id.to_be_bytes());
                    }
                }
            }
        }
        Ok(batch.commit()?)
    }

    fn page(&self, session: u32, most: usize) -> Result<Vec<(u64, Payload)>, Failure> {
        let mut page = Vec::with_capacity(most);
        for entry in self.queues.prefix(session.to_be_bytes()).take(most) {
            let (key, id) = entry.into_inner()?;
            let payload = self.messages.get(&id)?.ok_or("a delivery without its message")?;
            page.push((target(&key)?.seq, payload.as_ref().try_into()?));
        }
        Ok(page)
    }

    fn all(&self, each: &mut dyn FnMut(Target, &[u8])) -> Result<(), Failure> {
        for entry in self.queues.iter() {
            let (key, id) = entry.into_inner()?;
            let payload = self.messages.get(&id)?.ok_or("a delivery without its message")?;
            each(target(&key)?, &payload);
        }
        Ok(())
    }
}
