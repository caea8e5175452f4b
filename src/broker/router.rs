//! Which sessions a topic goes to.
//!
//! The index is a trie of topic levels behind a read-write lock, with a generation that every change counts up. A
//! publisher keeps the routes of its last topics and asks the index again only when the generation has moved.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use super::effects::Effects;
use super::mailbox::{Mailbox, Pressure, Standing};
use crate::mqtt::QoS;
use crate::mqtt::packet::SubscriptionOptions;
use crate::mqtt::topic::Filter;
use crate::store::memory::{self, Held};
use crate::store::{Delivery, Message, Via};

/// The subscriptions of all sessions.
#[derive(Debug, Default)]
pub struct Router {
    root: RwLock<Node>,
    generation: AtomicU64,
    subscriptions: AtomicU64,
}

/// One level of the trie.
#[derive(Debug, Default)]
struct Node {
    children: HashMap<Box<str>, Node>,
    /// Filters that end at this level, and those that end with `/#` below it.
    here: Ends,
    below: Ends,
    held: Held,
}

#[derive(Debug, Default)]
struct Ends {
    /// In the order of their sessions.
    plain: Vec<Subscriber>,
    shared: Vec<Arc<Group>>,
}

/// A session with one of its subscriptions.
#[derive(Clone, Debug)]
pub struct Subscriber {
    pub mailbox: Arc<Mailbox>,
    pub options: SubscriptionOptions,
    pub identifier: Option<u32>,
    /// The bridge is told where a message comes from.
    pub wants_origin: bool,
}

/// The members of a shared subscription; each message goes to one of them `[MQTT-4.8.2-4]`.
#[derive(Debug)]
pub struct Group {
    name: Box<str>,
    members: Mutex<Vec<(Subscriber, Arc<Via>)>>,
    next: AtomicUsize,
}

/// Where a topic goes, worked out once and kept by publishers.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    pub generation: u64,
    direct: Vec<Route>,
    groups: Vec<Arc<Group>>,
    /// Whether anyone wants to be told where messages come from.
    pub wants_origin: bool,
    /// Whether a session that gets it at QoS 1 or 2 is written down.
    pub durable: bool,
}

/// One session that gets a copy.
#[derive(Clone, Debug)]
struct Route {
    mailbox: Arc<Mailbox>,
    terms: Terms,
    own: Own,
}

/// How a copy is made: with the highest QoS and all identifiers of the matching subscriptions.
#[derive(Clone, Debug)]
struct Terms {
    qos: QoS,
    retain_as_published: bool,
    via: Option<Arc<Via>>,
}

/// What the session gets of its own publications: subscriptions with No Local have no part in that `[MQTT-3.8.3-3]`.
#[derive(Clone, Debug)]
enum Own {
    /// The same as of others.
    Same,
    Nothing,
    Other(Box<Terms>),
}

/// What a delivery to all routes did.
#[derive(Debug, Default)]
pub struct Routed {
    /// Messages that full queues lost, and those of QoS 0 that subscribers were too slow for.
    pub dropped: usize,
    pub shed: usize,
    /// A session before which the publisher should line up.
    pub hold: Option<Arc<Mailbox>>,
}

impl Router {
    /// Adds or replaces a subscription; answers whether the session had it already.
    pub fn subscribe(&self, filter: &Filter<'_>, subscriber: Subscriber) -> bool {
        let mut root = self.root.write().unwrap_or_else(PoisonError::into_inner);
        let (node, below) = root.descend(filter.filter);
        let ends = if below { &mut node.below } else { &mut node.here };
        let existed = match filter.share {
            None => ends.subscribe(subscriber),
            Some(group) => ends.join(group, filter.filter, subscriber),
        };
        if !existed {
            memory::count(cost(filter));
        }
        self.generation.fetch_add(1, Ordering::Release);
        self.subscriptions.fetch_add(u64::from(!existed), Ordering::Relaxed);
        existed
    }

    /// Removes a subscription; answers whether there was one.
    pub fn unsubscribe(&self, filter: &Filter<'_>, session: u64) -> bool {
        let mut root = self.root.write().unwrap_or_else(PoisonError::into_inner);
        let (levels, below) = levels(filter.filter);
        let removed = root.remove(&levels, below, filter.share, session);
        if removed {
            memory::count(-cost(filter));
        }
        self.generation.fetch_add(1, Ordering::Release);
        self.subscriptions.fetch_sub(u64::from(removed), Ordering::Relaxed);
        removed
    }

    /// Subscriptions of all sessions.
    pub fn subscriptions(&self) -> u64 {
        self.subscriptions.load(Ordering::Relaxed)
    }

    /// Counts up with each change of the index.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Where `topic` goes.
    pub fn routes(&self, topic: &str) -> Routes {
        let root = self.root.read().unwrap_or_else(PoisonError::into_inner);
        let mut routes = Routes { generation: self.generation(), ..Routes::default() };
        root.collect(topic, &mut routes);
        routes
    }

    /// Gives a message that a member did not take to another member of its group.
    pub fn redeliver(&self, share: &str, message: &Arc<Message>, now: u64, effects: &mut Effects) {
        let routes = self.routes(message.topic());
        if let Some(group) = routes.groups.iter().find(|group| *group.name == *share) {
            group.push(message, now, effects, &mut Routed::default());
        }
    }
}

/// What a subscription costs beside the levels of its filter: here, and in its session.
fn cost(filter: &Filter<'_>) -> i64 {
    const PLAIN: usize = 200;
    const SHARED: usize = 200;
    let share = filter.share.map_or(0, |share| SHARED + share.len() + filter.filter.len());
    (PLAIN + 2 * filter.filter.len() + share) as i64
}

/// The levels of a filter, without a last `#`.
fn levels(filter: &str) -> (Vec<&str>, bool) {
    let mut levels: Vec<&str> = filter.split('/').collect();
    let below = levels.last() == Some(&"#");
    if below {
        levels.pop();
    }
    (levels, below)
}

impl Node {
    fn descend(&mut self, filter: &str) -> (&mut Self, bool) {
        let (levels, below) = levels(filter);
        let node = levels.into_iter().fold(self, |node, level| {
            node.children.entry(level.into()).or_insert_with(|| {
                let mut child = Self::default();
                // A map is up to twice as large as what is in it.
                child.held.settle(2 * size_of::<(Box<str>, Self)>());
                child
            })
        });
        (node, below)
    }

    fn remove(&mut self, levels: &[&str], below: bool, share: Option<&str>, session: u64) -> bool {
        let end = levels.iter().try_fold(&mut *self, |node, level| node.children.get_mut(*level));
        let Some(end) = end else { return false };
        let ends = if below { &mut end.below } else { &mut end.here };
        let removed = ends.remove(share, session);
        if end.is_empty() {
            self.prune(levels);
        }
        removed
    }

    /// Takes away the levels above an empty end that lead nowhere else.
    fn prune(&mut self, levels: &[&str]) {
        let (mut node, mut kept) = (&*self, 0);
        for (depth, level) in levels.iter().enumerate() {
            if node.children.len() > 1 || !node.here.is_empty() || !node.below.is_empty() {
                kept = depth;
            }
            let Some(child) = node.children.get(*level) else { return };
            node = child;
        }
        let last = levels[..kept].iter().try_fold(self, |node, level| node.children.get_mut(*level));
        if let (Some(last), Some(level)) = (last, levels.get(kept)) {
            last.children.remove(*level);
        }
    }

    fn is_empty(&self) -> bool {
        self.children.is_empty() && self.here.is_empty() && self.below.is_empty()
    }

    fn collect(&self, topic: &str, routes: &mut Routes) {
        // Wildcards at the first level do not match a `$` topic `[MQTT-4.7.2-1]`.
        let mut hidden = topic.starts_with('$');
        let mut open = vec![(self, topic.split('/'))];
        while let Some((node, mut levels)) = open.pop() {
            if !hidden {
                node.below.collect(routes);
            }
            let Some(level) = levels.next() else {
                node.here.collect(routes);
                continue;
            };
            if !hidden && let Some(child) = node.children.get("+") {
                open.push((child, levels.clone()));
            }
            if let Some(child) = node.children.get(level) {
                open.push((child, levels));
            }
            hidden = false;
        }
    }
}

/// Without recursion, as everything here that follows levels: a filter may have 65,536 of them.
impl Drop for Node {
    fn drop(&mut self) {
        let mut doomed: Vec<Node> = self.children.drain().map(|(_, node)| node).collect();
        while let Some(mut node) = doomed.pop() {
            doomed.extend(node.children.drain().map(|(_, node)| node));
        }
    }
}

impl Ends {
    fn subscribe(&mut self, subscriber: Subscriber) -> bool {
        let session = subscriber.mailbox.session;
        // By session: of a hundred thousand that subscribe to one filter each is found at once.
        match self.plain.binary_search_by_key(&session, |known| known.mailbox.session) {
            Ok(at) => {
                self.plain[at] = subscriber;
                true
            }
            Err(at) => {
                self.plain.insert(at, subscriber);
                false
            }
        }
    }

    fn join(&mut self, name: &str, filter: &str, subscriber: Subscriber) -> bool {
        let whole = format!("$share/{name}/{filter}").into_boxed_str();
        if let Some(group) = self.shared.iter().find(|group| group.name == whole) {
            return group.join(subscriber, whole);
        }
        let group = Group { name: whole.clone(), members: Mutex::default(), next: AtomicUsize::new(0) };
        group.join(subscriber, whole);
        self.shared.push(Arc::new(group));
        false
    }

    fn remove(&mut self, share: Option<&str>, session: u64) -> bool {
        let Some(name) = share else {
            let found = self.plain.binary_search_by_key(&session, |known| known.mailbox.session);
            return found.map(|at| self.plain.remove(at)).is_ok();
        };
        let mut removed = false;
        self.shared.retain(|group| {
            let named = group.name.strip_prefix("$share/").is_some_and(|rest| rest.split('/').next() == Some(name));
            if named {
                removed |= group.leave(session);
            }
            !group.is_empty()
        });
        removed
    }

    fn is_empty(&self) -> bool {
        self.plain.is_empty() && self.shared.is_empty()
    }

    fn collect(&self, routes: &mut Routes) {
        // A session is here once, so only what other filters have added can be the same session.
        let others = if self.plain.is_empty() { HashMap::new() } else { routes.by_session() };
        for subscriber in &self.plain {
            match others.get(&subscriber.mailbox.session) {
                Some(at) => routes.direct[*at].merge(subscriber),
                None => routes.direct.push(Route::new(subscriber)),
            }
            routes.wants_origin |= subscriber.wants_origin;
            routes.durable |= subscriber.is_durable();
        }
        for group in &self.shared {
            for (member, _) in &*group.members() {
                routes.wants_origin |= member.wants_origin;
                routes.durable |= member.is_durable();
            }
            routes.groups.push(group.clone());
        }
    }
}

impl Subscriber {
    fn is_durable(&self) -> bool {
        self.mailbox.durable && self.options.qos > QoS::AtMostOnce
    }
}

impl Group {
    fn members(&self) -> std::sync::MutexGuard<'_, Vec<(Subscriber, Arc<Via>)>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn join(&self, subscriber: Subscriber, whole: Box<str>) -> bool {
        let session = subscriber.mailbox.session;
        let via = Arc::new(Via { identifiers: subscriber.identifier.into_iter().collect(), share: Some(whole) });
        let mut members = self.members();
        if let Some(known) = members.iter_mut().find(|(known, _)| known.mailbox.session == session) {
            *known = (subscriber, via);
            return true;
        }
        members.push((subscriber, via));
        false
    }

    fn leave(&self, session: u64) -> bool {
        let mut members = self.members();
        let before = members.len();
        members.retain(|(known, _)| known.mailbox.session != session);
        members.len() < before
    }

    fn is_empty(&self) -> bool {
        self.members().is_empty()
    }

    /// Whether there is no room for the message with any member.
    fn refuses(&self, message: &Message) -> bool {
        let members = self.members();
        !members.is_empty() && members.iter().all(|(member, _)| member.mailbox.refuses(message))
    }

    /// The next member in turn; a connected one where there is any, and one with room.
    fn push(&self, message: &Arc<Message>, now: u64, effects: &mut Effects, routed: &mut Routed) {
        let members = self.members();
        if members.is_empty() {
            return;
        }
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        let mut best = (Standing::FullAndAway, turn % members.len());
        for at in (0..members.len()).map(|offset| turn.wrapping_add(offset) % members.len()) {
            let standing = members[at].0.mailbox.standing(message);
            if standing < best.0 {
                best = (standing, at);
            }
            if standing == Standing::Online {
                break;
            }
        }
        let (member, via) = &members[best.1];
        let qos = message.qos.min(member.options.qos);
        let retain = message.retain && member.options.retain_as_published;
        routed.count(&member.mailbox, Delivery::new(message.clone(), qos, retain, Some(via.clone())), now, effects);
    }
}

impl Routes {
    /// The places of the sessions that are in already.
    fn by_session(&self) -> HashMap<u64, usize> {
        self.direct.iter().enumerate().map(|(at, route)| (route.mailbox.session, at)).collect()
    }

    /// Bytes that it has allocated.
    pub fn held(&self) -> usize {
        size_of::<Self>()
            + self.direct.capacity() * size_of::<Route>()
            + self.groups.capacity() * size_of::<Arc<Group>>()
    }

    /// Whether a publication must be refused as a whole, because a session has no room for it.
    pub fn refuses(&self, message: &Message, from: u64) -> bool {
        let takes = |route: &&Route| route.terms(from).is_some_and(|terms| terms.qos > QoS::AtMostOnce);
        message.qos > QoS::AtMostOnce
            && (self.direct.iter().filter(takes).any(|route| route.mailbox.refuses(message))
                || self.groups.iter().any(|group| group.refuses(message)))
    }

    /// Whether nobody gets the message.
    pub fn is_empty(&self) -> bool {
        self.direct.is_empty() && self.groups.is_empty()
    }

    /// Gives the message to all.
    pub fn deliver(&self, message: &Arc<Message>, from: u64, now: u64, effects: &mut Effects) -> Routed {
        let mut routed = Routed::default();
        for route in &self.direct {
            let Some(terms) = route.terms(from) else { continue };
            let qos = message.qos.min(terms.qos);
            let retain = message.retain && terms.retain_as_published;
            routed.count(&route.mailbox, Delivery::new(message.clone(), qos, retain, terms.via.clone()), now, effects);
        }
        for group in &self.groups {
            group.push(message, now, effects, &mut routed);
        }
        routed
    }
}

impl Route {
    fn new(subscriber: &Subscriber) -> Self {
        let own = if subscriber.options.no_local { Own::Nothing } else { Own::Same };
        Self { mailbox: subscriber.mailbox.clone(), terms: Terms::of(subscriber), own }
    }

    /// The terms for a publication of session `from`; `None`: it gets no copy.
    fn terms(&self, from: u64) -> Option<&Terms> {
        match &self.own {
            Own::Nothing if self.mailbox.session == from => None,
            Own::Other(own) if self.mailbox.session == from => Some(own),
            _ => Some(&self.terms),
        }
    }

    /// Another subscription of the same session matches too.
    fn merge(&mut self, subscriber: &Subscriber) {
        match (&mut self.own, subscriber.options.no_local) {
            (Own::Same, true) => self.own = Own::Other(Box::new(self.terms.clone())),
            (Own::Nothing, false) => self.own = Own::Other(Box::new(Terms::of(subscriber))),
            (Own::Other(own), false) => own.merge(subscriber),
            (Own::Same, false) | (Own::Nothing | Own::Other(_), true) => {}
        }
        self.terms.merge(subscriber);
    }
}

impl Terms {
    fn of(subscriber: &Subscriber) -> Self {
        Self {
            qos: subscriber.options.qos,
            retain_as_published: subscriber.options.retain_as_published,
            via: subscriber.identifier.map(|id| Arc::new(Via { identifiers: vec![id], share: None })),
        }
    }

    fn merge(&mut self, subscriber: &Subscriber) {
        self.qos = self.qos.max(subscriber.options.qos);
        self.retain_as_published |= subscriber.options.retain_as_published;
        if let Some(id) = subscriber.identifier {
            let mut identifiers = self.via.as_ref().map(|via| via.identifiers.clone()).unwrap_or_default();
            identifiers.push(id);
            self.via = Some(Arc::new(Via { identifiers, share: None }));
        }
    }
}

impl Routed {
    fn count(&mut self, mailbox: &Arc<Mailbox>, delivery: Delivery, now: u64, effects: &mut Effects) {
        let qos = delivery.qos;
        let pushed = mailbox.push(delivery, now, effects);
        if qos == QoS::AtMostOnce {
            self.shed += pushed.dropped;
        } else {
            self.dropped += pushed.dropped;
        }
        if pushed.pressure == Pressure::Hold && self.hold.is_none() {
            self.hold = Some(mailbox.clone());
        }
    }
}

#[cfg(test)]
mod properties;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::mailbox::Admitted;
    use crate::mqtt::packet::Publish;
    use crate::mqtt::topic;
    use crate::store::{Age, Full, Limits};

    const LIMITS: Limits = Limits { messages: 1000, bytes: usize::MAX, full: Full::DropOldest };

    fn subscriber(session: u64, qos: QoS) -> Subscriber {
        let options = SubscriptionOptions { qos, ..SubscriptionOptions::default() };
        Subscriber {
            mailbox: Arc::new(Mailbox::new(session, LIMITS, false)),
            options,
            identifier: None,
            wants_origin: false,
        }
    }

    fn all(window: usize) -> Admitted {
        Admitted { window, end: u64::MAX, written: u64::MAX, age: Age::ANY }
    }

    fn parse(filter: &str) -> Filter<'_> {
        Filter::parse(filter).unwrap()
    }

    fn message(topic: &str, qos: QoS) -> Arc<Message> {
        let properties = Default::default();
        let publish = Publish { dup: false, qos, retain: false, topic, packet_id: None, properties, payload: b"x" };
        Arc::new(Message::new(&publish, topic, 0, None))
    }

    /// All filters and topics of up to three levels over a small alphabet, against the plain matching function.
    #[test]
    fn the_index_agrees_with_matching_one_by_one() {
        let mut filters: Vec<String> = Vec::new();
        let mut topics: Vec<String> = Vec::new();
        for a in ["a", "b", "+", "", "$x"] {
            filters.extend([a.to_owned(), format!("{a}/#")]);
            topics.push(a.to_owned());
            for b in ["a", "b", "+", ""] {
                filters.extend([format!("{a}/{b}"), format!("{a}/{b}/#"), format!("{a}/{b}/+")]);
                topics.extend([format!("{a}/{b}"), format!("{a}/{b}/c")]);
            }
        }
        filters.push("#".into());
        filters.retain(|f| Filter::parse(f).is_ok());
        topics.retain(|t| topic::check_name(t).is_ok());
        let router = Router::default();
        for (session, filter) in filters.iter().enumerate() {
            router.subscribe(&parse(filter), subscriber(session as u64, QoS::AtMostOnce));
        }
        for topic in &topics {
            let mut found: Vec<u64> = router.routes(topic).direct.iter().map(|r| r.mailbox.session).collect();
            found.sort_unstable();
            let expected: Vec<u64> =
                (0..filters.len()).filter(|i| topic::matches(&filters[*i], topic)).map(|i| i as u64).collect();
            assert_eq!(found, expected, "{topic}");
        }
        for (session, filter) in filters.iter().enumerate() {
            assert!(router.unsubscribe(&parse(filter), session as u64));
        }
        assert!(router.root.read().unwrap().is_empty(), "the trie shrinks back to nothing");
    }

    #[test]
    fn overlapping_subscriptions_give_one_copy_with_the_highest_qos_and_all_identifiers() {
        let router = Router::default();
        let mut one = subscriber(1, QoS::AtMostOnce);
        one.identifier = Some(7);
        let two = Subscriber {
            options: SubscriptionOptions { qos: QoS::ExactlyOnce, ..one.options },
            identifier: Some(9),
            ..one.clone()
        };
        one.mailbox.connect(0);
        router.subscribe(&parse("a/#"), one.clone());
        router.subscribe(&parse("a/+"), two);
        router.routes("a/b").deliver(&message("a/b", QoS::ExactlyOnce), 0, 0, &mut Effects::default());
        let mut queued = Vec::new();
        one.mailbox.take(&all(10), &mut Vec::new(), &mut queued, 0, &mut Effects::default());
        assert_eq!(queued.len(), 1);
        assert_eq!(queued[0].qos, QoS::ExactlyOnce);
        assert_eq!(queued[0].via.as_ref().unwrap().identifiers, [7, 9]);
    }

    #[test]
    fn a_shared_subscription_takes_turns_and_prefers_connected_members() {
        let router = Router::default();
        let members: Vec<_> = (0..3).map(|session| subscriber(session, QoS::AtLeastOnce)).collect();
        for member in &members {
            router.subscribe(&parse("$share/g/a"), member.clone());
        }
        members[0].mailbox.connect(0);
        members[2].mailbox.connect(0);
        let routes = router.routes("a");
        for _ in 0..10 {
            routes.deliver(&message("a", QoS::AtLeastOnce), 99, 0, &mut Effects::default());
        }
        let waiting: Vec<_> = members.iter().map(|m| m.mailbox.close().len()).collect();
        assert_eq!(waiting.iter().sum::<usize>(), 10);
        assert_eq!(waiting[1], 0, "the member that is away gets nothing while others are there");
        assert!(waiting[0] > 2 && waiting[2] > 2, "{waiting:?}");
    }

    #[test]
    fn no_local_keeps_a_client_from_its_own_messages() {
        let router = Router::default();
        let mut own = subscriber(5, QoS::AtLeastOnce);
        own.options.no_local = true;
        router.subscribe(&parse("a"), own.clone());
        let routes = router.routes("a");
        for from in [5, 6, 5] {
            routes.deliver(&message("a", QoS::AtLeastOnce), from, 0, &mut Effects::default());
        }
        assert_eq!(own.mailbox.close().len(), 1, "the one of another client");
    }

    fn refusing(session: u64, messages: usize) -> Subscriber {
        let limits = Limits { messages, bytes: usize::MAX, full: Full::Refuse };
        Subscriber { mailbox: Arc::new(Mailbox::new(session, limits, false)), ..subscriber(session, QoS::AtLeastOnce) }
    }

    #[test]
    fn one_session_without_room_refuses_the_publication_as_a_whole() {
        let router = Router::default();
        let (full, free) = (refusing(1, 1), refusing(2, 10));
        router.subscribe(&parse("a"), full.clone());
        router.subscribe(&parse("a"), free.clone());
        let (routes, message) = (router.routes("a"), message("a", QoS::AtLeastOnce));
        assert!(!routes.refuses(&message, 0), "at the limit");
        routes.deliver(&message, 0, 0, &mut Effects::default());
        assert!(routes.refuses(&message, 0), "one past it");
        assert!(!routes.refuses(&self::message("a", QoS::AtMostOnce), 0), "QoS 0 does not wait in queues");
        full.mailbox.take(&all(1), &mut Vec::new(), &mut Vec::new(), 0, &mut Effects::default());
        assert!(!routes.refuses(&message, 0));
    }

    #[test]
    fn a_group_refuses_only_when_no_member_has_room() {
        let router = Router::default();
        let members = [refusing(1, 1), refusing(2, 2)];
        for member in &members {
            router.subscribe(&parse("$share/g/a"), member.clone());
        }
        let (routes, message) = (router.routes("a"), message("a", QoS::AtLeastOnce));
        for _ in 0..3 {
            assert!(!routes.refuses(&message, 0));
            routes.deliver(&message, 0, 0, &mut Effects::default());
        }
        assert!(routes.refuses(&message, 0));
        assert_eq!(members.map(|member| member.mailbox.close().len()), [1, 2], "who has room gets it");
    }
}
