//! One task per connection: it owns the socket, the session and its in-flight window.
//!
//! A turn of the task reads what is there, routes the batch, wakes each subscriber once, takes what has arrived for its
//! own client, and leaves everything in one write. Reading and writing are plain polls: nothing is lost when a turn ends
//! early.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;

use super::Shared;
use super::aliases;
use super::backpressure::{Hold, Withheld};
use super::counters::Turn;
use super::effects::Effects;
use super::events;
use super::frames::Failure;
use super::limits::Limit;
use super::linger;
use super::mailbox::{Admitted, Command, Mailbox, Taken};
use super::outbox::Outbox;
use super::publish::Publisher;
use super::quota::outbox_high;
use super::reauthenticate::Authentication;
use super::registry::Leaving;
use super::replay::Replay;
use super::sessions::Described;
use super::timers::Timers;
use super::will::Will;
use crate::auth::{Grants, Identity, Principal};
use crate::mqtt::packet::{Ack, Disconnect, Packet};
use crate::mqtt::property::{AckProperties, DisconnectProperties};
use crate::mqtt::{PacketId, QoS, ReasonCode, Version, Violation, codec};
use crate::store::journal::{Journal, Position};
use crate::store::memory::Held;
use crate::store::{Age, Delivery, StoredSession};

/// Bytes of one read; shared by all connections of a thread.
const READ: usize = 16 * 1024;
/// Reads of one turn, so that a fast publisher does not starve others.
const READS_PER_TURN: usize = 4;
/// Bytes of one read that show that a client is alive, though its packet is not complete: a large one on a slow link.
const PROGRESS: usize = 1024;
/// Bytes that may wait for the socket before no more deliveries are taken.
pub(super) const OUTBOX_HIGH: usize = 256 * 1024;
/// Rounds of taking and writing in one turn, so that a wide fan-out does not starve others.
const WRITES_PER_TURN: usize = 4;
/// A buffer of a partial packet larger than this is not kept when it is empty.
const KEEP_PARTIAL: usize = 4 * 1024;

thread_local! {
    static READ_BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ].into_boxed_slice());
    static EFFECTS: RefCell<Option<Box<Effects>>> = const { RefCell::new(None) };
    static QOS0: RefCell<Vec<Delivery>> = const { RefCell::new(Vec::new()) };
    static QUEUED: RefCell<Vec<Delivery>> = const { RefCell::new(Vec::new()) };
}

/// Who is connected.
#[derive(Debug)]
pub struct Peer {
    pub client_id: Arc<str>,
    pub version: Version,
    pub identity: Arc<Identity>,
    pub grants: Grants,
    /// The count of policies by which it may do that.
    pub generation: u64,
    /// Whether refusals may carry a Reason String `[MQTT-3.1.2-29]`.
    pub problem_information: bool,
    /// Bytes of the largest packet that the client accepts.
    pub maximum_packet_size: usize,
    /// QoS 1 and 2 deliveries that the client accepts at a time.
    pub window: usize,
    /// Seconds that the session outlives the connection; none of an anonymous client does.
    pub session_expiry: u32,
    /// Whether CONNECT asked for a session that outlives it, so that DISCONNECT may name another time.
    pub may_prolong: bool,
}

impl Peer {
    /// The Reason String of an acknowledgement with so many codes, where the client wants to hear it and the packet stays
    /// small enough for it `[MQTT-3.1.2-29, MQTT-3.4.2-2, MQTT-3.5.2-2, MQTT-3.9.2-1]`.
    pub fn reason_string<'a>(&self, text: &'a str, codes: usize) -> Option<&'a str> {
        /// Fixed header, packet identifier, length of the properties, property, length of the text; the lengths of the
        /// packet and of its properties may take three bytes more than one each.
        const REST: usize = 2 + 2 + 1 + 1 + 2;
        let rest = REST + codes + if text.len() + codes > 100 { 6 } else { 0 };
        (self.problem_information && rest + text.len() <= self.maximum_packet_size).then_some(text)
    }
}

/// A client that is connected, from CONNACK to the end.
pub struct Connection<S> {
    pub(super) socket: S,
    pub(super) shared: Arc<Shared>,
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) peer: Peer,
    pub(super) session: StoredSession,
    pub(super) will: Option<Will>,
    /// The beginning of a packet whose end has not arrived.
    pub(super) partial: Vec<u8>,
    pub(super) outbox: Outbox,
    /// Retained messages that a new subscription asked for.
    pub(super) replay: Replay,
    pub(super) publisher: Publisher,
    /// What this turn has to do at its end; between turns it is lent to others of the thread.
    pub(super) effects: Option<Box<Effects>>,
    pub(super) hold: Option<Hold>,
    /// Answers that wait: for the hold to end, or for what they acknowledge to be written down.
    pub(super) withheld: Withheld,
    /// How far the journal must be written down for all that this connection had written.
    pub(super) written_to: Position,
    /// How the client may authenticate again, if its CONNECT named a method.
    pub(super) authentication: Option<Box<Authentication>>,
    /// Deliveries of an earlier connection that are still to be sent again.
    pub(super) resend: VecDeque<PacketId>,
    /// The aliases that the client has been given; absent where it wants none.
    pub(super) aliases: Option<aliases::Outbound>,
    pub(super) timers: Timers,
    pub(super) turn: Turn,
    /// What it has on the account of memory.
    pub(super) held: Held,
    /// Whether the mailbox was empty when the last turn ended.
    pub(super) asleep: bool,
    /// Connections that wait for this one's session.
    pub(super) successors: Vec<oneshot::Sender<()>>,
}

/// How the log says that the client ended it.
const GOODBYE: &str = "the client disconnected";

/// Why a connection ends, and how.
#[derive(Debug)]
pub struct Closing {
    /// Sent in a DISCONNECT to a client of MQTT 5.0.
    pub reason: Option<ReasonCode>,
    /// Whether the will is published.
    pub will: bool,
    /// The normative id of the statement that the client broke.
    pub violation: Option<&'static str>,
    /// The limit that the client has passed.
    pub limit: Option<Limit>,
    pub log: Cow<'static, str>,
}

impl Closing {
    /// The client said goodbye.
    pub fn goodbye(will: bool) -> Self {
        Self { reason: None, will, violation: None, limit: None, log: GOODBYE.into() }
    }

    /// The connection broke.
    pub fn lost(log: impl Into<Cow<'static, str>>) -> Self {
        Self { reason: None, will: true, violation: None, limit: None, log: log.into() }
    }

    /// The broker ends it.
    pub fn because(reason: ReasonCode, log: impl Into<Cow<'static, str>>) -> Self {
        Self { reason: Some(reason), will: true, violation: None, limit: None, log: log.into() }
    }

    /// The broker ends it because of a limit.
    pub fn limited(limit: Limit, log: impl Into<Cow<'static, str>>) -> Self {
        Self { limit: Some(limit), ..Self::because(limit.reason(), log) }
    }

    /// Why, as one of a closed set.
    pub fn label(&self) -> &'static str {
        match self.reason {
            Some(reason) => reason.text(),
            None if self.log == GOODBYE => "goodbye",
            None => "connection lost",
        }
    }
}

impl From<Violation> for Closing {
    fn from(violation: Violation) -> Self {
        let (id, limit) = (violation.id(), Limit::of(&violation));
        Self { violation: Some(id), limit, ..Self::because(violation.reason(), violation.to_string()) }
    }
}

impl From<io::Error> for Closing {
    fn from(error: io::Error) -> Self {
        let failure = error.get_ref().and_then(|cause| cause.downcast_ref::<Failure>());
        Self { violation: failure.map(|failure| failure.id()), ..Self::lost(error.to_string()) }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// Serves the client until the connection ends, and gives the session back.
    pub async fn run(mut self: Box<Self>) {
        std::future::poll_fn(|cx| {
            self.mailbox.attach(cx.waker());
            Poll::Ready(())
        })
        .await;
        // What arrived together with CONNECT is here already.
        let closing = match self.guarded(|this| this.reconsider().and_then(|()| this.received(&[], this.shared.now())))
        {
            Ok(()) => std::future::poll_fn(|cx| self.poll(cx)).await,
            Err(closing) => closing,
        };
        // Boxed: what the end needs is not carried along all the time before.
        Box::pin(self.finish(closing)).await;
    }

    /// A mistake of ours in the turn of one client must stay with that client: it is disconnected as for any other
    /// reason, and its session goes back to the registry.
    fn guarded<T>(&mut self, turn: impl FnOnce(&mut Self) -> Result<T, Closing>) -> Result<T, Closing> {
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| turn(self))).unwrap_or_else(|_| {
            self.shared.counters.panics.add(1);
            self.effects().abandon();
            Err(Closing::because(ReasonCode::UNSPECIFIED_ERROR, "internal error of the broker"))
        })
    }

    /// One turn.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Closing> {
        if self.effects.is_none() {
            self.effects = EFFECTS.take();
        }
        let turn = self.guarded(|this| this.turn(cx));
        if turn.is_ok() {
            // Nothing is in it at the end of a turn but the allocations.
            EFFECTS.set(self.effects.take());
        }
        match turn {
            Ok(again) => {
                self.shared.counters.add(&mut self.turn, self.session.inflight.len());
                if again {
                    cx.waker().wake_by_ref();
                }
                Poll::Pending
            }
            Err(closing) => {
                self.shared.counters.add(&mut self.turn, self.session.inflight.len());
                Poll::Ready(closing)
            }
        }
    }

    /// Answers whether there is more to do at once.
    fn turn(&mut self, cx: &mut Context<'_>) -> Result<bool, Closing> {
        let now = self.shared.now();
        self.reconsider()?;
        self.obey_commands()?;
        self.check_timers(cx, now)?;
        self.check_hold(now);
        self.end_pace(now)?;
        let mut again = self.read(cx, now)?;
        self.end_wait_for_keys(cx, now)?;
        self.commit(cx);
        if self.asleep && self.mailbox.was_woken() {
            // Woken by a publisher, perhaps by the first message of many: let the others run once, then take what all of
            // them brought and send it in one write.
            self.asleep = false;
            return Ok(true);
        }
        self.release_withheld();
        again |= self.write(cx, now)?;
        self.commit(cx);
        self.line_up(cx, now);
        self.arm_timers(cx, now);
        self.settle()?;
        Ok(again)
    }

    fn obey_commands(&mut self) -> Result<(), Closing> {
        let mut why = None;
        for command in self.mailbox.commands() {
            match command {
                Command::Close { reason, forget, done } => {
                    self.successors.extend(done);
                    why = Some(reason);
                    if forget {
                        self.peer.session_expiry = 0;
                    }
                }
                Command::Describe { ask, reply } => {
                    // Who asked may have gone away meanwhile.
                    let _ = reply.send(Described::of(&self.session, Some(self.peer.session_expiry), &ask));
                }
            }
        }
        let Some(reason) = why else { return Ok(()) };
        Err(Closing { will: reason != ReasonCode::SERVER_SHUTTING_DOWN, ..Closing::because(reason, reason.text()) })
    }

    pub(super) fn effects(&mut self) -> &mut Effects {
        self.effects.get_or_insert_default()
    }

    fn read(&mut self, cx: &mut Context<'_>, now: u64) -> Result<bool, Closing> {
        for _ in 0..READS_PER_TURN {
            if self.is_paused() || self.is_paced() {
                return Ok(false);
            }
            let open = READ_BUFFER.with_borrow_mut(|buffer| {
                let mut buffer = ReadBuf::new(buffer);
                match Pin::new(&mut self.socket).poll_read(cx, &mut buffer) {
                    Poll::Pending => Ok(false),
                    Poll::Ready(Err(error)) => Err(error.into()),
                    Poll::Ready(Ok(())) if buffer.filled().is_empty() => {
                        Err(Closing::lost("the connection was closed"))
                    }
                    Poll::Ready(Ok(())) => {
                        self.turn.bytes_received += buffer.filled().len() as u32;
                        self.received(buffer.filled(), now).map(|()| true)
                    }
                }
            })?;
            if !open {
                return Ok(false);
            }
        }
        Ok(true)
    }

    pub(super) fn received(&mut self, bytes: &[u8], now: u64) -> Result<(), Closing> {
        // A packet keeps the connection alive, not the bytes that drip in front of its end.
        if bytes.len() >= PROGRESS {
            self.timers.last_seen = now;
        }
        if self.partial.is_empty() {
            let used = self.process(bytes, now)?;
            self.partial.extend_from_slice(&bytes[used..]);
            return Ok(());
        }
        let mut partial = std::mem::take(&mut self.partial);
        partial.extend_from_slice(bytes);
        let used = self.process(&partial, now)?;
        partial.drain(..used);
        if !partial.is_empty() || partial.capacity() <= KEEP_PARTIAL {
            self.partial = partial;
        }
        Ok(())
    }

    /// Handles all whole packets, unless the client publishes too fast; answers how many bytes they were.
    pub(super) fn process(&mut self, bytes: &[u8], now: u64) -> Result<usize, Closing> {
        let mut at = 0;
        let properties = self.shared.limits.max_properties.into();
        while !self.is_paced()
            && let Some(length) = codec::packet_length(&bytes[at..], self.shared.limits.max_packet_size)?
        {
            let Some(frame) = bytes.get(at..at + length) else { break };
            at += length;
            self.turn.packets += 1;
            self.timers.last_seen = now;
            let packet = codec::decode_limited(frame, self.peer.version, properties)?;
            if matches!(packet, Packet::Publish(_)) {
                self.count_publication(length, now);
            }
            self.handle(packet, now)?;
        }
        Ok(at)
    }

    fn handle(&mut self, packet: Packet<'_>, now: u64) -> Result<(), Closing> {
        match packet {
            Packet::Publish(publish) => return self.on_publish(&publish, now),
            Packet::PubAck(ack) => {
                let over = self.session.inflight.acknowledge(ack.packet_id)?;
                self.is_over(over.as_ref());
                self.mailbox.made_progress(now);
            }
            Packet::PubComp(ack) => {
                let over = self.session.inflight.complete(ack.packet_id)?;
                self.is_over(over.as_ref());
                self.mailbox.made_progress(now);
            }
            Packet::PubRec(ack) => return self.on_pubrec(&ack, now),
            Packet::PubRel(ack) => self.on_pubrel(&ack),
            Packet::Subscribe(subscribe) => return self.on_subscribe(&subscribe),
            Packet::Unsubscribe(unsubscribe) => return self.on_unsubscribe(&unsubscribe),
            Packet::PingReq => self.send(&Packet::PingResp),
            Packet::Disconnect(disconnect) => return Err(self.on_disconnect(&disconnect)),
            Packet::Connect(_) => return Err(Violation::SecondConnect.into()),
            Packet::Auth(auth) => return self.on_auth(&auth, now),
            Packet::ConnAck(_) => return Err(Violation::UnexpectedPacket { packet: "CONNACK" }.into()),
            Packet::SubAck(_) => return Err(Violation::UnexpectedPacket { packet: "SUBACK" }.into()),
            Packet::UnsubAck(_) => return Err(Violation::UnexpectedPacket { packet: "UNSUBACK" }.into()),
            Packet::PingResp => return Err(Violation::UnexpectedPacket { packet: "PINGRESP" }.into()),
        }
        Ok(())
    }

    fn on_pubrec(&mut self, ack: &Ack<'_>, now: u64) -> Result<(), Closing> {
        self.mailbox.made_progress(now);
        let id = ack.packet_id;
        if ack.code.is_failure() {
            let over = self.session.inflight.refuse(id)?;
            self.is_over(over.as_ref());
            return Ok(());
        }
        // A PUBREC that nobody waits for is answered too: the client then knows that the broker has forgotten it.
        let known = self.session.inflight.receive(id)?;
        if let Some(seq) = known.filter(|_| self.mailbox.durable) {
            // PUBREL lets the client forget the message: from then on the broker must know that it has it.
            let session = self.mailbox.session;
            self.effects().awaited().received(session, seq);
        }
        let code = if known.is_some() { ReasonCode::SUCCESS } else { ReasonCode::PACKET_IDENTIFIER_NOT_FOUND };
        self.answer(&Packet::PubRel(acknowledge(id, code)), 0);
        Ok(())
    }

    /// A delivery is over.
    pub(super) fn is_over(&mut self, delivery: Option<&Delivery>) {
        if let Some(delivery) = delivery {
            self.effects.get_or_insert_default().done(&self.mailbox, delivery);
        }
    }

    fn on_pubrel(&mut self, ack: &Ack<'_>) {
        let known = self.session.inbound.release(ack.packet_id);
        if known && self.mailbox.durable {
            let session = self.mailbox.session;
            self.effects().awaited().released(session, ack.packet_id);
        }
        let code = if known { ReasonCode::SUCCESS } else { ReasonCode::PACKET_IDENTIFIER_NOT_FOUND };
        self.answer(&Packet::PubComp(acknowledge(ack.packet_id, code)), 0);
    }

    fn on_disconnect(&mut self, disconnect: &Disconnect<'_>) -> Closing {
        if let Some(expiry) = disconnect.properties.session_expiry {
            if expiry > 0 && !self.peer.may_prolong {
                return Violation::SessionExpiryRaised.into();
            }
            self.peer.session_expiry = expiry.min(self.shared.limits.session_expiry);
        }
        // Every reason but a normal disconnection asks for the will [MQTT-3.14.4-3].
        Closing::goodbye(disconnect.code != ReasonCode::SUCCESS)
    }

    /// Queues a packet for the client; one that is larger than the client accepts is left out [MQTT-3.1.2-24].
    pub(super) fn send(&mut self, packet: &Packet<'_>) {
        let (version, maximum) = (self.peer.version, self.peer.maximum_packet_size);
        let encode = |out: &mut Vec<u8>| {
            let before = out.len();
            codec::encode(packet, version, out);
            if out.len() - before > maximum {
                out.truncate(before);
            }
        };
        // Nothing comes before CONNACK.
        if self.withheld.is_connack() { encode(&mut self.withheld.bytes) } else { self.outbox.write(encode) }
    }

    /// Answers what may have to be written down first; in the order of what is answered `[MQTT-4.6.0-2 to -4]`. With so
    /// many publications of QoS 1 that are acknowledged by it.
    pub(super) fn answer(&mut self, packet: &Packet<'_>, acknowledged: u32) {
        let written = self.effects.as_ref().is_none_or(|effects| !effects.is_awaited());
        if self.hold.is_some() || !written || !self.withheld.is_empty() {
            codec::encode(packet, self.peer.version, &mut self.withheld.bytes);
            self.withheld.acknowledged += acknowledged;
        } else {
            self.send(packet);
            self.session.inbound.acknowledged(acknowledged);
        }
    }

    /// Takes deliveries and writes, in turns; answers whether there is more to do at once.
    fn write(&mut self, cx: &mut Context<'_>, now: u64) -> Result<bool, Closing> {
        for _ in 0..WRITES_PER_TURN {
            // What is not taken now because too much waits for the socket is taken when that has left. While the socket
            // takes nothing, nothing is taken at all: what many wait for is shared until it is copied into their outboxes.
            let stuck = self.timers.blocked_since.is_some() && !self.outbox.is_empty();
            let more = stuck || self.outbox.len() >= outbox_high() || self.take_deliveries(now);
            if self.outbox.is_empty() {
                if more {
                    // All that was taken had expired, or was too large for this client: what is behind it was not.
                    continue;
                }
                return Ok(false);
            }
            let Poll::Ready(written) = self.outbox.poll_write(&mut self.socket, cx) else {
                self.timers.blocked_since.get_or_insert(now);
                return Ok(false);
            };
            self.turn.bytes_sent += written? as u32;
            self.mailbox.made_progress(now);
            self.timers.blocked_since = (!self.outbox.is_empty()).then_some(now);
            if !more {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Moves what may be sent into the outbox; answers whether some of it is still to come.
    fn take_deliveries(&mut self, now: u64) -> bool {
        if self.withheld.is_connack() {
            return false;
        }
        if !self.resend.is_empty() {
            return self.take_resend();
        }
        if !self.replay.is_empty() {
            // Behind SUBACK: devices are used to that order.
            return self.withheld.is_empty() && self.take_replay();
        }
        let window = self.window_now();
        let mut qos0 = QOS0.take();
        let mut queued = QUEUED.take();
        let end = self.session.inflight.end();
        let written = self.shared.journal.as_ref().map_or(u64::MAX, Journal::durable);
        let age = self.shared.max_queued_age().map_or(Age::ANY, |most| Age::new(self.turn.wall(), most));
        let admitted = Admitted { window, end, written, age };
        let effects = self.effects.get_or_insert_default();
        let Taken { dropped, unwritten, old, more_old } =
            self.mailbox.take(&admitted, &mut qos0, &mut queued, now, effects);
        self.asleep = true;
        self.turn.lose_old(old);
        events::dropped(&self.shared, &self.peer.client_id, dropped);
        if let Some(position) = unwritten {
            self.withheld.delivery_at(position);
        }
        let taken = queued.len();
        qos0.drain(..).for_each(|delivery| self.deliver(&delivery));
        queued.drain(..).for_each(|delivery| self.deliver(&delivery));
        QOS0.set(qos0);
        QUEUED.set(queued);
        more_old || taken > 0 && taken == window && self.session.inflight.room(self.peer.window) > 0
    }

    fn take_replay(&mut self) -> bool {
        self.replay.search(&self.shared);
        while self.outbox.len() + self.withheld.bytes.len() < outbox_high()
            && let Some(delivery) = self.replay.front()
        {
            let inflight = &self.session.inflight;
            if delivery.qos != QoS::AtMostOnce && (inflight.room(self.peer.window) == 0 || !inflight.admits_extra()) {
                return false;
            }
            if let Some(delivery) = self.replay.pop_front() {
                self.deliver_extra(&delivery);
            }
        }
        // What is to be written down first comes when it is.
        self.withheld.is_empty()
    }

    /// Says why; in words only if the client accepts a packet of that size `[MQTT-3.14.2-3]`.
    fn send_disconnect(&mut self, code: ReasonCode, why: &str) {
        let bytes = codec::encode_with_words(Some(why), self.peer.maximum_packet_size, |reason_string| {
            let properties = DisconnectProperties { reason_string, ..DisconnectProperties::default() };
            Packet::Disconnect(Disconnect { code, properties })
        });
        self.outbox.write(|out| out.extend_from_slice(&bytes));
    }

    /// The end: the client is told why, the session goes back, the will is sent.
    async fn finish(mut self: Box<Self>, closing: Closing) {
        events::disconnected(&self.shared, &self.peer, &closing);
        events::dropped(&self.shared, &self.peer.client_id, self.mailbox.newly_dropped());
        let Closing { reason, will, log, .. } = closing;
        self.write_down();
        let expiry = if self.peer.identity.principal == Principal::Anonymous { 0 } else { self.peer.session_expiry };
        // The broker's end is not the client's: a will that is written down is due when the broker is back.
        let keep_will = reason == Some(ReasonCode::SERVER_SHUTTING_DOWN) && self.mailbox.durable && expiry > 0;
        let leaving = Leaving {
            session: std::mem::take(&mut self.session),
            expiry: std::time::Duration::from_secs(expiry.into()),
            will: self.will.take().filter(|_| will || keep_will),
            keep_will,
            replay: self.replay.rest(),
            grants: self.peer.grants.clone(),
            generation: self.peer.generation,
            successors: std::mem::take(&mut self.successors),
        };
        self.shared.counters.add(&mut self.turn, 0);
        self.shared.release(&self.peer.client_id, &self.mailbox, leaving);
        self.release_written().await;
        if let (Some(code), Version::V5, false) = (reason, self.peer.version, self.withheld.is_connack()) {
            self.send_disconnect(code, &log);
        }
        // What is still in the outbox, the DISCONNECT last, gets a moment; a peer that does not read loses it.
        let rest = std::future::poll_fn(|cx| match self.outbox.poll_write(&mut self.socket, cx) {
            Poll::Ready(Ok(_)) if !self.outbox.is_empty() => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            done => done.map(|_| ()),
        });
        let _ = tokio::time::timeout(std::time::Duration::from_millis(200), rest).await;
        linger::close(&mut self.socket).await;
    }
}

/// A plain acknowledgement.
pub(super) fn acknowledge(packet_id: PacketId, code: ReasonCode) -> Ack<'static> {
    Ack { packet_id, code, properties: AckProperties::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ten thousand idle devices are the usual case: what each costs is looked after here, beside the kernel's share.
    #[test]
    fn an_idle_connection_is_small() {
        let connection = size_of::<Connection<crate::broker::stream::Stream>>();
        assert!(connection + size_of::<Mailbox>() <= 1280, "{connection} and {}", size_of::<Mailbox>());
    }
}
