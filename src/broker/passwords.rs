//! Checking passwords: as many at a time as there are cores, a bounded number in line, and none twice.
//!
//! A hash costs tens of milliseconds by design. So what was verified is remembered for a while, and clients that present
//! the same at the same time share one check: a thousand devices of one user that come back after a restart cost one hash.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aws_lc_rs::rand;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use tokio::sync::{OnceCell, Semaphore};

use super::Shared;
use super::counters::Tally;
use super::guard::{Attempt, Banned, Guard, Scope};
use crate::auth::{Identity, PasswordCheck, Refusal, Why, settings};
use crate::mqtt::ReasonCode;

/// Passwords that may wait to be checked, for each that is being checked.
const WAITING_PER_CHECK: usize = 64;
/// How long one may wait.
const PATIENCE: Duration = Duration::from_secs(20);
/// How many may be delayed at a time because of wrong passwords before.
const DELAYED: usize = 1024;
/// How long a verified password is remembered, in milliseconds.
const REMEMBERED_FOR: u64 = 5 * 60 * 1000;
/// How many are remembered in one of two generations: when the younger is full, the older is forgotten.
const REMEMBERED: usize = 16 * 1024;

/// What identifies a check: user, password and hash, signed with a secret of this process.
type Key = [u8; 32];

/// The outcome of a check that is under way, for everybody who waits for the same one.
type Outcome = Arc<OnceCell<bool>>;

/// Password checks.
#[derive(Debug)]
pub struct Passwords {
    /// Random, of this process alone: what is remembered says nothing about passwords to whoever reads memory alone.
    secret: Secret,
    checks: Arc<Semaphore>,
    line: Arc<Semaphore>,
    known: Mutex<Known>,
    under_way: Mutex<HashMap<Key, Outcome>>,
    guard: Mutex<Guard>,
    /// Random per process, so that nobody finds two names that count as one.
    names: RandomState,
    delayed: Semaphore,
    /// Bans since the start, by what was banned.
    pub bans: Tally,
    /// Seconds of the checks that were made, waiting for a core included.
    pub seconds: Histogram,
}

struct Secret([u8; 32]);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

/// What was verified, and until when that is remembered.
#[derive(Debug, Default)]
struct Known {
    young: HashMap<Key, u64>,
    old: HashMap<Key, u64>,
}

impl Known {
    fn has(&self, key: &Key, now: u64) -> bool {
        self.young.get(key).or_else(|| self.old.get(key)).is_some_and(|until| now < *until)
    }

    fn remember(&mut self, key: Key, now: u64) {
        if self.young.len() >= REMEMBERED {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, now + REMEMBERED_FOR);
    }
}

impl Passwords {
    pub fn new(seconds: Histogram) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let mut secret = [0; 32];
        rand::fill(&mut secret).expect("the library's generator is seeded when it is first used, and then gives bytes");
        Self {
            secret: Secret(secret),
            checks: Arc::new(Semaphore::new(cores)),
            line: Arc::new(Semaphore::new(cores * WAITING_PER_CHECK)),
            known: Mutex::default(),
            under_way: Mutex::default(),
            guard: Mutex::default(),
            names: RandomState::new(),
            delayed: Semaphore::new(DELAYED),
            bans: Tally::default(),
            seconds,
        }
    }

    /// Finds out, at `clock` in milliseconds, whether the password is right that came from this address.
    pub async fn check(
        &self,
        check: PasswordCheck,
        address: IpAddr,
        settings: &settings::Guard,
        clock: impl Fn() -> u64,
    ) -> Result<Identity, Refusal> {
        let network = (!settings.addresses_hidden).then(|| address.into());
        let attempt = Attempt { user: self.names.hash_one(check.name()), network };
        // Before anything is looked up: who is banned does not learn what is remembered.
        if let Some(banned) = lock(&self.guard).banned(attempt, clock()).filter(|_| !settings.is_off()) {
            return Err(refuse(&banned, attempt));
        }
        let key = check.cache_key(&self.secret.0);
        if !lock(&self.known).has(&key, clock()) {
            let check = Arc::new(check);
            // Whoever comes first checks; should its connection go away, the next one does.
            let share = Share::join(self, key);
            let verified = share.outcome.get_or_try_init(|| self.guarded(check.clone(), attempt, settings, &clock));
            if !*verified.await? {
                return check.conclude(false);
            }
            lock(&self.known).remember(key, clock());
            lock(&self.guard).trust(attempt, settings, clock());
            return check.conclude(true);
        }
        lock(&self.guard).trust(attempt, settings, clock());
        check.conclude(true)
    }

    /// Verifies the password, later the more wrong ones there were before, and not at all when there were too many.
    async fn guarded(
        &self,
        check: Arc<PasswordCheck>,
        attempt: Attempt,
        settings: &settings::Guard,
        clock: &impl Fn() -> u64,
    ) -> Result<bool, Refusal> {
        let begun = lock(&self.guard).begin(attempt, settings, clock());
        let wait = begun.map_err(|banned| {
            self.count(&banned);
            refuse(&banned, attempt)
        })?;
        let verified = match self.wait(wait).await {
            Ok(()) => self.verify(check).await,
            Err(refusal) => Err(refusal),
        };
        let mut guard = lock(&self.guard);
        if let Ok(false) = verified {
            if let Some(banned) = guard.failed(attempt, settings, clock()) {
                self.count(&banned);
            }
        } else {
            guard.give_back(attempt, settings);
        }
        verified
    }

    fn count(&self, banned: &Banned) {
        if banned.is_new {
            self.bans.add(banned.scope.name());
        }
    }

    /// Waits, if not too many wait already.
    async fn wait(&self, milliseconds: u64) -> Result<(), Refusal> {
        if milliseconds == 0 {
            return Ok(());
        }
        let Ok(_place) = self.delayed.try_acquire() else {
            let log = "too many passwords are delayed because of wrong ones before";
            return Err(Refusal::new(ReasonCode::CONNECTION_RATE_EXCEEDED, 3, log).because(Why::Banned));
        };
        tokio::time::sleep(Duration::from_millis(milliseconds)).await;
        Ok(())
    }

    /// Bans in force.
    pub fn banned(&self, now: u64) -> usize {
        lock(&self.guard).in_force(now)
    }

    async fn verify(&self, check: Arc<PasswordCheck>) -> Result<bool, Refusal> {
        let place = self.line.clone().try_acquire_owned();
        let place = place.map_err(|_| busy("too many passwords wait to be checked"))?;
        let since = Instant::now();
        let permit = tokio::time::timeout(PATIENCE, self.checks.clone().acquire_owned()).await;
        let Ok(Ok(permit)) = permit else { return Err(busy("the password waited too long to be checked")) };
        let secret = self.secret.0;
        let checking = tokio::task::spawn_blocking(move || {
            let verified = check.verify(&secret);
            // Not before: whoever waits for this may go away, and the thread would still be busy.
            drop((place, permit));
            verified
        });
        let checked = checking.await;
        self.seconds.observe(since.elapsed().as_secs_f64());
        checked.map_err(|_| busy("the password check failed"))
    }
}

/// What is said to a client that is banned.
fn refuse(banned: &Banned, attempt: Attempt) -> Refusal {
    let seconds = banned.remaining.div_ceil(1000);
    let what = match banned.scope {
        Scope::User => "this user from ",
        Scope::Network => "all users from ",
    };
    let network = attempt.network.map(|network| network.to_string()).unwrap_or_default();
    let log = format!("too many wrong passwords: {what}{network} is banned for another {seconds} s");
    let public = Some(format!("too many wrong passwords, try again in {seconds} s"));
    Refusal { public, ..Refusal::new(ReasonCode::BANNED, 3, log).because(Why::Banned) }
}

/// A share in a check that is under way.
struct Share<'a> {
    passwords: &'a Passwords,
    key: Key,
    outcome: Outcome,
}

impl<'a> Share<'a> {
    /// The check of this key that is under way, or a new one.
    fn join(passwords: &'a Passwords, key: Key) -> Self {
        let outcome = lock(&passwords.under_way).entry(key).or_default().clone();
        Self { passwords, key, outcome }
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        let mut under_way = lock(&self.passwords.under_way);
        // This one, and the one in the map.
        if Arc::strong_count(&self.outcome) == 2 {
            under_way.remove(&self.key);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Behind the locks are maps, which a panic elsewhere leaves whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn busy(log: &str) -> Refusal {
    Refusal::new(ReasonCode::SERVER_BUSY, 3, log).because(Why::Busy)
}

/// Reads what was banned when `/metrics` is asked.
#[derive(Debug)]
pub struct BanMetrics(pub Arc<Shared>);

impl Collector for BanMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let passwords = &self.0.passwords;
        let help = "Bans after too many wrong passwords, of a user in a network or of a network";
        let mut family = encoder.encode_descriptor("mqtt_auth_bans", help, None, MetricType::Counter)?;
        for (scope, count) in passwords.bans.get() {
            ConstCounter::new(count).encode(family.encode_family(&[("scope", scope)])?)?;
        }
        let gauge = ConstGauge::new(passwords.banned(self.0.now()) as i64);
        let help = "Bans in force";
        gauge.encode(encoder.encode_descriptor("mqtt_auth_banned", help, None, gauge.metric_type())?)
    }
}

#[cfg(test)]
mod tests {
    use futures::future::join_all;

    use super::*;
    use crate::auth::settings::{Settings, User};
    use crate::auth::{Policy, Presented, Sources, Verdict};

    /// Argon2id with 8 KiB and one pass: many in a test.
    fn quick(password: &[u8]) -> String {
        use argon2::password_hash::{PasswordHasher, SaltString};
        let params = argon2::Params::new(8, 1, 1, None).unwrap();
        let argon2 = argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
        argon2.hash_password(password, &SaltString::encode_b64(&[1; 16]).unwrap()).unwrap().to_string()
    }

    fn policy(hash: String) -> Policy {
        let user = User { name: "dev".into(), groups: vec![], acl: vec![] };
        let settings = Settings { users: vec![user], ..Settings::default() };
        Policy::new(&settings, Sources { hashes: vec![("dev".into(), hash)], ..Sources::default() }).unwrap()
    }

    fn presented(policy: &Policy, name: &str, password: &[u8]) -> PasswordCheck {
        let presented = Presented {
            username: Some(name),
            password: Some(password),
            method: None,
            data: None,
            bearer: None,
            client_id: "x",
            internal: false,
            certificate: false,
        };
        match policy.authenticate(&presented, 0) {
            Verdict::CheckPassword(check) => check,
            other => unreachable!("{other:?}"),
        }
    }

    async fn at(passwords: &Passwords, check: PasswordCheck, now: u64) -> Result<Identity, Refusal> {
        passwords.check(check, [192, 0, 2, 7].into(), &settings::Guard::default(), || now).await
    }

    fn passwords() -> Passwords {
        Passwords::new(Histogram::new([1.0]))
    }

    fn made(passwords: &Passwords) -> u64 {
        use prometheus_client::encoding::text::encode;
        let mut registry = prometheus_client::registry::Registry::default();
        registry.register("checks", "", passwords.seconds.clone());
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        text.lines().find_map(|line| line.strip_prefix("checks_count ")).unwrap().parse().unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_thousand_clients_of_one_user_that_come_at_once_cost_one_hash() {
        let (passwords, policy) = (passwords(), policy(quick(b"geheim")));
        let storm = || join_all((0..1000).map(|_| at(&passwords, presented(&policy, "dev", b"geheim"), 0)));
        assert!(storm().await.iter().all(Result::is_ok));
        assert_eq!(made(&passwords), 1);
        assert!(storm().await.iter().all(Result::is_ok), "and when they come again");
        assert_eq!(made(&passwords), 1);
        assert!(lock(&passwords.under_way).is_empty());
    }

    #[tokio::test]
    async fn what_was_verified_is_forgotten_after_five_minutes() {
        let (passwords, policy) = (passwords(), policy(quick(b"geheim")));
        for (now, expected) in [(0, 1), (REMEMBERED_FOR - 1, 1), (REMEMBERED_FOR, 2), (REMEMBERED_FOR + 1, 2)] {
            at(&passwords, presented(&policy, "dev", b"geheim"), now).await.unwrap();
            assert_eq!(made(&passwords), expected, "{now}");
        }
    }

    #[tokio::test]
    async fn a_changed_hash_and_a_wrong_password_are_never_answered_from_memory() {
        let passwords = passwords();
        let (before, after) = (policy(quick(b"geheim")), policy(quick(b"neu")));
        at(&passwords, presented(&before, "dev", b"geheim"), 0).await.unwrap();
        for wrong in [presented(&after, "dev", b"geheim"), presented(&before, "dev", b"Geheim")] {
            assert_eq!(at(&passwords, wrong, 0).await.unwrap_err().code, ReasonCode::BAD_USER_NAME_OR_PASSWORD);
        }
        at(&passwords, presented(&after, "dev", b"neu"), 0).await.unwrap();
        for _ in 0..2 {
            at(&passwords, presented(&after, "nobody", b"neu"), 0).await.unwrap_err();
        }
        assert_eq!(made(&passwords), 6);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn passwords_beyond_the_line_are_told_to_come_again_later() {
        let (passwords, policy) = (passwords(), policy(quick(b"geheim")));
        let places = passwords.line.available_permits() as u32;
        let line = passwords.line.clone().acquire_many_owned(places).await.unwrap();
        let refused = at(&passwords, presented(&policy, "dev", b"geheim"), 0).await.unwrap_err();
        assert_eq!((refused.code, refused.return_code), (ReasonCode::SERVER_BUSY, 3));
        drop(line);
        at(&passwords, presented(&policy, "dev", b"geheim"), 0).await.unwrap();
    }

    #[tokio::test]
    async fn when_the_client_that_checks_goes_away_the_next_one_checks() {
        let (passwords, policy) = (passwords(), policy(quick(b"geheim")));
        let all = passwords.checks.available_permits() as u32;
        let busy = passwords.checks.clone().acquire_many_owned(all).await.unwrap();
        let mut first = Box::pin(at(&passwords, presented(&policy, "dev", b"geheim"), 0));
        let mut second = Box::pin(at(&passwords, presented(&policy, "dev", b"geheim"), 0));
        assert!(futures::poll!(&mut first).is_pending() && futures::poll!(&mut second).is_pending());
        drop(first);
        drop(busy);
        second.await.unwrap();
        assert_eq!(made(&passwords), 1);
        assert!(lock(&passwords.under_way).is_empty());
    }

    #[tokio::test]
    async fn wrong_passwords_are_delayed_and_then_banned_and_a_ban_hides_what_is_remembered() {
        let (passwords, policy) = (passwords(), policy(quick(b"geheim")));
        let three = settings::Guard { failures: 3, ..settings::Guard::default() };
        let try_at = async |password: &[u8], now: u64| {
            passwords.check(presented(&policy, "dev", password), [192, 0, 2, 7].into(), &three, || now).await
        };
        try_at(b"geheim", 0).await.unwrap();
        let since = Instant::now();
        for wrong in [b"one".as_slice(), b"two", b"three"] {
            assert_eq!(try_at(wrong, 0).await.unwrap_err().code, ReasonCode::BAD_USER_NAME_OR_PASSWORD);
        }
        assert!(since.elapsed() >= Duration::from_millis(100 + 800));
        for password in [b"wrong", b"geheim".as_slice()] {
            let refused = try_at(password, 0).await.unwrap_err();
            assert_eq!((refused.code, refused.return_code), (ReasonCode::BANNED, 3));
            assert_eq!(refused.public.as_deref(), Some("too many wrong passwords, try again in 300 s"));
        }
        assert_eq!((passwords.bans.total(), passwords.banned(0), made(&passwords)), (1, 1, 4));
        try_at(b"geheim", 300_000).await.unwrap();
        assert_eq!(passwords.banned(300_000), 0);
    }

    #[tokio::test]
    async fn when_too_many_are_delayed_the_next_is_refused_at_once() {
        let (passwords, policy) = (passwords(), policy(quick(b"geheim")));
        let _all = passwords.delayed.acquire_many(DELAYED as u32).await.unwrap();
        for number in 0..4 {
            let wrong = presented(&policy, "dev", format!("wrong {number}").as_bytes());
            let refused = at(&passwords, wrong, 0).await.unwrap_err();
            let expected =
                if number < 3 { ReasonCode::BAD_USER_NAME_OR_PASSWORD } else { ReasonCode::CONNECTION_RATE_EXCEEDED };
            assert_eq!(refused.code, expected);
        }
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut known = Known::default();
        for number in 0..100_000_u64 {
            let mut key = [0; 32];
            key[..8].copy_from_slice(&number.to_be_bytes());
            known.remember(key, 0);
        }
        assert!(known.young.len() + known.old.len() <= 2 * REMEMBERED);
    }
}
