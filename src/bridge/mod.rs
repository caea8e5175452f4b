//! MQTT message → document → batch → sink → acknowledgement.
//!
//! A message is acknowledged to the broker only when the sink, or its dead letters, hold the document. There is no queue
//! in here: what waits, waits in the broker's session, whose Receive Maximum is the window. Never ends because of
//! Elasticsearch, its credentials or the broker: it retries and says so in its report. Knows of the broker only what
//! MQTT says. May name `mqtt`, `client`, `config`, `process`.
//!
//! Pure: `document`, `batch`, `outcome`, `template`, `backoff`.

mod backoff;
mod batch;
mod counters;
mod deliver;
mod document;
mod elasticsearch;
mod file;
mod outcome;
mod run;
mod service;
mod template;

pub use counters::Counters;
pub use run::run;
pub use service::serve;
