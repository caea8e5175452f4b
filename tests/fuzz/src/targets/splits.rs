//! A connection under any splits: what the broker answers does not depend on how the bytes came.
//!
//! Two brokers get the same bytes, one in a single piece and the other in many, and so have the same history. Compared is
//! every answer that does not depend on when the subscriber of a publication was served: all but PUBLISH and PUBREL.

use std::cell::RefCell;

use mqtt_operator::mqtt::codec::{decode_from_server, packet_length};
use mqtt_operator::mqtt::packet::{Packet, Version};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::broker::Broker;
use super::decoder::VERSIONS;
use super::packets::{self, Source};
use super::world::{self, World};

thread_local! {
    static WORLD: RefCell<Option<World<(Broker, Broker)>>> = const { RefCell::new(None) };
}

/// The first bytes choose version, capacity, splits and whether legal packets follow; the rest are what a client sends.
pub fn run(input: &[u8]) {
    let mut source = Source(input);
    let version = VERSIONS[usize::from(source.u8() % 3)];
    let (mode, step) = (source.u8(), usize::from(source.u8() % 40) + 1);
    let splits = source.data();
    let stream = stream(&mut source, version, mode);
    world::visit(
        &WORLD,
        async || (Broker::start(), Broker::start()),
        async |(whole, split)| {
            let one = answers(whole, version, &stream, |_| usize::MAX).await;
            let steps = |at: usize| splits.get(at).map_or(step, |byte| usize::from(*byte) % 64 + 1);
            let many = answers(split, version, &stream, steps).await;
            assert_eq!(one, many, "in pieces from {splits:?} and then of {step}, to {version}");
        },
    );
}

/// CONNECT, then packets or bytes.
fn stream(source: &mut Source<'_>, version: Version, mode: u8) -> Vec<u8> {
    if mode & 1 == 1 {
        return source.0.to_vec();
    }
    let mut stream = world::greeting("u1", "split", version);
    if mode & 2 == 2 {
        stream.extend_from_slice(source.0);
        return stream;
    }
    while !source.is_empty() {
        mqtt_operator::mqtt::codec::encode(&packets::packet(source, version), version, &mut stream);
    }
    stream
}

/// What the broker answers to `stream`, in a form that can be compared.
async fn answers(broker: &Broker, version: Version, stream: &[u8], steps: impl Fn(usize) -> usize) -> Vec<String> {
    // Wide enough for all answers: they are not read before everything is sent.
    let mut socket = broker.connect(1 << 20);
    let (mut rest, mut at) = (stream, 0);
    while !rest.is_empty() {
        let (piece, later) = rest.split_at(steps(at).min(rest.len()));
        if socket.write_all(piece).await.is_err() {
            break;
        }
        world::breathe(3).await;
        (rest, at) = (later, at + 1);
    }
    // Everything before it has been handled when this is answered; a connection that has ended answers nothing.
    let _ = socket.shutdown().await;
    let mut read = Vec::new();
    let _ = socket.read_to_end(&mut read).await;
    drop(socket);
    broker.alone(0).await;
    let mut answers = Vec::new();
    let mut rest = &read[..];
    // A client that sent no CONNECT of its own says in it which version it speaks.
    let version = mqtt_operator::mqtt::codec::connect_version(stream).unwrap_or(version);
    while let Ok(Some(length)) = packet_length(rest, u32::MAX)
        && let Some(frame) = rest.get(..length)
    {
        rest = &rest[length..];
        match decode_from_server(frame, version) {
            Ok(Packet::Publish(_) | Packet::PubRel(_)) => {}
            Ok(Packet::ConnAck(mut connack)) => {
                // The broker makes one up.
                connack.properties.assigned_client_id = connack.properties.assigned_client_id.map(|_| "assigned");
                answers.push(format!("{connack:?}"));
            }
            other => answers.push(format!("{other:?}")),
        }
    }
    answers
}
