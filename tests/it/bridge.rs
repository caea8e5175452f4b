//! The bridge between a broker of ours and a real Elasticsearch, or files.

mod answers;
mod elasticsearch;
mod file;
mod process;
mod rig;
mod session;
