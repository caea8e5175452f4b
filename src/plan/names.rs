//! The names of what is made for an object.

use aws_lc_rs::digest::{SHA256, digest};

/// The names of the children of one broker, all in its namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// StatefulSet and client Service; also the label `app.kubernetes.io/instance`.
    pub broker: String,
    /// Headless Service.
    pub pods: String,
    /// ConfigMap with `broker.json` and `bridge.json`.
    pub config: String,
    /// Secret with the private keys.
    pub jwt: String,
    /// Secret with the public keys.
    pub jwks: String,
    /// Secret with the password hashes.
    pub users: String,
    /// Secret with the bridge's password.
    pub bridge: String,
    /// Secret with the tokens that are taken back.
    pub revocations: String,
}

impl Names {
    /// The names for the broker `name`.
    pub fn new(name: &str) -> Self {
        Self {
            broker: name.to_owned(),
            pods: format!("{name}-pods"),
            config: format!("{name}-config"),
            jwt: format!("{name}-jwt"),
            jwks: format!("{name}-jwks"),
            users: format!("{name}-users"),
            bridge: format!("{name}-bridge"),
            revocations: format!("{name}-revocations"),
        }
    }

    /// The Secret that a user's credentials are published in.
    ///
    /// A user name may hold what a Secret's name may not. Such a name is made legal and gets six digits of its hash, so
    /// that `mqtt_user` and `mqtt-user` do not meet.
    pub fn user_secret(&self, user: &str) -> String {
        format!("{}-user-{}", self.broker, legal(user))
    }
}

/// A name that an object may have, made from that of a user: the same where that is legal, else with six digits of its
/// hash.
pub fn legal(user: &str) -> String {
    let legal: String = user
        .to_lowercase()
        .chars()
        .map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' })
        .collect();
    let legal = legal.trim_matches('-');
    if legal == user && !legal.is_empty() {
        return legal.to_owned();
    }
    let hash = digest(&SHA256, user.as_bytes());
    let &[a, b, c, ..] = hash.as_ref() else { unreachable!("SHA-256 has 32 bytes") };
    let separator = if legal.is_empty() { "" } else { "-" };
    format!("{legal}{separator}{a:02x}{b:02x}{c:02x}")
}

/// The data stream that a broker's telemetry goes to. `-` separates the parts of such a name and cannot be in one.
pub fn data_stream(namespace: &str, name: &str) -> String {
    format!("logs-mqtt.{}-{}", name.replace('-', "_"), namespace.replace('-', "_"))
}

/// The data stream for documents that the sink rejects.
pub fn dead_letters(namespace: &str) -> String {
    format!("logs-mqtt.deadletter-{}", namespace.replace('-', "_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_name_that_is_legal_is_kept() {
        assert_eq!(Names::new("home").user_secret("thermometer-7"), "home-user-thermometer-7");
    }

    #[test]
    fn user_name_that_is_changed_gets_a_hash() {
        assert_eq!(Names::new("home").user_secret("mqtt_user"), "home-user-mqtt-user-9b8453");
    }

    #[test]
    fn user_names_that_look_alike_do_not_meet() {
        let names = Names::new("home");
        let secrets: std::collections::BTreeSet<String> =
            ["mqtt-user", "mqtt_user", "MQTT-user", "mqtt-user-", "_", "-", "é"]
                .iter()
                .map(|user| names.user_secret(user))
                .collect();
        assert_eq!(secrets.len(), 7, "{secrets:?}");
        for secret in secrets {
            assert!(secret.ends_with(|c: char| c.is_ascii_alphanumeric()), "{secret}");
            assert!(secret.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'), "{secret}");
        }
    }

    #[test]
    fn data_stream_keeps_its_parts_apart() {
        assert_eq!(data_stream("my-shop", "home-1"), "logs-mqtt.home_1-my_shop");
    }
}
