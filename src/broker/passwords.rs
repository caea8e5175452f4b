//! Checking passwords: as many at a time as there are cores, a bounded number in line, and none twice.
//!
//! A hash costs tens of milliseconds by design. So what was verified is remembered for a while, and clients that present
//! the same at the same time share one check: a thousand devices of one user that come back after a restart cost one hash.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aws_lc_rs::rand;
use prometheus_client::metrics::histogram::Histogram;
use tokio::sync::{OnceCell, Semaphore};

use crate::auth::{Identity, PasswordCheck, Refusal, Why};
use crate::mqtt::ReasonCode;

/// Passwords that may wait to be checked, for each that is being checked.
const WAITING_PER_CHECK: usize = 64;
/// How long one may wait.
const PATIENCE: Duration = Duration::from_secs(20);
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
    /// Seconds of the checks that were made, waiting included.
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
            seconds,
        }
    }

    /// Finds out, at `now` in milliseconds of the broker's clock, whether the password is right.
    pub async fn check(&self, check: PasswordCheck, now: u64) -> Result<Identity, Refusal> {
        let key = check.cache_key(&self.secret.0);
        if lock(&self.known).has(&key, now) {
            return check.conclude(true);
        }
        let check = Arc::new(check);
        // Whoever comes first checks; should its connection go away, the next one does.
        let shared = Share::join(self, key);
        let verified = *shared.outcome.get_or_try_init(|| self.verify(check.clone())).await?;
        if verified {
            lock(&self.known).remember(key, now);
        }
        check.conclude(verified)
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
        let storm = || join_all((0..1000).map(|_| passwords.check(presented(&policy, "dev", b"geheim"), 0)));
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
            passwords.check(presented(&policy, "dev", b"geheim"), now).await.unwrap();
            assert_eq!(made(&passwords), expected, "{now}");
        }
    }

    #[tokio::test]
    async fn a_changed_hash_and_a_wrong_password_are_never_answered_from_memory() {
        let passwords = passwords();
        let (before, after) = (policy(quick(b"geheim")), policy(quick(b"neu")));
        passwords.check(presented(&before, "dev", b"geheim"), 0).await.unwrap();
        for wrong in [presented(&after, "dev", b"geheim"), presented(&before, "dev", b"Geheim")] {
            assert_eq!(passwords.check(wrong, 0).await.unwrap_err().code, ReasonCode::BAD_USER_NAME_OR_PASSWORD);
        }
        passwords.check(presented(&after, "dev", b"neu"), 0).await.unwrap();
        for _ in 0..2 {
            passwords.check(presented(&after, "nobody", b"neu"), 0).await.unwrap_err();
        }
        assert_eq!(made(&passwords), 6);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn passwords_beyond_the_line_are_told_to_come_again_later() {
        let (passwords, policy) = (passwords(), policy(quick(b"geheim")));
        let places = passwords.line.available_permits() as u32;
        let line = passwords.line.clone().acquire_many_owned(places).await.unwrap();
        let refused = passwords.check(presented(&policy, "dev", b"geheim"), 0).await.unwrap_err();
        assert_eq!((refused.code, refused.return_code), (ReasonCode::SERVER_BUSY, 3));
        drop(line);
        passwords.check(presented(&policy, "dev", b"geheim"), 0).await.unwrap();
    }

    #[tokio::test]
    async fn when_the_client_that_checks_goes_away_the_next_one_checks() {
        let (passwords, policy) = (passwords(), policy(quick(b"geheim")));
        let all = passwords.checks.available_permits() as u32;
        let busy = passwords.checks.clone().acquire_many_owned(all).await.unwrap();
        let mut first = Box::pin(passwords.check(presented(&policy, "dev", b"geheim"), 0));
        let mut second = Box::pin(passwords.check(presented(&policy, "dev", b"geheim"), 0));
        assert!(futures::poll!(&mut first).is_pending() && futures::poll!(&mut second).is_pending());
        drop(first);
        drop(busy);
        second.await.unwrap();
        assert_eq!(made(&passwords), 1);
        assert!(lock(&passwords.under_way).is_empty());
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
