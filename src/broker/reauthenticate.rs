//! AUTH: a client that came with a token brings a new one, and stays connected.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite};

use super::connection::{Closing, Connection};
use super::durable;
use super::events::{self, Who};
use super::unix_millis;
use crate::auth::{Grants, Identity, Presented, Refusal, Verdict, Why};
use crate::mqtt::packet::{Auth, Packet};
use crate::mqtt::property::AuthProperties;
use crate::mqtt::{ReasonCode, Violation};

/// How a client may authenticate again.
pub(super) struct Authentication {
    /// The method that its CONNECT named.
    method: Box<str>,
    waiting: Option<Waiting>,
}

/// A token that has come and whose key is not known.
struct Waiting {
    token: Box<[u8]>,
    /// Whether the keys of its issuer were fetched meanwhile.
    learned: Pin<Box<dyn Future<Output = bool> + Send>>,
}

impl Authentication {
    pub fn new(method: &str) -> Self {
        Self { method: method.into(), waiting: None }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// Only a client whose CONNECT had a method may send AUTH, and only with the same method `[MQTT-4.12.0-7, 4.12.1-1]`.
    pub(super) fn on_auth(&mut self, auth: &Auth<'_>, now: u64) -> Result<(), Closing> {
        let method = auth.properties.authentication_method;
        let Some(allowed) = self.authentication.as_ref().filter(|it| Some(&*it.method) == method) else {
            return Err(Violation::AuthenticationMethod.into());
        };
        // Methods that need more than one step are not offered, so there is nothing to continue; and what has begun ends
        // before the next begins.
        if auth.code != ReasonCode::REAUTHENTICATE || allowed.waiting.is_some() {
            return Err(Violation::UnexpectedPacket { packet: "AUTH" }.into());
        }
        match self.authenticate(auth.properties.authentication_data, now)? {
            None => Ok(()),
            // The key may be new. The client is served as before until its issuer's keys are here, as a CONNECT waits.
            Some((issuer, _)) => {
                let shared = self.shared.clone();
                let learned = Box::pin(async move { shared.issuers.learn(&issuer, shared.now()).await });
                let token = auth.properties.authentication_data.unwrap_or_default().into();
                if let Some(authentication) = &mut self.authentication {
                    authentication.waiting = Some(Waiting { token, learned });
                }
                Ok(())
            }
        }
    }

    /// Looks at the token again that waits for its key, once there is something new about it.
    pub(super) fn end_wait_for_keys(&mut self, cx: &mut Context<'_>, now: u64) -> Result<(), Closing> {
        let Some(waiting) = self.authentication.as_mut().and_then(|it| it.waiting.as_mut()) else { return Ok(()) };
        if waiting.learned.as_mut().poll(cx) == Poll::Pending {
            return Ok(());
        }
        let waiting = self.authentication.as_mut().and_then(|it| it.waiting.take());
        match self.authenticate(waiting.as_ref().map(|it| &*it.token), now)? {
            None => Ok(()),
            Some((_, refusal)) => self.refuse_authentication(&refusal),
        }
    }

    /// Takes the token, if it is right; answers the issuer whose key it names, and what it is refused with, if that is not
    /// known.
    fn authenticate(&mut self, token: Option<&[u8]>, now: u64) -> Result<Option<(String, Refusal)>, Closing> {
        let method = self.authentication.as_ref().map(|it| &*it.method);
        let presented = Presented { method, data: token, client_id: &self.peer.client_id, ..Presented::default() };
        let generation = self.shared.generation();
        let policy = self.shared.policy.load();
        match policy.authenticate(&presented, unix_millis() / 1000) {
            Verdict::Accepted(identity) if identity.principal == self.peer.identity.principal => {
                let grants = policy.grants(&identity, &self.peer.client_id);
                drop(policy);
                self.peer.generation = generation;
                self.take_identity(identity, grants, now);
            }
            Verdict::Accepted(_) => {
                let log = "re-authentication may not change the identity";
                let refusal = Refusal::new(ReasonCode::NOT_AUTHORIZED, 0, log).because(Why::Identity);
                let refusal = Refusal { public: Some(log.to_owned()), ..refusal };
                return self.refuse_authentication(&refusal).map(|()| None);
            }
            // A token is never checked like a password.
            Verdict::CheckPassword(_) => return Err(Violation::AuthenticationMethod.into()),
            Verdict::UnknownKey { issuer, refusal } => return Ok(Some((issuer, refusal))),
            Verdict::Refused(refusal) => return self.refuse_authentication(&refusal).map(|()| None),
        }
        let method = self.authentication.as_ref().map(|it| it.method.clone());
        let properties = AuthProperties { authentication_method: method.as_deref(), ..AuthProperties::default() };
        self.send(&Packet::Auth(Auth { code: ReasonCode::SUCCESS, properties }));
        Ok(None)
    }

    fn refuse_authentication(&self, refusal: &Refusal) -> Result<(), Closing> {
        let who = Who::of(&self.peer.client_id, &self.peer.identity);
        events::reauthenticated(&self.shared, &who, Err((refusal.why, &refusal.log)));
        // Of the codes of a CONNACK about credentials, DISCONNECT has this one alone; and words only about a token whose
        // signature is right.
        let words = refusal.public.clone().unwrap_or_else(|| "the new credentials are refused".to_owned());
        Err(Closing::because(ReasonCode::NOT_AUTHORIZED, words))
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
