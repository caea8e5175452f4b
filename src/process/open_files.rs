//! How many files, and so how many sockets, this process may have open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the limit as far as the system lets the process do that itself; answers what it is then. `None`: there is none.
pub fn raise() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        // Some systems say that there is no limit and refuse to set it; what is in force then stays.
        let _ = setrlimit(Resource::Nofile, raised);
    }
    getrlimit(Resource::Nofile).current
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_as_high_as_it_may_be() {
        let open = raise();
        assert_eq!(open, getrlimit(Resource::Nofile).maximum);
        assert_eq!(raise(), open, "a second time changes nothing");
    }
}
