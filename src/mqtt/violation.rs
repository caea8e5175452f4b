//! What a peer did that the specification forbids.
