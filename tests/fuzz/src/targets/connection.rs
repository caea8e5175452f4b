//! Whole connections on sockets in memory: whatever some clients send, another beside them is served.

use std::cell::RefCell;

use mqtt_operator::mqtt::codec::encode;
use mqtt_operator::mqtt::packet::{Packet, PacketId, Publish, QoS, Subscribe, SubscriptionOptions, Version};
use mqtt_operator::mqtt::property::{PublishProperties, SubscribeProperties};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::broker::{Broker, PASSWORD};
use super::decoder::VERSIONS;
use super::packets::{self, Source};
use super::world::{self, Speaker, World};

/// Connections that one input opens.
const CLIENTS: usize = 4;
/// What the healthy client publishes to, and what no filter of the others that is not a wildcard names.
const TOPIC: &str = "t/healthy";

struct Kept {
    broker: Broker,
    healthy: Speaker,
    round: u32,
}

thread_local! {
    static WORLD: RefCell<Option<World<Kept>>> = const { RefCell::new(None) };
}

/// The bytes choose what up to four clients do, in turns: connect, send packets or bytes, read, go away.
pub fn run(input: &[u8]) {
    world::visit(&WORLD, make, async |kept| {
        let mut source = Source(input);
        let mut clients: [Option<(DuplexStream, Version)>; CLIENTS] = [const { None }; CLIENTS];
        while !source.is_empty() {
            let choice = source.u8();
            let client = &mut clients[usize::from(choice) % CLIENTS];
            match client {
                None => *client = Some(arrive(&kept.broker, &mut source).await),
                Some((socket, version)) => {
                    if act(choice >> 2, socket, *version, &mut source).await {
                        *client = None;
                    }
                }
            }
            world::breathe(2).await;
        }
        serve_healthy(kept).await;
        drop(clients);
        kept.broker.alone(1).await;
        // What went with them, wills for example, has not hurt anyone either.
        serve_healthy(kept).await;
    });
}

async fn make() -> Kept {
    let broker = Broker::start();
    let version = Version::V5;
    let mut healthy = Speaker::new(broker.connect(1 << 16), version);
    healthy.send_bytes(&world::greeting("u0", "healthy", version)).await.expect("the broker listens");
    let options = SubscriptionOptions { qos: QoS::ExactlyOnce, ..SubscriptionOptions::default() };
    let (packet_id, properties) = (PacketId::MIN, SubscribeProperties::default());
    healthy.send(&Packet::Subscribe(Subscribe { packet_id, properties, filters: vec![(TOPIC, options)] })).await;
    healthy.read_until(|packet| matches!(packet, Packet::SubAck(_))).await;
    Kept { broker, healthy, round: 0 }
}

/// It publishes at QoS 1, gets its acknowledgement and the message.
async fn serve_healthy(kept: &mut Kept) {
    kept.round += 1;
    let payload = kept.round.to_string();
    let publish = Publish {
        dup: false,
        qos: QoS::AtMostOnce,
        retain: false,
        topic: TOPIC,
        packet_id: None,
        properties: PublishProperties::default(),
        payload: payload.as_bytes(),
    };
    kept.healthy.send(&Packet::Publish(publish.clone())).await;
    let packet_id = PacketId::new(2);
    kept.healthy.send(&Packet::Publish(Publish { qos: QoS::AtLeastOnce, packet_id, ..publish })).await;
    let (mut copies, mut acknowledged, mut owed) = (0, false, Vec::new());
    kept.healthy
        .read_until(|packet| {
            match packet {
                Packet::PubAck(ack) => acknowledged |= Some(ack.packet_id) == packet_id,
                Packet::Publish(publish) if publish.payload == payload.as_bytes() => {
                    copies += 1;
                    owed.extend(publish.packet_id);
                }
                Packet::Publish(publish) => owed.extend(publish.packet_id),
                other => panic!("{other:?}"),
            }
            copies == 2 && acknowledged
        })
        .await;
    for id in owed {
        let (code, properties) = (mqtt_operator::mqtt::ReasonCode::SUCCESS, Default::default());
        kept.healthy.send(&Packet::PubAck(mqtt_operator::mqtt::packet::Ack { packet_id: id, code, properties })).await;
    }
}

/// A new client: one that is let in, or one that says whatever it likes.
async fn arrive(broker: &Broker, source: &mut Source<'_>) -> (DuplexStream, Version) {
    let choice = source.u8();
    let version = VERSIONS[usize::from(choice % 3)];
    let capacity = [16, 256, 4096, 1 << 16][usize::from(choice >> 2) % 4];
    let mut socket = broker.connect(capacity);
    let mut greeting = Vec::new();
    if choice & 0x80 == 0 {
        let mut connect = packets::connect(source, version);
        let names = ["u1", "u2", "u3"];
        if choice & 0x40 == 0 {
            connect.username = Some(names[usize::from(source.u8()) % 3]);
            connect.password = Some(PASSWORD);
            connect.properties.authentication_method = None;
            connect.properties.authentication_data = None;
        }
        encode(&Packet::Connect(Box::new(connect)), version, &mut greeting);
    } else {
        greeting.extend_from_slice(source.data());
    }
    push(&mut socket, &greeting).await;
    (socket, version)
}

/// Answers whether the client is gone.
async fn act(choice: u8, socket: &mut DuplexStream, version: Version, source: &mut Source<'_>) -> bool {
    match choice % 8 {
        0 => return true,
        1 => push(socket, source.data()).await,
        2 => {
            let mut buffer = vec![0; usize::from(source.u8()) * 16 + 1];
            tokio::select! {
                biased;
                read = socket.read(&mut buffer) => return matches!(read, Ok(0) | Err(_)),
                () = world::breathe(2) => {}
            }
        }
        3 => {
            let _ = socket.shutdown().await;
        }
        _ => {
            let mut packet = Vec::new();
            encode(&packets::packet(source, version), version, &mut packet);
            push(socket, &packet).await;
        }
    }
    false
}

/// Sends what the socket takes; the rest is lost, as it is with a connection that breaks.
async fn push(socket: &mut DuplexStream, bytes: &[u8]) {
    tokio::select! {
        biased;
        _ = socket.write_all(bytes) => {}
        () = world::breathe(50) => {}
    }
}
