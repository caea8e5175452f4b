//! Bytes → packet and packet → bytes.
