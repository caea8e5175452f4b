//! The bridge between a broker of ours and a real Elasticsearch, or files.

mod elasticsearch;
mod file;
mod process;
mod rig;
