//! The keys of other issuers: read from documents, or fetched and kept.
//!
//! One task fetches, for all: a token that names a key which is not known waits for the fetch that is under way, or sets
//! one off, and at most one begins every thirty seconds. What was fetched holds for a day if it cannot be fetched again,
//! over restarts too; then the issuer has no keys, and its tokens are refused.

mod fetch;
mod pace;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use super::documents::{self, Documents};
use super::{Shared, unix_millis, with_causes};
use crate::auth::KeySet;
use crate::auth::issuer::{self, Loaded};
use crate::auth::settings::{Issuer, IssuerKeys, Settings};
use crate::config::files::SERVICE_ACCOUNTS;
use crate::process::Shutdown;
use fetch::{FetchError, fetch};
use pace::Pace;

/// How often it is looked whether a fetch is due.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long a CONNECT, or an AUTH, waits for a fetch.
const PATIENCE: Duration = Duration::from_secs(6);

/// The keys of all other issuers.
#[derive(Debug)]
pub struct Issuers {
    /// Under which a policy remembers verified tokens.
    pub memory: [u8; 32],
    /// Those that are fetched, by issuer.
    fetched: Mutex<BTreeMap<String, Fetched>>,
    /// The last good ones of those that are read.
    read: Mutex<HashMap<String, Loaded>>,
    wake: Notify,
}

/// What is known of an issuer whose keys are fetched.
#[derive(Debug)]
struct Fetched {
    settings: Issuer,
    /// Where it is kept over a restart.
    cache: Option<PathBuf>,
    /// The document that is in force.
    document: Vec<u8>,
    keys: Option<KeySet>,
    pace: Pace,
    fetching: bool,
    /// Somebody waits for a key.
    wanted: bool,
    /// Changes whenever a fetch is over and its keys are in force.
    done: watch::Sender<()>,
}

/// A document that was fetched, on disk.
#[derive(Debug, Serialize, Deserialize)]
struct Cached {
    url: String,
    /// Unix time in seconds.
    fetched: u64,
    document: String,
}

/// A fetch that is due.
#[derive(Debug)]
struct Job {
    issuer: String,
    url: String,
    allow_private: bool,
    own_authorities: bool,
}

fn unix_seconds() -> u64 {
    unix_millis() / 1000
}

/// From 0 to 1.
fn jitter() -> f64 {
    let mut bytes = [0; 2];
    // Without randomness there is no jitter, and nothing worse.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    f64::from(u16::from_be_bytes(bytes)) / f64::from(u16::MAX)
}

impl Issuers {
    pub fn new() -> Self {
        let mut memory = [0; 32];
        aws_lc_rs::rand::fill(&mut memory).expect("the system has random bytes");
        Self { memory, fetched: Mutex::default(), read: Mutex::default(), wake: Notify::new() }
    }

    fn fetched(&self) -> MutexGuard<'_, BTreeMap<String, Fetched>> {
        self.fetched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The keys of the issuers of these settings, in their order, as they are known now. `files` are the broker's documents
    /// with keys, by name.
    pub fn load(&self, settings: &Settings, files: &[(String, Vec<u8>)]) -> Vec<Option<Loaded>> {
        let cache = &settings.issuers_cache;
        let mut fetched = self.fetched();
        let wanted = |name: &String| {
            settings.issuers.iter().any(|it| it.issuer == *name && matches!(it.keys, IssuerKeys::Url { .. }))
        };
        fetched.retain(|name, _| wanted(name));
        let load = |issuer: &Issuer| match &issuer.keys {
            IssuerKeys::Url { .. } => {
                let known = fetched.entry(issuer.issuer.clone());
                let known = known.or_insert_with(|| Fetched::new(issuer, cache.clone()));
                if known.settings != *issuer {
                    known.change(issuer);
                }
                let keys = known.keys.clone()?;
                Some(Loaded { issuer: None, keys })
            }
            IssuerKeys::Document => self.read(issuer, format!("{}.json", issuer::file_stem(&issuer.issuer)), files),
            IssuerKeys::Cluster => self.read(issuer, SERVICE_ACCOUNTS.to_owned(), files),
        };
        let loaded = settings.issuers.iter().map(load).collect();
        drop(fetched);
        self.wake.notify_one();
        loaded
    }

    /// The keys in a document; those that it had before if it cannot be used. One issuer's trouble is not that of all.
    fn read(&self, issuer: &Issuer, name: String, files: &[(String, Vec<u8>)]) -> Option<Loaded> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let of = issuer.issuer.as_str();
        let Some((_, document)) = files.iter().find(|(file, _)| *file == name) else {
            read.remove(&name);
            tracing::warn!(issuer = of, name, "the keys of this issuer are not there; its tokens are refused");
            return None;
        };
        match issuer::read_keys(issuer, document) {
            Ok(loaded) => {
                for problem in loaded.keys.skipped() {
                    tracing::info!(issuer = of, problem, "a key of this issuer is passed over");
                }
                read.insert(name, loaded.clone());
                Some(loaded)
            }
            Err(error) => {
                let last_good = read.get(&name).cloned();
                tracing::error!(issuer = of, name, %error, kept = last_good.is_some(), "the keys of this issuer cannot be used");
                last_good
            }
        }
    }

    /// Waits for a fetch of this issuer's keys, if one is under way or may begin at `now`, in milliseconds; whether it is
    /// worth asking again.
    pub async fn learn(&self, issuer: &str, now: u64) -> bool {
        let mut done = {
            let mut fetched = self.fetched();
            let Some(known) = fetched.get_mut(issuer) else { return false };
            if !known.fetching && !known.pace.may_try(now) {
                return false;
            }
            known.wanted = true;
            known.done.subscribe()
        };
        self.wake.notify_one();
        matches!(tokio::time::timeout(PATIENCE, done.changed()).await, Ok(Ok(())))
    }

    /// The fetches that begin at `now`, in milliseconds.
    fn begin(&self, now: u64) -> Vec<Job> {
        let mut jobs = Vec::new();
        for (issuer, known) in self.fetched().iter_mut() {
            let IssuerKeys::Url { url, allow_private, own_authorities } = known.settings.keys.clone() else { continue };
            if known.fetching || !(known.pace.is_due(now) || known.wanted && known.pace.may_try(now)) {
                continue;
            }
            known.fetching = true;
            known.wanted = false;
            known.pace.begin(now);
            jobs.push(Job { issuer: issuer.clone(), url, allow_private, own_authorities });
        }
        jobs
    }

    /// Takes what a fetch has brought; whether keys have changed.
    fn finish(&self, job: &Job, result: Result<Vec<u8>, FetchError>, now: u64) -> bool {
        let mut fetched = self.fetched();
        let Some(known) = fetched.get_mut(&job.issuer) else { return false };
        known.fetching = false;
        let IssuerKeys::Url { url, .. } = &known.settings.keys else { return false };
        if *url != job.url {
            // The object has changed meanwhile: this is the answer to another question.
            return false;
        }
        let keys = result.map_err(|error| with_causes(&error)).and_then(|document| {
            let keys = KeySet::parse_foreign(&document, &known.settings.algorithms);
            keys.map(|keys| (document, keys)).map_err(|error| error.to_string())
        });
        let seconds = unix_seconds();
        match keys {
            Ok((document, keys)) => {
                known.pace.succeed(now, seconds, jitter());
                if let Some(cache) = &known.cache {
                    save(cache, job, seconds, &document);
                }
                let changed = known.keys.is_none() || known.document != document;
                if changed {
                    tracing::info!(issuer = job.issuer, keys = ?keys.ids(), passed_over = ?keys.skipped(), "keys of an issuer loaded");
                    known.document = document;
                    known.keys = Some(keys);
                }
                changed
            }
            Err(error) => {
                known.pace.fail(now, jitter());
                let age = known.pace.age(seconds).filter(|_| known.keys.is_some());
                tracing::warn!(
                    issuer = job.issuer,
                    url = job.url,
                    error,
                    age,
                    "the keys of this issuer cannot be fetched"
                );
                false
            }
        }
    }

    /// Takes away the keys that have not been confirmed for too long at `seconds` of Unix time; whether there were any.
    fn expire(&self, seconds: u64) -> bool {
        let mut expired = false;
        for (issuer, known) in self.fetched().iter_mut() {
            if known.keys.is_some() && !known.pace.holds(seconds) {
                tracing::error!(
                    issuer,
                    "the keys of this issuer could not be fetched for a day; its tokens are refused"
                );
                known.keys = None;
                expired = true;
            }
        }
        expired
    }

    fn announce(&self, issuer: &str) {
        if let Some(known) = self.fetched().get(issuer) {
            known.done.send_replace(());
        }
    }
}

impl Fetched {
    fn new(settings: &Issuer, cache: Option<PathBuf>) -> Self {
        let mut new = Self {
            settings: settings.clone(),
            cache,
            document: Vec::new(),
            keys: None,
            pace: Pace::default(),
            fetching: false,
            wanted: false,
            done: watch::Sender::new(()),
        };
        new.resume();
        new
    }

    /// The object says something else of this issuer now.
    fn change(&mut self, settings: &Issuer) {
        let same_source = self.settings.keys == settings.keys;
        self.settings = settings.clone();
        if same_source {
            self.keys = KeySet::parse_foreign(&self.document, &settings.algorithms).ok();
        } else {
            (self.keys, self.pace) = (None, Pace::default());
            self.document.clear();
            self.resume();
        }
    }

    /// Takes what an earlier process has fetched from the same place.
    fn resume(&mut self) {
        let kept = self.cache.as_ref().and_then(|cache| kept(cache, &self.settings));
        if let Some((cached, keys)) = kept {
            let pace = Pace::resumed(Some(cached.fetched));
            (self.document, self.keys, self.pace) = (cached.document.into_bytes(), Some(keys), pace);
        }
    }
}

/// What a broker has fetched and kept in this directory, if it is of the same place and holds still.
fn kept(cache: &Path, settings: &Issuer) -> Option<(Cached, KeySet)> {
    let IssuerKeys::Url { url, .. } = &settings.keys else { return None };
    let text = std::fs::read(file(cache, &settings.issuer)).ok()?;
    let cached: Cached = serde_json::from_slice(&text).ok()?;
    if cached.url != *url || !Pace::resumed(Some(cached.fetched)).holds(unix_seconds()) {
        return None;
    }
    let keys = KeySet::parse_foreign(cached.document.as_bytes(), &settings.algorithms).ok()?;
    Some((cached, keys))
}

/// The keys of an issuer that a broker has fetched and keeps in this directory.
pub fn kept_keys(cache: &Path, settings: &Issuer) -> Option<Loaded> {
    kept(cache, settings).map(|(_, keys)| Loaded { issuer: None, keys })
}

fn file(cache: &Path, issuer: &str) -> PathBuf {
    cache.join(format!("{}.json", issuer::file_stem(issuer)))
}

/// Keeps a document for the next process. Without it that one only has to wait for its own fetch.
fn save(cache: &Path, job: &Job, seconds: u64, document: &[u8]) {
    let Ok(document) = String::from_utf8(document.to_vec()) else { return };
    let cached = Cached { url: job.url.clone(), fetched: seconds, document };
    let path = file(cache, &job.issuer);
    let new = path.with_extension("new");
    let write = || {
        std::fs::create_dir_all(cache)?;
        std::fs::write(&new, serde_json::to_vec(&cached).expect("plain values become JSON"))?;
        std::fs::rename(&new, &path)
    };
    if let Err(error) = write() {
        tracing::warn!(path = %path.display(), %error, "the keys of an issuer cannot be kept over a restart");
    }
}

/// Fetches what is due, and puts it into force, until shutdown.
pub async fn serve(documents: Arc<Documents>, shared: Arc<Shared>, shutdown: Shutdown) {
    let issuers = &shared.issuers;
    let mut running = JoinSet::new();
    loop {
        for job in issuers.begin(shared.now()) {
            let ca = documents.etc.issuer(&format!("{}.crt", issuer::file_stem(&job.issuer)));
            running.spawn(async move {
                // Those that the object names, or those of the system: never the others in their place.
                let authorities = if job.own_authorities {
                    tokio::fs::read(&ca).await.map(Some).map_err(|error| FetchError::Authorities(ca, error))
                } else {
                    Ok(None)
                };
                let result = match authorities {
                    Ok(authorities) => fetch(&job.url, job.allow_private, authorities).await,
                    Err(error) => Err(error),
                };
                (job, result)
            });
        }
        let idle = issuers.fetched().is_empty();
        let mut changed = issuers.expire(unix_seconds());
        let mut over = None;
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY), if !idle && !changed => {}
            () = issuers.wake.notified(), if !changed => {}
            Some(Ok((job, result))) = running.join_next() => {
                changed |= issuers.finish(&job, result, shared.now());
                over = Some(job.issuer);
            }
            () = std::future::ready(()), if changed => {}
            () = shutdown.wait() => return,
        }
        if changed {
            reload(&documents, &shared).await;
        }
        if let Some(issuer) = over {
            issuers.announce(&issuer);
        }
    }
}

/// Puts the keys into force as they are now.
async fn reload(documents: &Arc<Documents>, shared: &Arc<Shared>) {
    let (documents, shared) = (documents.clone(), shared.clone());
    // Thousands of users take a while to read and to check.
    let reloading = tokio::task::spawn_blocking(move || documents::reload(&documents, &shared));
    if let Ok(Err(error)) = reloading.await {
        let error = with_causes(&error);
        tracing::error!(error, "the keys of other issuers cannot be put into force");
    }
}

/// Registers how old the keys of each issuer are.
pub fn register(registry: &mut Registry, shared: &Arc<Shared>) {
    registry.register_collector(Box::new(Ages(shared.clone())));
}

#[derive(Debug)]
struct Ages(Arc<Shared>);

impl Collector for Ages {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let now = unix_seconds();
        let help = "Seconds since the keys of an issuer were fetched or confirmed";
        let mut family = encoder.encode_descriptor("mqtt_jwks_age_seconds", help, None, MetricType::Gauge)?;
        for (issuer, known) in self.0.issuers.fetched().iter() {
            if let Some(age) = known.pace.age(now) {
                ConstGauge::new(age as i64).encode(family.encode_family(&[("issuer", issuer.as_str())])?)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::key::{Algorithm, PrivateKeys, generate};
    use crate::auth::settings::Mapping;

    const HOUR: u64 = 3600;

    fn settings(url: &str) -> Settings {
        let issuer = Issuer {
            issuer: "https://idp.example".into(),
            audiences: vec!["a".into()],
            keys: IssuerKeys::Url { url: url.into(), allow_private: false, own_authorities: false },
            algorithms: vec![Algorithm::EdDsa],
            acl_claim: String::new(),
            max_token_ttl: 60,
            mapping: Mapping::default(),
            groups: vec![],
        };
        Settings { issuers: vec![issuer], ..Settings::default() }
    }

    fn document(seed: u8) -> Vec<u8> {
        PrivateKeys { keys: vec![generate(Algorithm::EdDsa, &[seed; 48]).unwrap()] }.public().into_bytes()
    }

    fn ids(issuers: &Issuers, settings: &Settings) -> Option<Vec<String>> {
        issuers.load(settings, &[]).remove(0).map(|loaded| loaded.keys.ids())
    }

    #[test]
    fn keys_hold_while_their_server_is_down_and_no_longer_than_a_day() {
        let (issuers, settings) = (Issuers::new(), settings("https://idp.example/keys"));
        assert_eq!(ids(&issuers, &settings), None);
        let [job] = issuers.begin(0).try_into().unwrap();
        assert!(issuers.begin(0).is_empty(), "one at a time");
        assert!(issuers.finish(&job, Ok(document(1)), 10));
        let known = ids(&issuers, &settings);
        assert!(known.is_some());

        let down = || Err(FetchError::Timeout);
        let [again] = issuers.begin(HOUR * 1000 + 10).try_into().unwrap();
        assert!(!issuers.finish(&again, down(), HOUR * 1000 + 20));
        assert!(!issuers.expire(unix_seconds() + 23 * HOUR));
        assert_eq!(ids(&issuers, &settings), known);
        assert!(issuers.expire(unix_seconds() + 24 * HOUR) && !issuers.expire(unix_seconds() + 24 * HOUR));
        assert_eq!(ids(&issuers, &settings), None);

        let [back] = issuers.begin(2 * HOUR * 1000).try_into().unwrap();
        assert!(issuers.finish(&back, Ok(document(1)), 2 * HOUR * 1000), "the same keys, and they count again");
        assert_eq!(ids(&issuers, &settings), known);
        assert!(!issuers.finish(&back, Ok(document(1)), 2 * HOUR * 1000), "nothing new");
        assert!(issuers.finish(&back, Ok(document(2)), 2 * HOUR * 1000));
    }

    #[test]
    fn an_answer_from_a_place_that_the_object_no_longer_names_is_no_answer() {
        let (issuers, before, after) = (Issuers::new(), settings("https://a.example/"), settings("https://b.example/"));
        ids(&issuers, &before);
        let [job] = issuers.begin(0).try_into().unwrap();
        ids(&issuers, &after);
        assert!(!issuers.finish(&job, Ok(document(1)), 10));
        assert_eq!(ids(&issuers, &after), None);
        let [next] = issuers.begin(20).try_into().unwrap();
        assert_eq!(next.url, "https://b.example/");
        assert!(issuers.finish(&next, Ok(document(1)), 30));
        // The keys of one place are not those of another, and a key is not one that the issuer may not sign with.
        assert_eq!(ids(&issuers, &before), None);
    }
}
