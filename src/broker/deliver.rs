//! The subscriber's side of a connection: subscriptions, and PUBLISH to the client.

use std::borrow::Cow;
use std::io::Write;

use tokio::io::{AsyncRead, AsyncWrite};

use super::aliases::Alias;
use super::connection::{Closing, Connection, Peer};
use super::counters::Loss;
use super::events::{self, Who};
use super::quota::outbox_high;
use super::router::Subscriber;
use super::sys::is_sys;
use super::unix_millis;
use crate::auth::explain::{self, Request, Verb};
use crate::auth::{Grants, Principal};
use crate::mqtt::codec::delivery::Delivered;
use crate::mqtt::packet::{Packet, RetainHandling, SubAck, Subscribe, SubscriptionOptions, Unsubscribe};
use crate::mqtt::property::AckProperties;
use crate::mqtt::topic::Filter;
use crate::mqtt::{PacketId, QoS, ReasonCode, Violation};
use crate::store::{Delivery, EXTRA, Message, Origin, Subscription};

/// Decimal digits of the largest time.
const TIME_DIGITS: usize = 20;

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    pub(super) fn on_subscribe(&mut self, subscribe: &Subscribe<'_>) -> Result<(), Closing> {
        let identifier = subscribe.properties.subscription_identifier;
        let mut codes = Vec::with_capacity(subscribe.filters.len());
        // One SUBACK has room for one reason: that of the last filter that was refused.
        let mut why = None;
        for (text, options) in &subscribe.filters {
            let filter = Filter::parse(text)?;
            if options.no_local && filter.share.is_some() {
                return Err(Violation::NoLocalOnShared.into());
            }
            codes.push(self.subscribe(text, &filter, *options, identifier, &mut why));
        }
        let reason_string = why.as_deref().and_then(|why| self.peer.reason_string(why, codes.len()));
        let properties = AckProperties { reason_string, ..AckProperties::default() };
        self.answer(&Packet::SubAck(SubAck { packet_id: subscribe.packet_id, properties, codes }), 0);
        Ok(())
    }

    fn subscribe(
        &mut self,
        text: &str,
        filter: &Filter<'_>,
        options: SubscriptionOptions,
        identifier: Option<u32>,
        why: &mut Option<Cow<'static, str>>,
    ) -> ReasonCode {
        let decision = self.peer.grants.decide_subscribe(filter.filter, filter.share, options.qos);
        if !decision.allowed {
            let Peer { client_id, identity, .. } = &self.peer;
            let request = Request { verb: Verb::Subscribe, topic: text, qos: options.qos, retain: false };
            let reason = || explain::reason(&self.shared.policy.load(), identity, client_id, request);
            let who = Who::of(client_id, identity);
            *why = Some(events::denied(&self.shared, &who, &request, decision.layer, reason));
            return ReasonCode::NOT_AUTHORIZED;
        }
        events::allowed(&self.shared, Verb::Subscribe, decision.layer);
        if let Some(code) = self.refuse_subscription(text, filter) {
            return code;
        }
        if is_sys(filter.filter) {
            // Before the subscription is there, which would otherwise get the same values twice.
            self.shared.publish_sys();
        }
        let subscription = Subscription { options, identifier };
        self.session.subscriptions.insert(text.into(), subscription);
        if self.mailbox.durable {
            let session = self.mailbox.session;
            self.effects().awaited().subscribed(session, text, &subscription);
        }
        let wants_origin = self.wants_origin();
        let subscriber = Subscriber { mailbox: self.mailbox.clone(), options, identifier, wants_origin };
        let existed = self.shared.router.subscribe(filter, subscriber);
        let wanted = match options.retain_handling {
            RetainHandling::Send => true,
            RetainHandling::SendIfNew => !existed,
            RetainHandling::DoNotSend => false,
        };
        // Retained messages are not sent to shared subscriptions.
        if wanted && filter.share.is_none() {
            self.replay.add(filter.filter, options, identifier);
        }
        ReasonCode(options.qos as u8)
    }

    pub(super) fn on_unsubscribe(&mut self, unsubscribe: &Unsubscribe<'_>) -> Result<(), Closing> {
        let mut codes = Vec::with_capacity(unsubscribe.filters.len());
        for text in &unsubscribe.filters {
            let filter = Filter::parse(text)?;
            if self.session.subscriptions.remove(*text).is_some() && self.mailbox.durable {
                let session = self.mailbox.session;
                self.effects().awaited().unsubscribed(session, text);
            }
            let existed = self.shared.router.unsubscribe(&filter, self.mailbox.session);
            codes.push(if existed { ReasonCode::SUCCESS } else { ReasonCode::NO_SUBSCRIPTION_EXISTED });
        }
        let properties = AckProperties::default();
        self.answer(&Packet::UnsubAck(SubAck { packet_id: unsubscribe.packet_id, properties, codes }), 0);
        Ok(())
    }

    /// Writes a delivery to the client, unless it has expired or the client does not accept its size.
    pub(super) fn deliver(&mut self, delivery: &Delivery) {
        if delivery.message.expires_at.is_some_and(|at| at <= unix_millis()) {
            self.turn.expired += 1;
            return self.is_over(Some(delivery));
        }
        let mut alias = self.aliases.as_mut().and_then(|aliases| aliases.of(delivery.message.topic_bytes()));
        if let Some(Alias { alias: given, known: false }) = alias
            && !self.fits(delivery, alias)
        {
            // Without the three bytes of the alias it may fit.
            self.aliases.as_mut().into_iter().for_each(|aliases| aliases.forget(given));
            alias = None;
        }
        if !self.fits(delivery, alias) {
            // At QoS 1 and 2 as if it had been delivered [MQTT-3.1.2-25].
            self.turn.lose(Loss::TooLarge);
            return self.is_over(Some(delivery));
        }
        let packet_id = (delivery.qos != QoS::AtMostOnce).then(|| self.session.inflight.begin(delivery.clone()));
        let dup = packet_id.is_some() && self.session.inflight.is_perhaps_sent(delivery.seq);
        self.write_delivery(delivery, packet_id, dup, alias);
        self.turn.sent[delivery.qos as usize] += 1;
    }

    /// Sends what does not come from the queue. Where the session is written down, this delivery is too, before it leaves:
    /// no place in the queue tells its packet identifier.
    pub(super) fn deliver_extra(&mut self, delivery: &Delivery) {
        let is_expired = delivery.message.expires_at.is_some_and(|at| at <= unix_millis());
        if delivery.qos == QoS::AtMostOnce || is_expired || !self.fits(delivery, None) {
            return self.deliver(delivery);
        }
        let before = self.session.inflight.last_queued() + 1;
        let (packet_id, seq) = self.session.inflight.begin_extra(delivery.clone());
        self.turn.sent[delivery.qos as usize] += 1;
        if !self.mailbox.durable {
            return self.write_delivery(delivery, Some(packet_id), false, None);
        }
        let (session, number) = (self.mailbox.session, seq & !EXTRA);
        let Delivery { message, qos, retain, via, .. } = delivery;
        self.effects().awaited().extra(session, number, before, message, *qos, *retain, via.as_deref());
        let (version, wants_origin) = (self.peer.version, self.wants_origin());
        let withheld = &mut self.withheld.bytes;
        with_parts(wants_origin, delivery, Some(packet_id), false, None, |parts| parts.encode_head(version, withheld));
        withheld.extend_from_slice(message.payload());
    }

    fn fits(&self, delivery: &Delivery, alias: Option<Alias>) -> bool {
        let maximum = self.peer.maximum_packet_size;
        maximum == usize::MAX
            || with_parts(self.wants_origin(), delivery, PacketId::new(1), false, alias, |parts| {
                parts.packet_length(self.peer.version)
            }) <= maximum
    }

    fn wants_origin(&self) -> bool {
        self.peer.identity.principal == Principal::Bridge
    }

    /// Writes PUBLISH.
    fn write_delivery(&mut self, delivery: &Delivery, packet_id: Option<PacketId>, dup: bool, alias: Option<Alias>) {
        let version = self.peer.version;
        let wants_origin = self.wants_origin();
        let outbox = &mut self.outbox;
        with_parts(wants_origin, delivery, packet_id, dup, alias, |parts| {
            outbox.write(|out| parts.encode_head(version, out));
        });
        outbox.payload(&delivery.message);
    }

    /// Lets everything that the client has not acknowledged be sent again, before anything new; but for what the
    /// credential that it came back with does not grant, where that is not what the session was found good by.
    pub(super) fn resume(&mut self, granted: Option<&Grants>) {
        self.session.inbound.reconnect();
        self.resend = self.session.inflight.iter().map(|(id, _)| id).collect();
        if granted.is_some_and(|granted| *granted != self.peer.grants)
            && let Some(filter) = self.take_grants(self.peer.grants.clone())
        {
            let client_id = &self.peer.client_id;
            tracing::info!(%client_id, %filter, "the session comes back without what its client may no longer have");
        }
    }

    /// Sends again, with DUP, in the order of the first time `[MQTT-4.4.0-1, 4.6.0-1]`, as much as the client accepts at
    /// a time: it may accept less than in its last connection. Answers whether some is still to come at once.
    pub(super) fn take_resend(&mut self) -> bool {
        // What the client has acknowledged meanwhile is neither sent again nor under way.
        self.resend.retain(|id| self.session.inflight.get(*id).is_some());
        while self.outbox.len() < outbox_high()
            && let Some(id) = self.resend.front().copied()
            && let Some(sent) = self.session.inflight.get(id).cloned()
        {
            if self.session.inflight.len() - self.resend.len() >= self.peer.window {
                self.release_again();
                return false;
            }
            self.resend.pop_front();
            if sent.received {
                self.send(&Packet::PubRel(super::connection::acknowledge(id, ReasonCode::SUCCESS)));
            } else if self.fits(&sent.delivery, None) {
                self.write_delivery(&sent.delivery, Some(id), true, None);
            } else {
                let over = self.session.inflight.finish(id);
                self.is_over(over.as_ref());
                self.turn.lose(Loss::TooLarge);
            }
        }
        true
    }

    /// Sends every PUBREL that is still to be sent again: a full window delays nothing but PUBLISH `[MQTT-3.3.4-10]`.
    fn release_again(&mut self) {
        let mut resend = std::mem::take(&mut self.resend);
        resend.retain(|id| {
            let release = self.session.inflight.get(*id).is_some_and(|sent| sent.received);
            if release {
                self.send(&Packet::PubRel(super::connection::acknowledge(*id, ReasonCode::SUCCESS)));
            }
            !release
        });
        self.resend = resend;
    }
}

/// Calls `use_parts` with the parts of a PUBLISH; they borrow from the delivery and from the stack.
fn with_parts<R>(
    wants_origin: bool,
    delivery: &Delivery,
    packet_id: Option<PacketId>,
    dup: bool,
    alias: Option<Alias>,
    use_parts: impl FnOnce(&Delivered<'_>) -> R,
) -> R {
    let message: &Message = &delivery.message;
    let parts = Delivered {
        dup,
        qos: delivery.qos,
        retain: delivery.retain,
        packet_id,
        topic: if alias.is_some_and(|alias| alias.known) { &[] } else { message.topic_bytes() },
        alias: alias.map(|alias| alias.alias),
        properties: message.properties(),
        expiry: message.expires_at.and_then(|_| message.expiry_left(unix_millis())),
        identifiers: delivery.via.as_ref().map_or(&[], |via| &via.identifiers),
        appended: &[],
        payload_length: message.payload().len(),
    };
    match (wants_origin, &message.origin) {
        (true, Some(origin)) => {
            with_origin(origin, message.received_at, |appended| use_parts(&Delivered { appended, ..parts }))
        }
        _ => use_parts(&parts),
    }
}

/// The three User Properties that tell the bridge where a message comes from, after the publisher's own.
fn with_origin<R>(origin: &Origin, received_at: u64, use_properties: impl FnOnce(&[(&str, &str)]) -> R) -> R {
    let mut id = [0; ulid::ULID_LEN];
    let id = ulid::Ulid(origin.id).array_to_str(&mut id);
    let mut digits = [0; TIME_DIGITS];
    let mut rest = &mut digits[..];
    // Twenty digits hold any u64.
    let _ = write!(rest, "{received_at}");
    let unused = rest.len();
    let time = std::str::from_utf8(&digits[..TIME_DIGITS - unused]).unwrap_or_default();
    use_properties(&[("publish-id", id), ("publish-client", &origin.client_id), ("publish-time", time)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bridge_is_told_id_client_and_time_in_this_order() {
        let origin = Origin { id: 1, client_id: "thermometer".into() };
        with_origin(&origin, u64::MAX, |properties| {
            let expected = [
                ("publish-id", "00000000000000000000000001"),
                ("publish-client", "thermometer"),
                ("publish-time", "18446744073709551615"),
            ];
            assert_eq!(properties, expected);
        });
    }
}
