//! Clients whose connection is lost, with a will that must come in spite of it; and sessions that begin and end.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mqtt_operator::mqtt::ReasonCode;
use mqtt_operator::mqtt::packet::{
    Disconnect, Packet, PacketId, Publish, QoS, Subscribe, SubscriptionOptions, Version, Will,
};
use mqtt_operator::mqtt::property::{DisconnectProperties, PublishProperties, SubscribeProperties, WillProperties};

use super::line::{Identity, Line, Lost, ack};
use super::stage::{Kind, Phase, Random, Stage};

/// The wills that have come.
pub type Heard = Arc<Mutex<BTreeSet<String>>>;

fn identity(client_id: String, user: &'static str, version: Version) -> Identity {
    Identity { client_id, user, version, receive_maximum: None }
}

fn subscribe(line: &mut Line, filter: &str) {
    let options = SubscriptionOptions { qos: QoS::AtLeastOnce, ..SubscriptionOptions::default() };
    line.push(&Packet::Subscribe(Subscribe {
        packet_id: PacketId::MAX,
        properties: SubscribeProperties::default(),
        filters: vec![(filter, options)],
    }));
}

/// Hears all wills.
pub async fn hear(stage: Arc<Stage>, heard: Heard) {
    let who = identity("executor".into(), "u4", Version::V311);
    let mut subscribed = false;
    while let Some(mut line) = Line::open(&stage, who.version).await {
        let _ = hear_on(&stage, &mut line, &who, &mut subscribed, &heard).await;
    }
}

async fn hear_on(
    stage: &Arc<Stage>,
    line: &mut Line,
    who: &Identity,
    subscribed: &mut bool,
    heard: &Heard,
) -> Result<(), Lost> {
    *subscribed &= line.greet(who, false, None).await?;
    if !*subscribed {
        subscribe(line, "t/w/#");
    }
    let mut watch = stage.watch();
    loop {
        line.flush().await?;
        tokio::select! {
            frame = line.next() => {
                let frame = frame?;
                match line.decode(&frame)? {
                    Packet::Publish(publish) => {
                        heard.lock().unwrap().insert(String::from_utf8_lossy(publish.payload).into_owned());
                        if let Some(id) = publish.packet_id {
                            line.push(&Packet::PubAck(ack(id)));
                        }
                    }
                    Packet::SubAck(_) if !*subscribed => {
                        *subscribed = true;
                        stage.ready.fetch_add(1, Ordering::Relaxed);
                    }
                    _ => {}
                }
            }
            over = watch.wait_for(|now| now.phase == Phase::Over) => {
                drop(over.map_err(|_| Lost)?);
                return Err(Lost);
            }
        }
    }
}

/// Connects with a will, hangs up, and waits until the will has come; again and again.
pub async fn testate(stage: Arc<Stage>, index: usize, version: Version, heard: Heard, seed: u64) {
    let mut random = Random::new(seed, 300 + index as u64);
    let who = identity(format!("testator-{index}"), "u5", version);
    for life in 0.. {
        if stage.now().phase > Phase::Busy {
            return;
        }
        let text = format!("{index} {life}");
        let delay = Some(random.below(2) as u32).filter(|_| version == Version::V5);
        if !leave(&stage, &who, &text, delay, &mut random).await {
            return;
        }
        let mut patience = stage.patience + Duration::from_secs(u64::from(delay.unwrap_or(0)));
        loop {
            if heard.lock().unwrap().contains(&text) {
                stage.counts.wills.fetch_add(1, Ordering::Relaxed);
                break;
            }
            if patience.is_zero() {
                stage.find(Kind::Will, format!("{} ({version}): {text:?} is not published", who.client_id));
                break;
            }
            // A deadline that counts only while there is a broker.
            let pause = Duration::from_millis(20);
            tokio::time::sleep(pause).await;
            if stage.now().address.is_some() {
                patience = patience.saturating_sub(pause);
            }
        }
    }
}

/// Whether the broker has accepted the will before the connection was lost.
async fn leave(stage: &Arc<Stage>, who: &Identity, text: &str, delay: Option<u32>, random: &mut Random) -> bool {
    let topic = format!("t/w/{}", who.client_id);
    while let Some(mut line) = Line::open(stage, who.version).await {
        let properties = WillProperties { delay, ..WillProperties::default() };
        let payload = text.as_bytes();
        let will = Will { topic: &topic, payload, qos: QoS::AtLeastOnce, retain: false, properties };
        if line.greet(who, false, Some(will)).await.is_ok() {
            // Or it is the broker that ends first.
            let stays = random.millis(0, 120);
            let _ = tokio::time::timeout(stays, line.next()).await;
            return true;
        }
    }
    false
}

/// Begins sessions, finds them again after a restart, and ends them.
pub async fn wander(stage: Arc<Stage>, index: usize, version: Version) {
    for life in 0.. {
        let client_id = format!("nomad-{index}-{life}");
        let who = identity(client_id, "u6", version);
        let Some(begun) = retried(&stage, &who, begin).await else { return };
        if restarted(&stage, begun).await.is_none() {
            return;
        }
        let Some(found) = retried(&stage, &who, find).await else { return };
        if !found {
            stage.find(Kind::Session, format!("that of {} ({version}) is gone", who.client_id));
        }
        if retried(&stage, &who, end).await.is_none() {
            return;
        }
        stage.counts.sessions_begun.fetch_add(1, Ordering::Relaxed);
    }
}

/// On one connection after the other until it has worked.
async fn retried<T>(
    stage: &Arc<Stage>,
    who: &Identity,
    what: impl AsyncFn(&Arc<Stage>, &mut Line, &Identity) -> Result<T, Lost>,
) -> Option<T> {
    loop {
        let mut line = Line::open(stage, who.version).await?;
        if let Ok(done) = what(stage, &mut line, who).await {
            return Some(done);
        }
    }
}

/// Waits for a start of the broker after this one; nothing when the run ends first.
async fn restarted(stage: &Arc<Stage>, starts: u32) -> Option<()> {
    let mut watch = stage.watch();
    let now = *watch.wait_for(|now| now.starts > starts || now.phase > Phase::Busy).await.ok()?;
    (now.phase == Phase::Busy).then_some(())
}

async fn begin(stage: &Arc<Stage>, line: &mut Line, who: &Identity) -> Result<u32, Lost> {
    line.greet(who, false, None).await?;
    subscribe(line, &format!("t/n/{}", who.client_id));
    line.flush().await?;
    line.answer().await?;
    // Whatever starts later than this has to know the session.
    Ok(stage.now().starts)
}

/// Whether the session is there, with its subscription.
async fn find(stage: &Arc<Stage>, line: &mut Line, who: &Identity) -> Result<bool, Lost> {
    let present = line.greet(who, false, None).await?;
    let topic = format!("t/n/{}", who.client_id);
    line.push(&Packet::Publish(Publish {
        dup: false,
        qos: QoS::AtMostOnce,
        retain: false,
        topic: &topic,
        packet_id: None,
        properties: PublishProperties::default(),
        payload: b"here",
    }));
    line.flush().await?;
    let Ok(came) = tokio::time::timeout(stage.patience, line.next()).await else { return Ok(false) };
    let frame = came?;
    let came = matches!(line.decode(&frame)?, Packet::Publish(publish) if publish.payload == b"here");
    Ok(came && (present || who.version == Version::V31))
}

async fn end(_: &Arc<Stage>, line: &mut Line, who: &Identity) -> Result<(), Lost> {
    line.greet(who, true, None).await?;
    // A clean session of 3.x ends with its connection; in 5.0 it ends where DISCONNECT says so.
    let properties = DisconnectProperties {
        session_expiry: Some(0).filter(|_| who.version == Version::V5),
        ..DisconnectProperties::default()
    };
    line.push(&Packet::Disconnect(Disconnect { code: ReasonCode::SUCCESS, properties }));
    line.flush().await
}
