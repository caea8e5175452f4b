//! redb: a copy-on-write B-tree. One table for messages, one for queues.

use std::path::Path;

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use crate::engine::{Engine, Failure, Op, Payload, Target};

const MESSAGES: TableDefinition<u64, &[u8]> = TableDefinition::new("messages");
const QUEUES: TableDefinition<(u32, u64), u64> = TableDefinition::new("queues");

pub struct Redb(Database);

impl Engine for Redb {
    fn open(directory: &Path) -> Result<Self, Failure> {
        std::fs::create_dir_all(directory)?;
        let database = Database::create(directory.join("store.redb"))?;
        let transaction = database.begin_write()?;
        transaction.open_table(MESSAGES)?;
        transaction.open_table(QUEUES)?;
        transaction.commit()?;
        Ok(Self(database))
    }

    fn commit(&mut self, ops: &[Op]) -> Result<(), Failure> {
        let transaction = self.0.begin_write()?;
        {
            let mut messages = transaction.open_table(MESSAGES)?;
            let mut queues = transaction.open_table(QUEUES)?;
            for op in ops {
                match op {
                    Op::Publish { id, payload, targets } => {
                        messages.insert(id, payload.as_slice())?;
                        for target in targets {
                            queues.insert((target.session, target.seq), id)?;
                        }
                    }
                    Op::Done { target, last } => {
                        queues.remove((target.session, target.seq))?;
                        if let Some(id) = last {
                            messages.remove(id)?;
                        }
                    }
                }
            }
        }
        Ok(transaction.commit()?)
    }

    fn page(&self, session: u32, most: usize) -> Result<Vec<(u64, Payload)>, Failure> {
        let transaction = self.0.begin_read()?;
        let (messages, queues) = (transaction.open_table(MESSAGES)?, transaction.open_table(QUEUES)?);
        let mut page = Vec::with_capacity(most);
        for entry in queues.range((session, 0)..=(session, u64::MAX))?.take(most) {
            let (key, id) = entry?;
            let payload = messages.get(id.value())?.ok_or("a delivery without its message")?;
            page.push((key.value().1, payload.value().try_into()?));
        }
        Ok(page)
    }

    fn all(&self, each: &mut dyn FnMut(Target, &[u8])) -> Result<(), Failure> {
        let transaction = self.0.begin_read()?;
        let (messages, queues) = (transaction.open_table(MESSAGES)?, transaction.open_table(QUEUES)?);
        for entry in queues.iter()? {
            let (key, id) = entry?;
            let (session, seq) = key.value();
            let payload = messages.get(id.value())?.ok_or("a delivery without its message")?;
            each(Target { session, seq }, payload.value());
        }
        Ok(())
    }
}
