//! The loop: subscribe, fill batches, deliver them, begin again when the connection ends.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use jiff::Timestamp;
use tokio::time::{sleep, sleep_until, timeout};

use super::backoff::Backoff;
use super::batch::{Filling, Limits};
use super::counters::Counters;
use super::deliver::{Sink, Way, chain, deliver, random};
use super::document::{Circumstances, DataStream, Publication, Source};
use crate::client::{self, Acknowledge, Client, Delivery, Incoming, LARGEST_PACKET, Options};
use crate::config::bridge::{Bridge, CLIENT_ID, SESSION_EXPIRY, SUBSCRIPTION, USER};
use crate::config::files::Etc;
use crate::mqtt::{ReasonCode, Version};
use crate::process::Shutdown;

/// Messages that the broker may have sent without having their acknowledgement: some full batches.
const WINDOW: u16 = 20_000;
/// Bytes of documents and payloads held; above it nothing more is read from the broker.
const HELD: usize = 64 * 1024 * 1024;
const KEEP_ALIVE: u16 = 30;
/// Between attempts at a subscription that the broker refused.
const SUBSCRIBE_AGAIN: Duration = Duration::from_secs(10);
/// A session that lasted this long was a good one: after it, connecting again begins with the shortest wait.
const STEADY: Duration = Duration::from_secs(10);
/// Between looks at the age of what waits.
const AGING: Duration = Duration::from_secs(1);
/// Without traffic, the sink is looked at this often, so that the report is true.
const LOOK: Duration = Duration::from_secs(30);
/// How long requests under way may take at the end.
const GRACE: Duration = Duration::from_secs(5);

/// Why there is no session with the broker.
#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error("cannot read the bridge's password in {path}")]
    Password { path: String, source: std::io::Error },
    #[error("no session with the broker at {address}")]
    Broker { address: String, source: client::Error },
}

/// Carries telemetry until `shutdown`; returns when the requests that were under way have ended, or their grace.
///
/// Nothing but `shutdown` ends it. What is wrong is in the report of `counters`.
pub async fn run(etc: &Etc, config: Bridge, counters: Arc<Counters>, shutdown: Shutdown) {
    let Some(source) = source(&config) else {
        let message = format!("{} or {} is no name of a data stream", config.data_stream, config.dead_letters);
        tracing::error!(message, "no telemetry");
        counters.set_broker(Some(message));
        return shutdown.wait().await;
    };
    let sink = Sink::new(&config, etc);
    let mut backoff = Backoff::default();
    loop {
        let session = Session { etc, config: &config, source: &source, sink: &sink, counters: &counters };
        let started = Instant::now();
        let Err(problem) = session.hold(&shutdown).await else { break };
        if started.elapsed() > STEADY {
            backoff.reset();
        }
        counters.in_flight.set(0);
        counters.held_bytes.set(0);
        let message = chain(&problem);
        tracing::warn!(message, "telemetry waits");
        counters.set_broker(Some(message));
        tokio::select! {
            () = sleep(backoff.next(random(), None)) => {}
            () = shutdown.wait() => break,
        }
    }
    counters.set_broker(Some("shut down".to_owned()));
}

fn source(config: &Bridge) -> Option<Source> {
    Some(Source {
        namespace: config.namespace.clone(),
        name: config.name.clone(),
        data_stream: DataStream::parse(&config.data_stream)?,
        dead_letters: DataStream::parse(&config.dead_letters)?,
    })
}

struct Session<'a> {
    etc: &'a Etc,
    config: &'a Bridge,
    source: &'a Source,
    sink: &'a Sink,
    counters: &'a Counters,
}

/// What is between the broker and the sink.
struct Hold<'a> {
    filling: Option<Filling>,
    /// What is under way; each returns its number.
    flying: FuturesUnordered<BoxFuture<'a, u64>>,
    flights: HashMap<u64, Flight>,
    number: u64,
    limits: Limits,
    /// When something was held last.
    busy: Instant,
}

/// A batch under way.
struct Flight {
    /// Bytes held.
    size: usize,
    oldest: Option<Timestamp>,
}

impl Session<'_> {
    /// Returns after `shutdown`, or with the problem that ended the session.
    async fn hold(&self, shutdown: &Shutdown) -> Result<(), Problem> {
        let address = self.config.broker.to_string();
        let broker = |source| Problem::Broker { address: address.clone(), source };
        let options = self.options().await?;
        let connecting = client::connect(&options);
        let (client, incoming, connected) = tokio::select! {
            connected = connecting => connected.map_err(broker)?,
            () = shutdown.wait() => return Ok(()),
        };
        tracing::info!(broker = address, session_present = connected.session_present, "connected to the broker");
        self.carry(&client, incoming, shutdown).await.map_err(broker)
    }

    async fn options(&self) -> Result<Options, Problem> {
        let path = self.etc.bridge_password();
        let password = tokio::fs::read(&path)
            .await
            .map_err(|source| Problem::Password { path: path.display().to_string(), source })?;
        Ok(Options {
            version: Version::V5,
            username: Some(USER.to_owned()),
            password: Some(password),
            clean_start: false,
            keep_alive: KEEP_ALIVE,
            session_expiry: Some(SESSION_EXPIRY),
            receive_maximum: Some(WINDOW),
            maximum_packet_size: LARGEST_PACKET,
            acknowledge: Acknowledge::Manual,
            ..Options::new(self.config.broker.to_string(), CLIENT_ID)
        })
    }

    /// Subscribes, again and again to what the broker refuses. Returns only when the connection has ended.
    async fn keep_subscribed(&self, client: &Client) -> client::Error {
        let mut wanted: Vec<&str> = self.config.topics.iter().map(String::as_str).collect();
        loop {
            match self.subscribe(client, &wanted).await {
                Ok(refused) if refused.is_empty() => std::future::pending().await,
                Ok(refused) => wanted = refused,
                Err(error) => return error,
            }
            sleep(SUBSCRIBE_AGAIN).await;
        }
    }

    /// Subscribes and returns the filters that the broker refused, which the report says as well.
    async fn subscribe<'f>(&self, client: &Client, filters: &[&'f str]) -> Result<Vec<&'f str>, client::Error> {
        if filters.is_empty() {
            self.counters.set_broker(Some("no topics are configured".to_owned()));
            return Ok(Vec::new());
        }
        let filters: Vec<_> = filters.iter().map(|&filter| (filter, SUBSCRIPTION)).collect();
        let codes = client.subscribe(&filters).await?;
        let refused: Vec<(&str, ReasonCode)> = filters
            .iter()
            .zip(codes)
            .filter(|(_, code)| code.is_failure())
            .map(|(&(filter, _), code)| (filter, code))
            .collect();
        let words: Vec<_> = refused.iter().map(|(filter, code)| format!("{filter}: {code}")).collect();
        let problem =
            (!words.is_empty()).then(|| format!("the broker refuses the subscription to {}", words.join(", ")));
        if let Some(message) = &problem {
            tracing::error!(message, "telemetry is incomplete");
        }
        self.counters.set_broker(problem);
        Ok(refused.into_iter().map(|(filter, _)| filter).collect())
    }

    async fn carry(&self, client: &Client, mut incoming: Incoming, shutdown: &Shutdown) -> Result<(), client::Error> {
        let way = Way { sink: self.sink, source: self.source, counters: self.counters, client };
        let mut hold = Hold {
            filling: None,
            flying: FuturesUnordered::new(),
            flights: HashMap::new(),
            number: 0,
            limits: Limits::default(),
            busy: Instant::now(),
        };
        hold.fly(None, async move { way.sink.prepare(way.counters).await });
        let mut aging = tokio::time::interval(AGING);
        let mut look = tokio::time::interval_at(tokio::time::Instant::now() + LOOK, LOOK);
        // Beside the messages, not before them: of a session that was resumed they come at once, and the SUBACK behind.
        let subscribing = self.keep_subscribed(client);
        tokio::pin!(subscribing);
        loop {
            hold.send_what_is_due(way);
            let full = hold.is_full();
            let room = hold.flying.len() < self.sink.concurrency();
            let due = hold.filling.as_ref().map_or_else(Instant::now, |filling| filling.due(&hold.limits));
            tokio::select! {
                Some(number) = hold.flying.next() => {
                    hold.flights.remove(&number);
                    look.reset();
                }
                delivery = incoming.next(), if !full => match delivery {
                    Some(delivery) => self.take_in(&mut hold, delivery?, &mut incoming),
                    None => return Err(client::Error::Closed),
                },
                () = sleep_until(due.into()), if room && hold.filling.is_some() => {}
                error = &mut subscribing => return Err(error),
                _ = look.tick(), if hold.flying.is_empty() => {
                    hold.fly(None, async move { way.sink.prepare(way.counters).await });
                }
                _ = aging.tick() => hold.age(self.counters),
                () = shutdown.wait() => break,
            }
            self.counters.held_bytes.set(i64::try_from(hold.size()).unwrap_or(i64::MAX));
        }
        drop(incoming);
        self.finish(way, hold).await
    }

    /// Adds the delivery and those that are here with it.
    fn take_in(&self, hold: &mut Hold<'_>, first: Delivery, incoming: &mut Incoming) {
        let received = Timestamp::now();
        let mut next = Some(first);
        while let Some(delivery) = next {
            let circumstances = self.circumstances(&delivery, received);
            let filling = hold.filling.get_or_insert_with(|| Filling::new(Instant::now()));
            filling.add(delivery, self.source, circumstances);
            self.counters.received.inc();
            self.counters.in_flight.inc();
            next = if hold.is_full() { None } else { incoming.try_next() };
        }
    }

    fn circumstances(&self, delivery: &Delivery, received: Timestamp) -> Circumstances {
        if let Some(publication) = Publication::of(&delivery.message) {
            return Circumstances { id: publication.id.to_owned(), published: publication.time, received };
        }
        // Not our broker: a message that comes again will be another document.
        if self.counters.without_id.inc() == 0 {
            tracing::warn!("the broker names no publish id: messages that come again become documents again");
        }
        Circumstances { id: ulid::Ulid::generate().to_string(), published: received, received }
    }

    /// Gives what is under way its grace, and leaves the session to the broker.
    async fn finish<'a>(&self, way: Way<'a>, mut hold: Hold<'a>) -> Result<(), client::Error> {
        if let Some(filling) = hold.filling.take() {
            hold.fly(None, deliver(way, filling.finish()));
        }
        if timeout(GRACE, async { while hold.flying.next().await.is_some() {} }).await.is_err() {
            tracing::info!(in_flight = self.counters.in_flight.get(), "the broker keeps what was not delivered");
        }
        way.client.disconnect(ReasonCode::SUCCESS).await
    }
}

impl<'a> Hold<'a> {
    fn fly(&mut self, flight: Option<Flight>, work: impl Future<Output = ()> + Send + 'a) {
        self.number += 1;
        let number = self.number;
        self.flights.extend(flight.map(|flight| (number, flight)));
        self.flying.push(Box::pin(async move {
            work.await;
            number
        }));
    }

    /// Bytes held.
    fn size(&self) -> usize {
        self.flights.values().map(|flight| flight.size).sum::<usize>() + self.filling.as_ref().map_or(0, Filling::size)
    }

    /// While nothing is acknowledged, the lag is the age of what waits.
    fn age(&mut self, counters: &Counters) {
        if self.size() > 0 {
            self.busy = Instant::now();
        } else {
            counters.set_idle(self.busy.elapsed());
        }
        let waiting = self.flights.values().filter_map(|flight| flight.oldest);
        let Some(oldest) = waiting.chain(self.filling.as_ref().and_then(|filling| filling.oldest)).min() else {
            return;
        };
        let now = Timestamp::now();
        if now.duration_since(oldest).as_secs() > 0 {
            counters.set_lag(oldest, now);
        }
    }

    /// Whether nothing more is to be taken from the broker for now.
    fn is_full(&self) -> bool {
        let filling = self.filling.as_ref();
        self.size() >= HELD || filling.is_some_and(|it| it.is_full(&self.limits))
    }

    fn send_what_is_due(&mut self, way: Way<'a>) {
        self.limits.bytes = way.sink.body_limit();
        if self.flying.len() >= way.sink.concurrency() {
            return;
        }
        let now = Instant::now();
        let due = |filling: &mut Filling| filling.is_full(&self.limits) || filling.due(&self.limits) <= now;
        if let Some(filling) = self.filling.take_if(due) {
            let flight = Flight { size: filling.size(), oldest: filling.oldest };
            self.fly(Some(flight), deliver(way, filling.finish()));
        }
    }
}
