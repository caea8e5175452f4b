//! Log lines on stderr: JSON where a machine reads them, plain where a person does.
//!
//! `RUST_LOG` chooses what is logged, `LOG_FORMAT` (`json` or `human`) how.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// How a log line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One JSON object a line.
    Json,
    /// Text, with colours on a terminal.
    Human,
}

impl Format {
    /// What `LOG_FORMAT` says; without it, human on a terminal and JSON elsewhere.
    pub fn detect() -> Self {
        Self::choose(Self::asked(), std::io::stderr().is_terminal())
    }

    /// What `LOG_FORMAT` says, if anything.
    pub fn asked() -> Option<Self> {
        Self::read(std::env::var("LOG_FORMAT").ok()?.as_str())
    }

    fn read(asked: &str) -> Option<Self> {
        match asked {
            "json" => Some(Self::Json),
            "human" => Some(Self::Human),
            _ => None,
        }
    }

    fn choose(asked: Option<Self>, terminal: bool) -> Self {
        asked.unwrap_or(if terminal { Self::Human } else { Self::Json })
    }
}

/// Starts logging at level `info`, or as `RUST_LOG` says. A second call changes nothing.
pub fn init(format: Format) {
    init_at(format, "info");
}

/// Starts logging with `filter` where `RUST_LOG` says nothing. A second call changes nothing.
pub fn init_at(format: Format, filter: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(filter));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A subscriber that is already set stays: that is what a second call in one test process wants.
    let _ = match format {
        Format::Json => lines.json().flatten_event(true).try_init(),
        Format::Human => lines.with_ansi(std::io::stderr().is_terminal()).with_target(false).try_init(),
    };
}

#[cfg(test)]
mod tests {
    use super::Format;

    #[test]
    fn the_variable_wins_over_the_terminal() {
        assert_eq!(Format::choose(Format::read("json"), true), Format::Json);
        assert_eq!(Format::choose(Format::read("human"), false), Format::Human);
        assert_eq!(Format::choose(Format::read("yaml"), true), Format::Human);
        assert_eq!(Format::choose(None, true), Format::Human);
        assert_eq!(Format::choose(None, false), Format::Json);
    }
}
