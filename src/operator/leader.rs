//! One leader among several operators, by a Lease.
//!
//! Every write is a replacement of the version that was read, so that of two writers one is refused. Clocks of machines
//! are not compared: a lease has expired when nothing about it changed for its duration, measured here.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::Client;
use kube::api::{Api, PostParams};
use tokio::time::{Instant, sleep, timeout};

/// Which lease, and who wants it.
#[derive(Clone, Debug)]
pub struct Name {
    pub namespace: String,
    pub name: String,
    /// Not to be shared by two processes, as the name of a pod.
    pub identity: String,
    pub timing: Timing,
}

/// How long things take.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// A leader that was not heard of for so long has lost the lease.
    pub duration: Duration,
    /// A leader that could not renew for so long gives up; shorter than `duration`, so that it ends before another begins.
    pub deadline: Duration,
    /// A single request.
    pub request: Duration,
    /// Between two attempts.
    pub retry: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            duration: Duration::from_secs(15),
            deadline: Duration::from_secs(10),
            request: Duration::from_secs(5),
            retry: Duration::from_secs(2),
        }
    }
}

/// Why this process is not the leader.
#[derive(Debug, thiserror::Error)]
pub enum LeaderError {
    #[error("the lease was taken by {0:?}")]
    Taken(String),
    #[error("the lease could not be renewed in time: {0}")]
    Deadline(String),
    #[error("use the lease {0}")]
    Refused(String, #[source] Box<kube::Error>),
}

/// Takes part in an election.
#[derive(Debug)]
pub struct Election {
    api: Api<Lease>,
    name: Name,
    /// The lease as this process wrote it last.
    held: Option<Lease>,
}

/// What came of one attempt.
enum Attempt {
    Won(Box<Lease>),
    /// Somebody else has it: what was read.
    Other(Box<Lease>),
    /// Somebody else was faster, or the API server did not answer.
    Again(String),
}

impl Election {
    pub fn new(client: Client, name: Name) -> Self {
        Self { api: Api::namespaced(client, &name.namespace), name, held: None }
    }

    /// Waits until this process holds the lease. Fails only if it never can, for want of rights.
    pub async fn acquire(&mut self) -> Result<(), LeaderError> {
        let mut seen: Option<(Lease, Instant)> = None;
        loop {
            let expired =
                seen.as_ref().filter(|(lease, since)| since.elapsed() > self.term(lease)).map(|(lease, _)| lease);
            let attempt = match timeout(self.name.timing.request, self.attempt(expired)).await {
                Ok(attempt) => attempt?,
                Err(_) => Attempt::Again("no answer".into()),
            };
            match attempt {
                Attempt::Won(lease) => {
                    tracing::info!(identity = self.name.identity, "leading");
                    self.held = Some(*lease);
                    return Ok(());
                }
                Attempt::Other(lease) if seen.as_ref().is_none_or(|(before, _)| before.metadata != lease.metadata) => {
                    tracing::info!(leader = holder(&lease), "another operator leads");
                    seen = Some((*lease, Instant::now()));
                }
                Attempt::Other(_) => {}
                Attempt::Again(reason) => tracing::debug!(reason, "the lease is not decided"),
            }
            sleep(self.name.timing.retry).await;
        }
    }

    /// Renews the lease until that fails; returns why.
    pub async fn hold(&mut self) -> LeaderError {
        let mut renewed = Instant::now();
        let mut problem = String::new();
        loop {
            sleep(self.name.timing.retry).await;
            if renewed.elapsed() > self.name.timing.deadline {
                return LeaderError::Deadline(problem);
            }
            let Some(lease) = self.held.clone() else { return LeaderError::Deadline("it was released".into()) };
            let renewal = self.replace(&lease, &self.name.identity);
            match timeout(self.name.timing.request, renewal).await {
                Ok(Ok(lease)) => {
                    self.held = Some(lease);
                    renewed = Instant::now();
                }
                Ok(Err(error)) => {
                    problem = error.to_string();
                    if let Some(other) = self.lost_to(&error).await {
                        return LeaderError::Taken(other);
                    }
                }
                Err(_) => problem = "no answer".into(),
            }
        }
    }

    /// Gives the lease up, so that the next leader need not wait.
    pub async fn release(&mut self) {
        if let Some(lease) = self.held.take() {
            let released = timeout(self.name.timing.request, self.replace(&lease, "")).await;
            if !matches!(released, Ok(Ok(_))) {
                tracing::warn!("the lease was not released; the next leader waits until it expires");
            }
        }
    }

    /// One attempt to get the lease: it is created, or taken from nobody, or from a leader that is not heard of any more.
    async fn attempt(&self, expired: Option<&Lease>) -> Result<Attempt, LeaderError> {
        let found = match self.api.get_opt(&self.name.name).await {
            Ok(Some(found)) => found,
            Ok(None) => return self.outcome(self.create().await),
            Err(error) => return self.outcome(Err(error)),
        };
        let free = holder(&found).is_empty() || holder(&found) == self.name.identity;
        if !free && expired.is_none_or(|expired| expired.metadata != found.metadata) {
            return Ok(Attempt::Other(Box::new(found)));
        }
        self.outcome(self.replace(&found, &self.name.identity).await)
    }

    fn outcome(&self, written: Result<Lease, kube::Error>) -> Result<Attempt, LeaderError> {
        match written {
            Ok(lease) => Ok(Attempt::Won(Box::new(lease))),
            Err(error) if is_refusal(&error) => {
                let lease = format!("{}/{}", self.name.namespace, self.name.name);
                Err(LeaderError::Refused(lease, Box::new(error)))
            }
            Err(error) => Ok(Attempt::Again(error.to_string())),
        }
    }

    async fn create(&self) -> Result<Lease, kube::Error> {
        let metadata = ObjectMeta { name: Some(self.name.name.clone()), ..ObjectMeta::default() };
        let lease = Lease { metadata, spec: Some(self.spec(None, &self.name.identity)) };
        self.api.create(&PostParams::default(), &lease).await
    }

    /// Writes over exactly this version, or not at all.
    async fn replace(&self, lease: &Lease, identity: &str) -> Result<Lease, kube::Error> {
        let mut lease = lease.clone();
        lease.spec = Some(self.spec(lease.spec.as_ref(), identity));
        self.api.replace(&self.name.name, &PostParams::default(), &lease).await
    }

    fn spec(&self, before: Option<&LeaseSpec>, identity: &str) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        let before_holder = before.and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default();
        let same = before_holder == identity;
        let transitions = before.and_then(|spec| spec.lease_transitions).unwrap_or(0);
        LeaseSpec {
            holder_identity: Some(identity.to_owned()),
            lease_duration_seconds: Some((self.name.timing.duration.as_secs() as i32).max(1)),
            acquire_time: before.filter(|_| same).and_then(|spec| spec.acquire_time.clone()).or(Some(now.clone())),
            renew_time: Some(now),
            lease_transitions: Some(if same || identity.is_empty() { transitions } else { transitions + 1 }),
            ..LeaseSpec::default()
        }
    }

    /// The duration that the holder promised, or ours if it promised none.
    fn term(&self, lease: &Lease) -> Duration {
        let promised = lease.spec.as_ref().and_then(|spec| spec.lease_duration_seconds);
        let promised = promised.and_then(|seconds| u64::try_from(seconds).ok()).map(Duration::from_secs);
        promised.unwrap_or(self.name.timing.duration)
    }

    /// Who has the lease now, when a renewal was refused because of that.
    async fn lost_to(&mut self, error: &kube::Error) -> Option<String> {
        if !matches!(error, kube::Error::Api(status) if status.code == 409 || status.code == 404) {
            return None;
        }
        let found = timeout(self.name.timing.request, self.api.get_opt(&self.name.name)).await.ok()?.ok()?;
        let Some(found) = found else { return Some("nobody: it was deleted".into()) };
        if holder(&found) != self.name.identity {
            return Some(holder(&found).to_owned());
        }
        // A renewal that went through although its answer was lost.
        self.held = Some(found);
        None
    }
}

fn holder(lease: &Lease) -> &str {
    lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default()
}

/// Whether trying again is of no use.
fn is_refusal(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if [401, 403, 422].contains(&status.code))
}
