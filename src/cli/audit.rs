//! Lines of the audit log about what this command makes and takes back; docs/audit.md promises their fields. A person at a
//! terminal sees what was done anyway: `RUST_LOG=audit=info` asks for the lines.

use jiff::Timestamp;

use super::target::Target;
use crate::auth::key::PrivateKey;
use crate::auth::token::Claims;

/// A broker, as lines name it.
fn name(target: &Target) -> String {
    format!("{}/{}", target.namespace(), target.name())
}

/// A token was signed for a client.
pub fn minted(key: &PrivateKey, claims: &Claims) {
    let groups = claims.groups.join(" ");
    tracing::info!(
        target: "audit", event = "mint", what = "token", audience = claims.aud, subject = claims.sub,
        client_id = claims.client_id.as_deref(), token_id = claims.jti.as_deref(), key_id = key.kid(),
        groups = Some(&*groups).filter(|it| !it.is_empty()), rules = claims.acl.len(), expires = moment(claims.exp),
        "token signed"
    );
}

/// A token for the admin port was signed.
pub fn minted_admin(key: &PrivateKey, audience: &str, subject: &str) {
    tracing::info!(
        target: "audit", event = "mint", what = "admin token", audience, subject, key_id = key.kid(), "token signed"
    );
}

/// Tokens are taken back: `entry` as the Secret of revocations has it.
pub fn revoked_tokens(target: &Target, entry: &str, time: u64) {
    let broker = name(target);
    tracing::info!(
        target: "audit", event = "revoke", what = "tokens", broker, entry, time = moment(time), "tokens taken back"
    );
}

/// A key is taken back.
pub fn revoked_key(target: &Target, kid: &str) {
    let broker = name(target);
    tracing::info!(target: "audit", event = "revoke", what = "key", broker, key_id = kid, "key taken back");
}

/// Another key is asked for.
pub fn rotated(target: &Target, kid: &str) {
    let broker = name(target);
    tracing::info!(target: "audit", event = "key", broker, key_id = kid, state = "to be replaced", "another key is asked for");
}

/// A user has another password.
pub fn password_set(target: &Target, user: &str) {
    let broker = name(target);
    tracing::info!(target: "audit", event = "mint", what = "password", broker, user, "password set");
}

fn moment(seconds: u64) -> Option<String> {
    Some(Timestamp::from_second(i64::try_from(seconds).ok()?).ok()?.to_string())
}
