//! What the operator is started with; in a cluster all of it comes from the environment.

use std::net::SocketAddr;

use super::Options;
use super::leader::{Name, Timing};

/// The flags of the operator.
#[derive(Clone, Debug, clap::Args)]
pub struct Flags {
    /// The image of broker pods whose object names none.
    #[arg(long, env = "BROKER_IMAGE")]
    broker_image: Option<String>,

    /// The namespaces to look after, separated by commas; empty means all.
    #[arg(long, env = "WATCH_NAMESPACES", value_delimiter = ',')]
    watch_namespaces: Vec<String>,

    /// Where probes and metrics are served.
    #[arg(long, default_value = "[::]:8080")]
    admin: SocketAddr,

    /// The namespace of the lease that one of several operators holds; absent means that this is the only operator.
    #[arg(long, env = "POD_NAMESPACE")]
    lease_namespace: Option<String>,

    /// The name that this operator holds the lease under.
    #[arg(long, env = "POD_NAME")]
    identity: Option<String>,
}

/// Why the flags cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FlagError {
    #[error("BROKER_IMAGE is not set: it names the image of broker pods, and the chart sets it to the operator's own")]
    NoImage,
    #[error("POD_NAME is not set: with POD_NAMESPACE it says who holds the lease")]
    NoIdentity,
}

impl Flags {
    /// How the operator runs.
    pub fn options(self) -> Result<Options, FlagError> {
        let text = |value: Option<String>| value.filter(|text| !text.is_empty());
        let image = text(self.broker_image).ok_or(FlagError::NoImage)?;
        let lease = match (text(self.lease_namespace), text(self.identity)) {
            (None, _) => None,
            (Some(_), None) => return Err(FlagError::NoIdentity),
            (Some(namespace), Some(identity)) => {
                Some(Name { namespace, name: "mqtt-operator".into(), identity, timing: Timing::default() })
            }
        };
        let namespaces = self.watch_namespaces.into_iter().filter(|name| !name.is_empty()).collect();
        Ok(Options { image, namespaces, admin: self.admin, lease })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(image: &str, namespace: &str, identity: &str) -> Flags {
        Flags {
            broker_image: Some(image.into()),
            watch_namespaces: vec![String::new()],
            admin: ([127, 0, 0, 1], 0).into(),
            lease_namespace: Some(namespace.into()),
            identity: Some(identity.into()),
        }
    }

    #[test]
    fn empty_variables_are_absent() {
        let options = flags("image", "", "").options().unwrap();
        assert_eq!((options.namespaces.len(), options.lease.is_none()), (0, true));
        assert_eq!(flags("", "", "").options().unwrap_err(), FlagError::NoImage);
        assert_eq!(flags("image", "shop", "").options().unwrap_err(), FlagError::NoIdentity);
        assert_eq!(flags("image", "shop", "pod-1").options().unwrap().lease.unwrap().identity, "pod-1");
    }
}
