//! What the two sides agree that they can do. The runner offers, the worker narrows, and the result holds for
//! the whole run.

use std::fmt;

/// One thing that a side may do with the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Capability {
    /// The worker sends structured log records (`log`).
    Log,
    /// The runner asks the worker to end (`graceful-termination`).
    GracefulTermination,
    /// The runner hands the worker renewed credentials (`new-credentials`).
    NewCredentials,
    /// The worker sends errors to be reported to worker-manager (`error-report`).
    ErrorReport,
    /// The worker asks for its machine to be retired (`shutdown`).
    Shutdown,
}

impl Capability {
    /// Every capability there is, in the order in which `welcome` names them.
    pub const ALL: [Self; 5] =
        [Self::Log, Self::GracefulTermination, Self::NewCredentials, Self::ErrorReport, Self::Shutdown];

    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::GracefulTermination => "graceful-termination",
            Self::NewCredentials => "new-credentials",
            Self::ErrorReport => "error-report",
            Self::Shutdown => "shutdown",
        }
    }

    /// The capability of that name; `None` for a name of a later version of the protocol.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|capability| capability.name() == name)
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// A set of capabilities.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Capabilities(u8);

impl Capabilities {
    /// The empty set.
    pub const NONE: Self = Self(0);

    /// All that this version of the protocol knows.
    pub fn all() -> Self {
        Capability::ALL.into_iter().collect()
    }

    /// Whether the set holds this one.
    pub const fn has(self, capability: Capability) -> bool {
        self.0 & capability.bit() != 0
    }

    /// What both sets hold. A `hello` can only narrow what `welcome` offered.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// The capabilities, in the order of [`Capability::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Capability> {
        Capability::ALL.into_iter().filter(move |capability| self.has(*capability))
    }
}

impl FromIterator<Capability> for Capabilities {
    fn from_iter<I: IntoIterator<Item = Capability>>(iter: I) -> Self {
        Self(iter.into_iter().fold(0, |bits, capability| bits | capability.bit()))
    }
}

impl fmt::Debug for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(Capability::name)).finish()
    }
}

impl fmt::Display for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.iter().map(Capability::name).collect();
        if names.is_empty() { f.write_str("none") } else { f.write_str(&names.join(", ")) }
    }
}
