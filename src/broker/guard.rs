//! Who guesses passwords, and how that is made slow. Pure: the time is an argument, in milliseconds.
//!
//! Wrong passwords are counted three times:
//! * for a user name from one network (IPv4 /24, IPv6 /56): beyond `failures` the two together are banned for a while. The
//!   same user from elsewhere, and other users from there, notice nothing;
//! * for a network, whatever the names: beyond ten times as many it is banned, but for the users who have logged in from it
//!   before. A device with an old password does not lock out its neighbours behind the same address;
//! * for a user name, from everywhere: that delays, and bans nobody. Who knows a name cannot lock its user out.
//!
//! As a count grows, so does the wait before a password is looked at at all. Where the clients' own addresses are hidden
//! behind that of a load balancer, networks mean nothing, and only the delay by user name is left.
//!
//! What is remembered is bounded. Of each kind the last are known, in two generations: a flood of addresses or of names
//! forgets bans, but it cannot forget who has logged in, which only a right password adds to.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::rate::Bucket;
use crate::auth::settings;
use crate::config::broker::Rate;

/// Entries in one of the two generations of each table.
const REMEMBERED: usize = 32 * 1024;
/// How many times more failures a network, or a user name from everywhere, may have than the two together.
const WIDER: u64 = 10;
/// How long it is known that a user has logged in from a network: a day.
const TRUSTED_FOR: u64 = 24 * 3600 * 1000;
/// The first wait, and the longest.
const FIRST_DELAY: u64 = 100;
const LONGEST_DELAY: u64 = 5000;

/// The addresses that count as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Network {
    V4(u32),
    V6(u64),
}

impl From<IpAddr> for Network {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address.to_bits() >> 8),
            IpAddr::V6(address) => Self::V6((address.to_bits() >> 72) as u64),
        }
    }
}

impl std::fmt::Display for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::V4(bits) => write!(f, "{}/24", Ipv4Addr::from_bits(bits << 8)),
            Self::V6(bits) => write!(f, "{}/56", Ipv6Addr::from_bits(u128::from(*bits) << 72)),
        }
    }
}

/// A password that someone wants to have checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// A hash of the user name, with a secret of this process.
    pub user: u64,
    /// Where it comes from; absent where addresses are not those of clients.
    pub network: Option<Network>,
}

/// What is banned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// A user name from a network.
    User,
    /// A network.
    Network,
}

impl Scope {
    /// For a metric.
    pub fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Network => "network",
        }
    }
}

/// An attempt that is not looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Banned {
    pub scope: Scope,
    /// Milliseconds until the ban is over.
    pub remaining: u64,
    /// Whether it began with this attempt.
    pub is_new: bool,
}

/// Failures, and the time until which they are banned.
#[derive(Clone, Copy, Debug, Default)]
struct Record {
    failures: Bucket,
    banned_until: u64,
}

/// What is known of attempts.
#[derive(Debug, Default)]
pub struct Guard {
    pairs: Recent<(u64, Network), Record>,
    networks: Recent<Network, Record>,
    users: Recent<u64, Bucket>,
    /// Until when a user is known in a network.
    trusted: Recent<(u64, Network), u64>,
    /// When the bans end that were spoken, in order.
    ends: VecDeque<u64>,
}

impl Guard {
    /// Whether the attempt is banned already. It costs nothing to ask.
    pub fn banned(&self, attempt: Attempt, now: u64) -> Option<Banned> {
        let network = attempt.network?;
        let until = |record: Option<&Record>| record.map_or(0, |record| record.banned_until);
        let found = [
            (Scope::User, until(self.pairs.get(&(attempt.user, network)))),
            (Scope::Network, until(self.networks.get(&network))),
        ];
        let (scope, until) = found.into_iter().find(|(_, until)| now < *until)?;
        let known = scope == Scope::Network && self.trusts(attempt, now);
        (!known).then_some(Banned { scope, remaining: until - now, is_new: false })
    }

    /// Lets one more password be tried, after so many milliseconds. It counts as a failure of its user in its network
    /// until it is [given back](Self::give_back), so that many at the same time are no way around the limit.
    pub fn begin(&mut self, attempt: Attempt, settings: &settings::Guard, now: u64) -> Result<u64, Banned> {
        if settings.is_off() {
            return Ok(0);
        }
        if let Some(banned) = self.banned(attempt, now) {
            return Err(banned);
        }
        let (narrow, wide) = (rate(settings, 1), rate(settings, WIDER));
        let trusted = self.trusts(attempt, now);
        let mut longest = if trusted { 0 } else { delay(*self.users.entry(attempt.user), wide, now) };
        let Some(network) = attempt.network else { return Ok(longest) };
        if !trusted && let Some(record) = self.networks.get(&network) {
            longest = longest.max(delay(record.failures, wide, now));
        }
        let record = self.pairs.entry((attempt.user, network));
        longest = longest.max(delay(record.failures, narrow, now));
        if record.failures.take(narrow, 1, now) {
            return Ok(longest);
        }
        // When it is over, all is forgiven.
        *record = Record { failures: Bucket::default(), banned_until: now + settings.ban_millis() };
        Err(self.spoken(Scope::User, settings, now))
    }

    /// The user has logged in from there, with a password that was right.
    pub fn trust(&mut self, attempt: Attempt, settings: &settings::Guard, now: u64) {
        if let Some(network) = attempt.network.filter(|_| !settings.is_off()) {
            *self.trusted.entry((attempt.user, network)) = now + TRUSTED_FOR;
        }
    }

    /// The password was right, or was not looked at after all.
    pub fn give_back(&mut self, attempt: Attempt, settings: &settings::Guard) {
        if let Some(network) = attempt.network.filter(|_| !settings.is_off()) {
            self.pairs.entry((attempt.user, network)).failures.give_back(rate(settings, 1), 1);
        }
    }

    /// The password was wrong. A ban is answered that this has brought.
    pub fn failed(&mut self, attempt: Attempt, settings: &settings::Guard, now: u64) -> Option<Banned> {
        if settings.is_off() {
            return None;
        }
        let wide = rate(settings, WIDER);
        // An empty bucket stays as it is: the longest delay is reached.
        self.users.entry(attempt.user).take(wide, 1, now);
        let record = self.networks.entry(attempt.network?);
        if record.failures.take(wide, 1, now) || now < record.banned_until {
            return None;
        }
        *record = Record { failures: Bucket::default(), banned_until: now + settings.ban_millis() };
        Some(self.spoken(Scope::Network, settings, now))
    }

    /// Bans in force: of networks, and of users in networks.
    pub fn in_force(&mut self, now: u64) -> usize {
        while self.ends.front().is_some_and(|end| *end <= now) {
            self.ends.pop_front();
        }
        self.ends.len()
    }

    fn trusts(&self, attempt: Attempt, now: u64) -> bool {
        let known = attempt.network.and_then(|network| self.trusted.get(&(attempt.user, network)));
        known.is_some_and(|until| now < *until)
    }

    fn spoken(&mut self, scope: Scope, settings: &settings::Guard, now: u64) -> Banned {
        self.in_force(now);
        // As many as are remembered at all.
        if self.ends.len() < 4 * REMEMBERED {
            self.ends.push_back(now + settings.ban_millis());
        }
        Banned { scope, remaining: settings.ban_millis(), is_new: true }
    }
}

fn rate(settings: &settings::Guard, times: u64) -> Rate {
    Rate { amount: u64::from(settings.failures) * times, seconds: settings.within.max(1) }
}

/// The wait before the next attempt: none for the first three tenths of what is allowed, then twice as long with each tenth.
fn delay(failures: Bucket, rate: Rate, now: u64) -> u64 {
    let tenths = failures.used(rate, now).saturating_mul(10) / rate.amount.max(1);
    match tenths.checked_sub(3) {
        None => 0,
        Some(step) => FIRST_DELAY.saturating_mul(1 << step.min(20)).min(LONGEST_DELAY),
    }
}

/// The last entries, in two generations: when the younger is full, the older is forgotten.
#[derive(Debug)]
struct Recent<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
}

impl<K, V> Default for Recent<K, V> {
    fn default() -> Self {
        Self { young: HashMap::new(), old: HashMap::new() }
    }
}

impl<K: Hash + Eq, V: Default> Recent<K, V> {
    fn get(&self, key: &K) -> Option<&V> {
        self.young.get(key).or_else(|| self.old.get(key))
    }

    fn entry(&mut self, key: K) -> &mut V {
        if self.young.len() >= REMEMBERED && !self.young.contains_key(&key) {
            self.old = std::mem::take(&mut self.young);
        }
        let known = self.old.remove(&key);
        self.young.entry(key).or_insert_with(|| known.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: u64 = 60_000;

    fn settings() -> settings::Guard {
        settings::Guard::default()
    }

    fn from(user: u64, address: [u8; 4]) -> Attempt {
        Attempt { user, network: Some(IpAddr::from(address).into()) }
    }

    /// Tries a wrong password; the wait, or the ban.
    fn guess(guard: &mut Guard, attempt: Attempt, now: u64) -> Result<u64, Banned> {
        let waited = guard.begin(attempt, &settings(), now)?;
        match guard.failed(attempt, &settings(), now) {
            None => Ok(waited),
            Some(banned) => Err(banned),
        }
    }

    fn log_in(guard: &mut Guard, attempt: Attempt, now: u64) -> Result<u64, Banned> {
        let waited = guard.begin(attempt, &settings(), now)?;
        guard.give_back(attempt, &settings());
        guard.trust(attempt, &settings(), now);
        Ok(waited)
    }

    #[test]
    fn ten_wrong_passwords_in_a_minute_ban_the_user_in_that_network_for_five() {
        let mut guard = Guard::default();
        let attempt = from(1, [192, 0, 2, 7]);
        let waits: Vec<u64> = (0..10).map(|_| guess(&mut guard, attempt, 0).unwrap()).collect();
        assert_eq!(waits, [0, 0, 0, 100, 200, 400, 800, 1600, 3200, 5000]);
        let banned = guess(&mut guard, attempt, 0).unwrap_err();
        assert_eq!(banned, Banned { scope: Scope::User, remaining: 5 * MINUTE, is_new: true });
        let neighbour = from(1, [192, 0, 2, 200]);
        assert!(!log_in(&mut guard, neighbour, MINUTE).unwrap_err().is_new, "the right password does not help there");
        assert_eq!(guard.in_force(5 * MINUTE - 1), 1);
        assert_eq!(log_in(&mut guard, attempt, 5 * MINUTE), Ok(0));
        assert_eq!(guard.in_force(5 * MINUTE), 0);
    }

    #[test]
    fn when_a_ban_is_over_all_is_forgiven_however_slowly_failures_are() {
        let slow = settings::Guard { failures: 2, within: 24 * 3600, ..settings() };
        let mut guard = Guard::default();
        let attempt = from(1, [192, 0, 2, 7]);
        for round in 0..3 {
            let now = round * 10 * MINUTE;
            assert!(guard.begin(attempt, &slow, now).is_ok() && guard.begin(attempt, &slow, now).is_ok());
            assert!(guard.begin(attempt, &slow, now).unwrap_err().is_new);
        }
    }

    #[test]
    fn who_knows_a_name_locks_its_user_out_nowhere_else() {
        let mut guard = Guard::default();
        // Ten thousand guesses for the name from a thousand networks.
        for network in 0..1000_u32 {
            let [_, _, a, b] = network.to_be_bytes();
            for _ in 0..10 {
                let _ = guess(&mut guard, from(1, [10, a, b, 1]), 0);
            }
        }
        let home = from(1, [192, 0, 2, 7]);
        assert_eq!(log_in(&mut guard, home, 0), Ok(LONGEST_DELAY), "delayed, where the user is not known yet");
        assert_eq!(log_in(&mut guard, home, 0), Ok(0), "and not at all, where the user has logged in before");
    }

    #[test]
    fn a_network_that_tries_many_names_is_banned_but_for_users_who_have_logged_in_there() {
        let mut guard = Guard::default();
        let (known, stranger) = (from(1, [192, 0, 2, 7]), from(2, [192, 0, 2, 8]));
        log_in(&mut guard, known, 0).unwrap();
        let banned = (1000..1101).find_map(|user| guess(&mut guard, from(user, [192, 0, 2, 66]), 0).err());
        assert_eq!(banned, Some(Banned { scope: Scope::Network, remaining: 5 * MINUTE, is_new: true }));
        assert_eq!(log_in(&mut guard, stranger, 0).unwrap_err().scope, Scope::Network);
        assert_eq!(log_in(&mut guard, known, 0), Ok(0));
        assert_eq!(log_in(&mut guard, from(2, [192, 0, 3, 8]), 0), Ok(0), "the next network is another one");
        // A guesser who sits beside a user does not get more tries for that.
        assert_eq!((0..20).filter(|_| guess(&mut guard, known, 0).is_ok()).count(), 10);
    }

    #[test]
    fn right_passwords_cost_nothing_however_many_come() {
        let mut guard = Guard::default();
        for number in 0..100_000 {
            assert_eq!(log_in(&mut guard, from(number % 50, [192, 0, 2, 7]), 0), Ok(0));
        }
    }

    #[test]
    fn passwords_that_are_tried_at_the_same_time_count_before_they_are_known_to_be_wrong() {
        let mut guard = Guard::default();
        let attempt = from(1, [192, 0, 2, 7]);
        let begun = (0..100).filter(|_| guard.begin(attempt, &settings(), 0).is_ok()).count();
        assert_eq!(begun, 10);
        let other = from(2, [192, 0, 2, 7]);
        for _ in 0..100 {
            guard.begin(other, &settings(), 0).unwrap();
            guard.give_back(other, &settings());
        }
    }

    #[test]
    fn where_addresses_are_hidden_nobody_is_banned_and_a_user_is_guessed_slowly() {
        let mut guard = Guard::default();
        let hidden = Attempt { user: 1, network: None };
        let waits: Vec<u64> = (0..1000).map(|_| guess(&mut guard, hidden, 0).unwrap()).collect();
        assert!(waits[..30].iter().all(|wait| *wait == 0) && waits[100..].iter().all(|wait| *wait == LONGEST_DELAY));
        assert_eq!(guess(&mut guard, Attempt { user: 2, network: None }, 0), Ok(0));
        assert_eq!(guard.in_force(0), 0);
    }

    #[test]
    fn switched_off_it_counts_nothing() {
        let off = settings::Guard { failures: 0, ..settings() };
        let mut guard = Guard::default();
        let attempt = from(1, [192, 0, 2, 7]);
        for _ in 0..10_000 {
            assert_eq!(guard.begin(attempt, &off, 0), Ok(0));
            assert_eq!(guard.failed(attempt, &off, 0), None);
        }
        guard.give_back(attempt, &off);
        guard.trust(attempt, &off, 0);
        assert!(guard.pairs.young.is_empty() && guard.trusted.young.is_empty());
    }

    #[test]
    fn a_million_addresses_do_not_fill_the_memory_nor_forget_who_has_logged_in() {
        let mut guard = Guard::default();
        let home = from(1, [192, 0, 2, 7]);
        log_in(&mut guard, home, 0).unwrap();
        for number in 0..1_000_000_u32 {
            let [_, a, b, c] = number.to_be_bytes();
            let _ = guess(&mut guard, from(u64::from(number), [a | 0x40, b, c, 1]), 0);
        }
        let entries = [
            guard.pairs.young.len() + guard.pairs.old.len(),
            guard.networks.young.len() + guard.networks.old.len(),
            guard.users.young.len() + guard.users.old.len(),
        ];
        assert!(entries.iter().all(|entries| *entries <= 2 * REMEMBERED), "{entries:?}");
        assert!(guard.ends.len() <= 4 * REMEMBERED);
        assert!(guard.trusts(home, 1));
    }

    #[test]
    fn networks_are_24_bits_of_ipv4_and_56_of_ipv6() {
        let network = |text: &str| Network::from(text.parse::<IpAddr>().unwrap());
        assert_eq!(network("192.0.2.7").to_string(), "192.0.2.0/24");
        assert_eq!(network("::ffff:192.0.2.7"), network("192.0.2.200"));
        assert_eq!(network("2001:db8:1:2ff::1").to_string(), "2001:db8:1:200::/56");
        assert_ne!(network("2001:db8:1:300::1"), network("2001:db8:1:2ff::1"));
    }
}
