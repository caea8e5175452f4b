//! Where the rule that decided stands, as one of a closed set: a label of metrics.

/// Where a rule stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Layer {
    /// There is none: nothing allows it, or no rule can.
    #[default]
    Nowhere,
    /// `spec.auth.deny`
    Deny,
    Token,
    User,
    Group,
    Anonymous,
    /// The bridge's topics.
    Bridge,
}

impl Layer {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 7] =
        [Self::Nowhere, Self::Deny, Self::Token, Self::User, Self::Group, Self::Anonymous, Self::Bridge];

    /// As a label.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nowhere => "none",
            Self::Deny => "deny",
            Self::Token => "token",
            Self::User => "user",
            Self::Group => "group",
            Self::Anonymous => "anonymous",
            Self::Bridge => "bridge",
        }
    }
}

/// The answer to a request, and where the rule stands that gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    pub allowed: bool,
    pub layer: Layer,
}

impl Decision {
    /// That no rule says anything.
    pub const NO: Self = Self { allowed: false, layer: Layer::Nowhere };
}
