//! AUTH: a client that came with a token brings a new one, and stays connected.

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};

use super::connection::{Closing, Connection};
use super::durable;
use super::events::{self, Who};
use super::unix_millis;
use crate::auth::{Grants, Identity, Presented, Refusal, Verdict, Why};
use crate::mqtt::packet::{Auth, Packet};
use crate::mqtt::property::AuthProperties;
use crate::mqtt::{ReasonCode, Violation};

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// Only a client whose CONNECT had a method may send AUTH, and only with the same method `[MQTT-4.12.0-7, 4.12.1-1]`.
    pub(super) fn on_auth(&mut self, auth: &Auth<'_>, now: u64) -> Result<(), Closing> {
        let method = auth.properties.authentication_method;
        if self.authentication_method.is_none() || method != self.authentication_method.as_deref() {
            return Err(Violation::AuthenticationMethod.into());
        }
        // Methods that need more than one step are not offered, so there is nothing to continue.
        if auth.code != ReasonCode::REAUTHENTICATE {
            return Err(Violation::UnexpectedPacket { packet: "AUTH" }.into());
        }
        let presented = Presented {
            method,
            data: auth.properties.authentication_data,
            client_id: &self.peer.client_id,
            ..Presented::default()
        };
        let generation = self.shared.generation();
        let policy = self.shared.policy.load();
        let refuse = |refusal: Refusal| {
            let who = Who::of(&self.peer.client_id, &self.peer.identity);
            events::reauthenticated(&self.shared, &who, Err((refusal.why, &refusal.log)));
            Err(Closing::because(refusal.code, refusal.log))
        };
        match policy.authenticate(&presented, unix_millis() / 1000) {
            Verdict::Accepted(identity) if identity.principal == self.peer.identity.principal => {
                let grants = policy.grants(&identity, &self.peer.client_id);
                drop(policy);
                self.peer.generation = generation;
                self.take_identity(identity, grants, now);
            }
            Verdict::Accepted(_) => {
                let log = "re-authentication may not change the identity";
                return refuse(Refusal::new(ReasonCode::NOT_AUTHORIZED, 0, log).because(Why::Identity));
            }
            // A token is never checked like a password.
            Verdict::CheckPassword(_) => return Err(Violation::AuthenticationMethod.into()),
            // A turn of a connection waits for nothing; whoever connects again with this token may wait for its key.
            Verdict::UnknownKey { issuer, refusal } => {
                self.shared.issuers.want(&issuer);
                return refuse(refusal);
            }
            Verdict::Refused(refusal) => return refuse(refusal),
        }
        let properties = AuthProperties { authentication_method: method, ..AuthProperties::default() };
        self.send(&Packet::Auth(Auth { code: ReasonCode::SUCCESS, properties }));
        Ok(())
    }

    /// A new deadline and new rules, which hold for subscriptions that were granted before, for what waits, and for the
    /// will.
    fn take_identity(&mut self, identity: Identity, grants: Grants, now: u64) {
        self.timers.token_expires = identity.expires_at.map(|at| now + (at * 1000).saturating_sub(unix_millis()));
        let identity = Arc::new(identity);
        self.shared.registry.identify(&self.peer.client_id, self.mailbox.session, &identity);
        if let Some(will) = &mut self.will {
            will.identity = identity.clone();
        }
        let about = self.shared.registry.about(&self.peer.client_id).filter(|_| self.mailbox.durable);
        if let Some(about) = about {
            let (client_id, session, will) = (&self.peer.client_id, self.mailbox.session, self.will.as_ref());
            let effects = self.effects.get_or_insert_default();
            durable::record(&mut effects.records, client_id, session, &identity, &about, will);
        }
        self.peer.identity = identity;
        if let Some(filter) = self.take_grants(grants) {
            let client_id = &self.peer.client_id;
            tracing::info!(%client_id, %filter, "the new token does not grant this subscription, and others perhaps");
        }
        let who = Who::of(&self.peer.client_id, &self.peer.identity);
        events::reauthenticated(&self.shared, &who, Ok(()));
    }
}
