//! What fuzzing has found worth keeping, once more: every input of the corpora goes through its target.

#[path = "../fuzz/src/targets/mod.rs"]
mod targets;

/// Tells which input it was.
fn replay(target: &str, run: impl Fn(&[u8]) + std::panic::RefUnwindSafe) {
    for (path, input) in targets::corpus(target) {
        assert!(std::panic::catch_unwind(|| run(&input)).is_ok(), "{}", path.display());
    }
}

#[test]
fn the_decoder_survives_its_corpus() {
    replay("decoder", targets::decoder::run);
}

#[test]
fn answers_do_not_depend_on_how_bytes_are_split() {
    replay("splits", targets::splits::run);
}

#[test]
fn websocket_frames_mean_the_same_in_any_pieces() {
    replay("websocket", targets::websocket::run);
}

#[test]
fn a_proxy_header_means_the_same_in_any_pieces() {
    replay("proxy", targets::proxy::run);
}

#[test]
fn rules_are_sets_of_topics_and_no_client_id_is_worth_more_than_another() {
    replay("rules", targets::rules::run);
}

#[test]
fn a_healthy_client_is_served_beside_hostile_ones() {
    replay("connection", targets::connection::run);
}

#[test]
fn a_token_is_accepted_only_as_it_was_signed_and_meant() {
    replay("token", targets::token::run);
}

#[test]
fn the_rules_of_a_token_allow_no_more_than_they_say() {
    replay("acl", targets::acl::run);
}

#[test]
fn key_sets_are_read_strictly_and_made_public_without_secrets() {
    replay("jwks", targets::jwks::run);
}
