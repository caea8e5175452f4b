//! What is retained, looked at by a client that has just come.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use mqtt_operator::mqtt::packet::{Packet, PacketId, QoS, Subscribe, SubscriptionOptions, Version};
use mqtt_operator::mqtt::property::SubscribeProperties;
use tokio::time::{Instant, timeout_at};

use super::line::{Identity, Line, Lost};
use super::publisher::{RETAINED_TOPICS, parse, removes, topic};
use super::stage::{Kind, Numbered, Stage};

/// Values that nobody expects have come by then.
const QUIET: Duration = Duration::from_millis(100);

/// The numbers that a topic's retained value may have: from the last acknowledged to the last sent one.
#[derive(Clone, Debug)]
struct Possible {
    from: u32,
    to: u32,
}

/// The numbers of a topic among those of its stream, downwards from `to`.
fn of_topic(to: u32, slot: u32) -> impl Iterator<Item = u32> {
    (1..=to).rev().filter(move |number| number % RETAINED_TOPICS == slot)
}

fn topics(stage: &Stage, retaining: &[usize]) -> Vec<(usize, usize, u32)> {
    let _ = stage;
    let levels = |publisher| (1..3).flat_map(move |qos| (0..RETAINED_TOPICS).map(move |slot| (publisher, qos, slot)));
    retaining.iter().flat_map(|publisher| levels(*publisher)).collect()
}

/// The highest number of a topic that `upto` includes; 0 where there is none.
fn highest(upto: u32, slot: u32) -> u32 {
    of_topic(upto, slot).next().unwrap_or(0)
}

/// Subscribes, and compares what is retained with what the publishers know.
pub async fn check(stage: &Arc<Stage>, retaining: &[usize], version: Version) -> Result<(), Lost> {
    let Some(mut line) = Line::open(stage, version).await else { return Ok(()) };
    let client_id = format!("probe-{}", stage.now().starts);
    line.greet(&Identity { client_id, user: "u3", version, receive_maximum: None }, true, None).await?;
    let before: Vec<[u32; 3]> = stage.acknowledged();
    let options = SubscriptionOptions { qos: QoS::AtMostOnce, ..SubscriptionOptions::default() };
    line.push(&Packet::Subscribe(Subscribe {
        packet_id: PacketId::MIN,
        properties: SubscribeProperties::default(),
        filters: vec![("t/r/#", options)],
    }));
    line.flush().await?;
    let deadline = Instant::now() + stage.patience;
    let (mut seen, mut expected) = (BTreeMap::new(), None);
    let mut quiet_at = deadline;
    loop {
        let frame = match timeout_at(quiet_at.min(deadline), line.next()).await {
            Ok(frame) => frame?,
            Err(_) => break,
        };
        match line.decode(&frame)? {
            Packet::SubAck(_) => expected = Some(possible(stage, retaining, &before)),
            Packet::Publish(publish) if publish.retain => {
                let _ = seen.insert(publish.topic.to_owned(), parse(publish.payload));
            }
            _ => {}
        }
        let must = expected.as_ref().map(must_be_there);
        if must.is_some_and(|must| must.iter().all(|topic| seen.contains_key(topic))) {
            quiet_at = quiet_at.min(Instant::now() + QUIET);
        }
    }
    compare(stage, &expected.unwrap_or_default(), &seen);
    Ok(())
}

fn possible(stage: &Stage, retaining: &[usize], before: &[[u32; 3]]) -> BTreeMap<String, (u32, Possible)> {
    let each = topics(stage, retaining).into_iter().map(|(publisher, qos, slot)| {
        let from = highest(before[publisher][qos], slot);
        let to = highest(stage.streams[publisher][qos].sent.load(Ordering::Relaxed), slot);
        (topic(Numbered { publisher, qos, number: slot }, true), (slot, Possible { from, to }))
    });
    each.collect()
}

/// The topics that have a value whichever of the possible ones it is.
fn must_be_there(expected: &BTreeMap<String, (u32, Possible)>) -> BTreeSet<String> {
    let has_value = |slot: u32, it: &Possible| {
        it.from > 0 && of_topic(it.to, slot).take_while(|number| *number >= it.from).all(|number| !removes(number))
    };
    expected.iter().filter(|(_, (slot, it))| has_value(*slot, it)).map(|(topic, _)| topic.clone()).collect()
}

fn compare(stage: &Stage, expected: &BTreeMap<String, (u32, Possible)>, seen: &BTreeMap<String, Option<Numbered>>) {
    let must = must_be_there(expected);
    for (topic, (_, possible)) in expected {
        stage.counts.retained_checked.fetch_add(1, Ordering::Relaxed);
        let wrong = |words: String| stage.find(Kind::Retained, format!("{topic}: {words}; possible: {possible:?}"));
        match seen.get(topic) {
            None if must.contains(topic) => wrong("nothing is retained".into()),
            Some(None) => wrong("the bytes of nobody".into()),
            Some(Some(value))
                if value.number < possible.from || value.number > possible.to || removes(value.number) =>
            {
                wrong(format!("{value:?}"));
            }
            _ => {}
        }
    }
}
