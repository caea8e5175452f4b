//! What can go wrong with one object.

/// Why an object could not be brought to where it should be.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("read {kind}: {source}")]
    Read {
        kind: String,
        #[source]
        source: Box<kube::Error>,
    },
    #[error("{}", said(.kind, .name, .source))]
    Apply {
        kind: String,
        name: String,
        #[source]
        source: Box<kube::Error>,
    },
    #[error("{0} exists and does not belong to this object; it is left alone")]
    NameTaken(String),
    #[error("make a key: {0}")]
    Key(#[from] crate::auth::key::KeyError),
    #[error("hash the password of {user:?}: {source}")]
    Hash {
        user: String,
        #[source]
        source: crate::auth::password::PasswordError,
    },
    #[error("the operator is shutting down")]
    ShuttingDown,
}

/// What an API server answered, without the wrapping.
fn said(kind: &str, name: &str, source: &kube::Error) -> String {
    match source {
        kube::Error::Api(status) => format!("apply {kind} {name}: {}", status.message),
        other => format!("apply {kind} {name}: {other}"),
    }
}

impl Error {
    pub(super) fn read(kind: impl AsRef<str>, source: kube::Error) -> Self {
        Self::Read { kind: kind.as_ref().to_owned(), source: Box::new(source) }
    }

    pub(super) fn apply(kind: impl AsRef<str>, name: &str, source: kube::Error) -> Self {
        Self::Apply { kind: kind.as_ref().to_owned(), name: name.to_owned(), source: Box::new(source) }
    }

    /// The reason of the condition `Ready`, where the object's own author can do something about it.
    pub fn reason(&self) -> Option<&'static str> {
        match self {
            Self::NameTaken(_) => Some("NameTaken"),
            // 409, 429 and 503 pass by themselves; 500 is what a range of addresses that is full says.
            Self::Apply { source, .. } => match source.as_ref() {
                kube::Error::Api(status) if ![409, 429].contains(&status.code) && status.code <= 500 => {
                    Some("ApplyFailed")
                }
                _ => None,
            },
            Self::Read { .. } | Self::Key(_) | Self::Hash { .. } | Self::ShuttingDown => None,
        }
    }
}
