//! A subscriber by the book that looks at everything: each number in its place, what it owes coming again as it must.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use mqtt_operator::mqtt::ReasonCode;
use mqtt_operator::mqtt::packet::{Packet, PacketId, Publish, QoS, Subscribe, SubscriptionOptions, Version};
use mqtt_operator::mqtt::property::SubscribeProperties;
use tokio::time::{Instant, sleep_until};

use super::line::{Identity, Line, Lost, ack};
use super::publisher::parse;
use super::stage::{Kind, Numbered, Phase, Progress, Random, Stage};

/// The streams of all publishers that do not retain.
const FILTER: &str = "t/s/#";
const SHARED: &str = "$share/crash/t/s/#";
/// Receive Maximum of 5.0, for the subscribers that have one.
pub const RECEIVE_MAXIMUM: u16 = 12;

/// How a subscriber differs from others.
#[derive(Clone, Copy, Debug)]
pub struct Habits {
    pub version: Version,
    /// The QoS that it asks for.
    pub qos: QoS,
    pub receive_maximum: Option<u16>,
    /// Stays away for a while now and then.
    pub leaves: bool,
    /// A member of the group.
    pub shares: bool,
}

/// How far a delivery is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// No answer has left.
    Received,
    /// QoS 2: PUBREC has left.
    Recorded,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Ack,
    Record,
    Complete { known: bool },
}

#[derive(Debug)]
pub struct Subscriber {
    stage: Arc<Stage>,
    who: Identity,
    habits: Habits,
    progress: Arc<Progress>,
    random: Random,
    known: bool,
    subscribed: bool,
    /// Whether the broker has lost the session: then anything may be the first of its stream.
    forgotten: bool,
    /// Deliveries that are not over, by identifier.
    open: BTreeMap<PacketId, (Numbered, State)>,
    /// Those of them that must come again on this connection before anything new.
    owed: BTreeSet<PacketId>,
    /// The highest number of each stream.
    last: BTreeMap<(usize, usize), u32>,
    /// Answers in the order of what they answer, which is that of their leaving.
    due: VecDeque<(Instant, PacketId, Answer)>,
}

/// Why a subscriber is not connected any more.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Over,
    Leaves,
}

impl Subscriber {
    pub fn new(stage: &Arc<Stage>, index: usize, habits: Habits, seed: u64) -> Self {
        let client_id = format!("subscriber-{index}");
        let receive_maximum = habits.receive_maximum;
        Self {
            progress: stage.join(&client_id, !habits.leaves, !habits.shares),
            stage: stage.clone(),
            who: Identity { client_id, user: "u2", version: habits.version, receive_maximum },
            habits,
            random: Random::new(seed, 200 + index as u64),
            known: false,
            subscribed: false,
            forgotten: false,
            open: BTreeMap::new(),
            owed: BTreeSet::new(),
            last: BTreeMap::new(),
            due: VecDeque::new(),
        }
    }

    /// Receives until the run is over.
    pub async fn live(mut self) {
        while let Some(mut line) = Line::open(&self.stage, self.who.version).await {
            match self.connected(&mut line).await {
                Ok(End::Over) => return,
                Ok(End::Leaves) => {
                    drop(line);
                    let mut watch = self.stage.watch();
                    let away = self.random.millis(100, 2500);
                    let back = watch.wait_for(|now| now.phase > Phase::Busy);
                    let _ = tokio::time::timeout(away, back).await;
                }
                Err(Lost) => {}
            }
        }
    }

    fn owe(&self) {
        self.progress.owed.store(self.owed.len() as u32, Ordering::Relaxed);
    }

    fn wrong(&self, kind: Kind, words: &str) {
        self.stage.find(kind, format!("{} ({}): {words}", self.who.client_id, self.who.version));
    }

    async fn connected(&mut self, line: &mut Line) -> Result<End, Lost> {
        self.due.clear();
        let present = line.greet(&self.who, false, None).await?;
        self.resume(present, line);
        line.flush().await?;
        let wanted = self.stage.acknowledged();
        let leaves_at = Instant::now() + self.random.millis(20, 1500);
        let mut watch = self.stage.watch();
        loop {
            let answer_at = self.due.front().map_or(leaves_at, |(at, ..)| *at);
            tokio::select! {
                frame = line.next() => {
                    let frame = frame?;
                    let packet = line.decode(&frame)?;
                    self.handle(&packet);
                }
                () = sleep_until(answer_at), if !self.due.is_empty() => {}
                () = sleep_until(leaves_at), if self.may_leave(leaves_at, &wanted) => {
                    if self.random.once_in(2) {
                        line.push(&Packet::Disconnect(mqtt_operator::mqtt::packet::Disconnect {
                            code: ReasonCode::SUCCESS,
                            properties: Default::default(),
                        }));
                        line.flush().await?;
                    }
                    return Ok(End::Leaves);
                }
                changed = watch.changed() => {
                    changed.map_err(|_| Lost)?;
                    if self.stage.now().phase == Phase::Over {
                        return Ok(End::Over);
                    }
                }
            }
            self.answer(line);
            line.flush().await?;
        }
    }

    /// Nobody leaves before all has come that was acknowledged when it came.
    fn may_leave(&self, leaves_at: Instant, wanted: &[[u32; 3]]) -> bool {
        let reached = |publisher, qos| self.progress.reached(publisher, qos);
        let all = || {
            wanted
                .iter()
                .take(self.stage.plain)
                .enumerate()
                .all(|(p, levels)| (1..3).all(|qos| reached(p, qos) >= levels[qos]))
        };
        let busy = self.stage.now().phase == Phase::Busy;
        self.habits.leaves && self.subscribed && busy && (Instant::now() < leaves_at || all())
    }

    fn resume(&mut self, present: bool, line: &mut Line) {
        if self.known && !present && self.who.version != Version::V31 {
            self.wrong(Kind::Session, "the session is gone");
            self.open.clear();
            (self.subscribed, self.forgotten) = (false, true);
            self.last.clear();
        } else if self.known {
            self.stage.counts.sessions_resumed.fetch_add(1, Ordering::Relaxed);
        }
        self.known = true;
        // At QoS 1 a message may be delivered before it is kept. If nobody has got an acknowledgement for it, a broker that
        // is killed need not know it any more; its publisher sends it again.
        let (stage, least) = (&self.stage, self.habits.qos as usize);
        self.open.retain(|_, (what, _)| what.qos.min(least) == 2 || stage.had_to_be_kept(*what));
        self.owed = self.open.keys().copied().collect();
        self.owe();
        if !self.subscribed {
            let filter = if self.habits.shares { SHARED } else { FILTER };
            let options = SubscriptionOptions { qos: self.habits.qos, ..SubscriptionOptions::default() };
            line.push(&Packet::Subscribe(Subscribe {
                packet_id: PacketId::MAX,
                properties: SubscribeProperties::default(),
                filters: vec![(filter, options)],
            }));
        }
    }

    /// The answers whose time has come, in their order.
    fn answer(&mut self, line: &mut Line) {
        while let Some((_, id, answer)) = self.due.pop_front_if(|(at, ..)| *at <= Instant::now()) {
            match answer {
                Answer::Ack => {
                    self.open.remove(&id);
                    line.push(&Packet::PubAck(ack(id)));
                }
                Answer::Record => {
                    if let Some((_, state)) = self.open.get_mut(&id) {
                        *state = State::Recorded;
                    }
                    line.push(&Packet::PubRec(ack(id)));
                }
                Answer::Complete { known } => {
                    let mut answer = ack(id);
                    if !known && self.who.version == Version::V5 {
                        answer.code = ReasonCode::PACKET_IDENTIFIER_NOT_FOUND;
                    }
                    line.push(&Packet::PubComp(answer));
                }
            }
        }
    }

    fn later(&mut self, id: PacketId, answer: Answer) {
        let at = Instant::now();
        // Now and then it takes its time, so that a kill finds deliveries in every state.
        let at = if self.random.once_in(60) { at + self.random.millis(1, 80) } else { at };
        self.due.push_back((at, id, answer));
    }

    fn handle(&mut self, packet: &Packet<'_>) {
        match packet {
            Packet::Publish(publish) => self.on_publish(publish),
            Packet::PubRel(release) => self.on_release(release.packet_id),
            Packet::SubAck(answer) if !answer.codes[0].is_failure() => {
                self.subscribed = true;
                if !self.forgotten {
                    self.stage.ready.fetch_add(1, Ordering::Relaxed);
                }
            }
            other => self.wrong(Kind::Protocol, &format!("gets {other:?}")),
        }
    }

    fn on_release(&mut self, id: PacketId) {
        self.owed.remove(&id);
        self.owe();
        let open = self.open.remove(&id);
        if let Some((what, State::Received)) = open {
            self.wrong(Kind::Protocol, &format!("PUBREL for {what:?} without a PUBREC"));
        }
        self.later(id, Answer::Complete { known: open.is_some() });
    }

    fn on_publish(&mut self, publish: &Publish<'_>) {
        let Some(what) = parse(publish.payload) else {
            return self.wrong(Kind::Protocol, &format!("a payload of nobody on {}", publish.topic));
        };
        let granted = QoS::from_bits(what.qos as u8).map(|qos| qos.min(self.habits.qos));
        if granted != Some(publish.qos) || publish.topic != super::publisher::topic(what, false) {
            self.wrong(Kind::Protocol, &format!("{what:?} comes with {:?} on {}", publish.qos, publish.topic));
        }
        self.stage.counts.delivered[publish.qos as usize].fetch_add(1, Ordering::Relaxed);
        let Some(id) = publish.packet_id else { return self.on_new(what, publish) };
        let again = self.comes_again(id, what, publish.dup);
        if publish.qos == QoS::ExactlyOnce {
            if !again {
                self.on_new(what, publish);
                self.open.insert(id, (what, State::Received));
            }
            self.later(id, Answer::Record);
        } else {
            if !again {
                self.on_new(what, publish);
            }
            self.open.insert(id, (what, State::Received));
            self.later(id, Answer::Ack);
        }
    }

    /// Whether it is a delivery that is open here; what is owed comes first, with DUP, and is what it was.
    fn comes_again(&mut self, id: PacketId, what: Numbered, dup: bool) -> bool {
        if let Some((before, _)) = self.open.get(&id).copied() {
            if before != what {
                self.wrong(Kind::Redelivery, &format!("identifier {id} was {before:?} and is {what:?}"));
            }
            if self.owed.remove(&id) && dup {
                self.stage.counts.redelivered.fetch_add(1, Ordering::Relaxed);
            } else {
                self.wrong(Kind::Redelivery, &format!("{what:?} comes again without reason or without DUP: {dup}"));
            }
            self.owe();
            return true;
        }
        if !self.owed.is_empty() && !dup {
            self.wrong(Kind::Redelivery, &format!("{what:?} comes before {} that must come again", self.owed.len()));
        }
        false
    }

    /// A delivery that is none of those that are open: the next number, or with QoS 1 one that has come before.
    fn on_new(&mut self, what: Numbered, publish: &Publish<'_>) {
        if self.habits.shares {
            return self.on_shared(what);
        }
        let last = self.last.get(&(what.publisher, what.qos)).copied();
        if last.is_some_and(|last| what.number <= last) {
            return self.on_double(what, publish);
        }
        let next = last.map_or(1, |last| last + 1);
        if publish.qos != QoS::AtMostOnce && what.qos > 0 && what.number > next && !(self.forgotten && last.is_none()) {
            self.wrong(Kind::Lost, &format!("{what:?} comes, {next} is missing"));
        }
        self.last.insert((what.publisher, what.qos), what.number);
        self.progress.reach(what);
    }

    fn on_double(&self, what: Numbered, publish: &Publish<'_>) {
        let repeated = self.stage.stream(what).repeated.load(Ordering::Relaxed);
        // A publication that its publisher sent again, or a delivery whose acknowledgement was lost.
        if publish.qos == QoS::AtLeastOnce && (publish.dup || what.number <= repeated) {
            self.stage.counts.doubled.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let kind = if publish.qos == QoS::AtMostOnce { Kind::Reordered } else { Kind::Doubled };
        self.wrong(
            kind,
            &format!("{what:?} comes after its time, DUP {}, identifier {:?}", publish.dup, publish.packet_id),
        );
    }

    fn on_shared(&mut self, what: Numbered) {
        let first = self.stage.group.take(what);
        let last = self.last.entry((what.publisher, what.qos)).or_default();
        let behind = what.number < *last;
        *last = what.number.max(*last);
        match (what.qos, first) {
            (1, false) => drop(self.stage.counts.doubled.fetch_add(1, Ordering::Relaxed)),
            (2, false) => self.wrong(Kind::Doubled, &format!("{what:?} comes to the group a second time")),
            // With QoS 1 a publication that was sent again may go to another member than the first time.
            (2, true) if behind => self.wrong(Kind::Reordered, &format!("{what:?} comes after its time")),
            _ => {}
        }
    }
}
