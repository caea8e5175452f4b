//! WebSocket, byte for byte.

use mqtt_operator::config::broker::Protocol;
use mqtt_operator::config::files::Etc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::wire::{
    self, BINARY, CLOSE, CONNACK, CONNECT, DEADLINE, MQTT, PING, PINGREQ, PINGRESP, PONG, TEXT, add, ask, frame,
    next_frame, request, rest, tcp, upgraded,
};
use crate::support::{Authority, Broker, open};

/// A broker that everybody may use, with a listener `ws` for these pages.
fn broker(origins: &[&str]) -> Broker {
    Broker::with(|config| {
        open(config);
        add(config, Protocol::Ws, "127.0.0.1").allowed_origins = origins.iter().map(ToString::to_string).collect();
    })
}

/// A WebSocket on which CONNECT was answered.
async fn connected(broker: &Broker) -> tokio::net::TcpStream {
    let mut socket = upgraded(tcp(broker.listener("ws")).await).await;
    socket.write_all(&frame(BINARY, CONNECT)).await.unwrap();
    assert_eq!(next_frame(&mut socket).await, (BINARY, CONNACK.to_vec()));
    socket
}

/// 3.1.1 and 5.0 [MQTT-6.0.0-2].
#[tokio::test]
async fn packets_may_be_split_and_joined_across_frames() {
    let broker = broker(&[]);
    let mut socket = upgraded(tcp(broker.listener("ws")).await).await;
    for byte in CONNECT {
        socket.write_all(&frame(BINARY, &[*byte])).await.unwrap();
    }
    assert_eq!(next_frame(&mut socket).await, (BINARY, CONNACK.to_vec()));

    socket.write_all(&frame(BINARY, &[PINGREQ, PINGREQ, &PINGREQ[..1]].concat())).await.unwrap();
    let mut answers = next_frame(&mut socket).await.1;
    while answers.len() < 4 {
        answers.extend(next_frame(&mut socket).await.1);
    }
    assert_eq!(answers, [PINGRESP, PINGRESP].concat());
    // The rest of the third, in a message of three fragments with a ping between them, all in one write.
    let fragments = [frame(0x02, &PINGREQ[1..]), frame(PING, b"between"), frame(0x00, b""), frame(0x80, PINGREQ)];
    socket.write_all(&fragments.concat()).await.unwrap();
    let mut frames = vec![next_frame(&mut socket).await];
    while frames.iter().filter(|(kind, _)| *kind == BINARY).map(|(_, bytes)| bytes.len()).sum::<usize>() < 4 {
        frames.push(next_frame(&mut socket).await);
    }
    assert!(frames.contains(&(PONG, b"between".to_vec())), "{frames:?}");
}

#[tokio::test]
async fn a_frame_that_arrives_together_with_the_request_is_not_lost() {
    let broker = broker(&[]);
    let mut socket = tcp(broker.listener("ws")).await;
    let both = [request("/mqtt", MQTT).into_bytes(), frame(BINARY, CONNECT)].concat();
    socket.write_all(&both).await.unwrap();
    let answer = ask(&mut socket, "").await;
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    assert!(answer.contains("\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{answer}");
    assert!(answer.contains("\r\nSec-WebSocket-Protocol: mqtt\r\n"), "{answer}");
    assert_eq!(next_frame(&mut socket).await, (BINARY, CONNACK.to_vec()));
}

/// 3.1.1 and 5.0 [MQTT-6.0.0-1], and what RFC 6455 forbids.
#[tokio::test]
async fn what_is_no_binary_frame_closes_the_connection_with_its_code_and_no_other() {
    let broker = broker(&[]);
    let mut other = upgraded(tcp(broker.listener("ws")).await).await;
    let another_id = CONNECT.iter().map(|byte| if *byte == b'w' { b'o' } else { *byte }).collect::<Vec<u8>>();
    other.write_all(&frame(BINARY, &another_id)).await.unwrap();
    assert_eq!(next_frame(&mut other).await, (BINARY, CONNACK.to_vec()));
    let unmasked = [&[BINARY, PINGREQ.len() as u8][..], PINGREQ].concat();
    for (bytes, code) in [
        (frame(TEXT, b"text"), 1003_u16),
        (frame(0x01, b"text"), 1003),
        (unmasked, 1002),
        (frame(0xC2, PINGREQ), 1002),
        (frame(0x83, PINGREQ), 1002),
        (frame(0x8F, b""), 1002),
        (frame(0x80, PINGREQ), 1002),
        (frame(PING, &[0; 126]), 1002),
        (frame(0x09, b""), 1002),
    ] {
        for mut socket in [upgraded(tcp(broker.listener("ws")).await).await, connected(&broker).await] {
            socket.write_all(&bytes).await.unwrap();
            assert_eq!(next_frame(&mut socket).await, (CLOSE, code.to_be_bytes().to_vec()), "{bytes:?}");
            assert_eq!(rest(&mut socket).await, b"");
        }
    }
    other.write_all(&frame(BINARY, PINGREQ)).await.unwrap();
    assert_eq!(next_frame(&mut other).await, (BINARY, PINGRESP.to_vec()));
    let metrics = broker.metrics().await;
    let counted = metrics.lines().find(|line| line.contains("violations_total{") && line.contains("MQTT-6.0.0-1"));
    assert!(counted.is_some_and(|line| line.ends_with(" 4")), "{counted:?}");
}

#[tokio::test]
async fn pings_are_answered_and_a_goodbye_is_returned() {
    let broker = broker(&[]);
    let mut socket = connected(&broker).await;
    for payload in [&b""[..], b"x", &[7; 125]] {
        socket.write_all(&frame(PING, payload)).await.unwrap();
        assert_eq!(next_frame(&mut socket).await, (PONG, payload.to_vec()));
    }
    socket.write_all(&frame(PONG, b"unasked")).await.unwrap();
    socket.write_all(&frame(CLOSE, &[&1001_u16.to_be_bytes()[..], b"going away"].concat())).await.unwrap();
    assert_eq!(next_frame(&mut socket).await, (CLOSE, 1001_u16.to_be_bytes().to_vec()));
    assert_eq!(rest(&mut socket).await, b"");
    for (payload, code) in [(&b""[..], 1000_u16), (&[3], 1002), (&1006_u16.to_be_bytes(), 1002)] {
        let mut socket = connected(&broker).await;
        socket.write_all(&frame(CLOSE, payload)).await.unwrap();
        assert_eq!(next_frame(&mut socket).await, (CLOSE, code.to_be_bytes().to_vec()), "{payload:?}");
    }
    // DISCONNECT of MQTT ends the WebSocket as well.
    let mut socket = connected(&broker).await;
    socket.write_all(&frame(BINARY, b"\xE0\0")).await.unwrap();
    assert_eq!(next_frame(&mut socket).await, (CLOSE, 1000_u16.to_be_bytes().to_vec()));
    assert_eq!(rest(&mut socket).await, b"");
}

/// 3.1.1 and 5.0 [MQTT-6.0.0-4]. Clients of 3.1 that offer only the name of before are answered with it.
#[tokio::test]
async fn the_subprotocol_is_mqtt_wherever_it_is_offered() {
    let broker = broker(&[]);
    for (offered, answered) in [
        ("mqtt", "mqtt"),
        ("chat, mqtt", "mqtt"),
        ("mqttv3.1, mqtt", "mqtt"),
        ("mqttv3.1\r\nSec-WebSocket-Protocol: mqtt", "mqtt"),
        ("mqttv3.1", "mqttv3.1"),
    ] {
        let mut socket = tcp(broker.listener("ws")).await;
        let answer = ask(&mut socket, &request("/mqtt", &format!("Sec-WebSocket-Protocol: {offered}\r\n"))).await;
        assert!(answer.contains(&format!("\r\nSec-WebSocket-Protocol: {answered}\r\n")), "{offered}: {answer}");
    }
}

/// 3.1.1 and 5.0 [MQTT-6.0.0-3], and what a browser or a person with curl gets to read.
#[tokio::test]
async fn requests_that_are_not_for_mqtt_are_told_what_is_wrong() {
    let broker = broker(&["https://app.example.com"]);
    let good = request("/mqtt", MQTT);
    let with_origin = |origin: &str| request("/mqtt", &format!("{MQTT}Origin: {origin}\r\n"));
    for (request, status) in [
        (request("/", MQTT), "404 "),
        (request("/mqtt", ""), "400 "),
        (request("/mqtt", "Sec-WebSocket-Protocol: chat\r\n"), "400 "),
        (request("/mqtt", "Sec-WebSocket-Protocol: chat, mqttv3.1\r\n"), "101 "),
        ("GET /mqtt HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(), "426 "),
        (good.replace("GET", "POST"), "405 "),
        (good.replace(": 13", ": 7"), "426 "),
        (good.replace("Host: localhost\r\n", ""), "400 "),
        ("nonsense\r\n\r\n".to_owned(), "400 "),
        (format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(10_000)), "431 "),
        (with_origin("https://app.example.com"), "101 "),
        (with_origin("https://evil.example.com"), "403 "),
        (with_origin("http://app.example.com"), "403 "),
        (with_origin("null"), "403 "),
    ] {
        let mut socket = tcp(broker.listener("ws")).await;
        let answer = ask(&mut socket, &request).await;
        assert_eq!(answer[..13], format!("HTTP/1.1 {status}"), "{request}{answer}");
        if status != "101 " {
            assert!(answer.contains("\r\nConnection: close\r\n"), "{answer}");
            assert!(!rest(&mut socket).await.is_empty(), "a word of explanation");
        }
    }
}

#[tokio::test]
async fn a_browser_page_is_let_in_from_nowhere_by_default_and_from_everywhere_when_asked() {
    for (origins, status) in [(&[][..], "403 "), (&["*"], "101 ")] {
        let broker = broker(origins);
        let request = request("/mqtt", &format!("{MQTT}Origin: http://localhost\r\n"));
        let answer = ask(&mut tcp(broker.listener("ws")).await, &request).await;
        assert_eq!(answer[..13], format!("HTTP/1.1 {status}"));
    }
}

#[tokio::test]
async fn a_frame_of_any_length_is_bounded_by_the_limits_of_mqtt() {
    let broker = broker(&[]);
    // Before CONNECT is whole: 128 KiB, whatever the frame announces.
    let mut socket = upgraded(tcp(broker.listener("ws")).await).await;
    let mut endless = vec![BINARY, 0xFF];
    endless.extend_from_slice(&(1_u64 << 40).to_be_bytes());
    endless.extend_from_slice(&[0; 4]);
    endless.extend_from_slice(b"\x10\x80\x80\x40");
    socket.write_all(&endless).await.unwrap();
    rest(&mut socket).await;
    // After it: the packets of one frame are served as they come, and a packet past the limit closes.
    let mut socket = connected(&broker).await;
    endless.truncate(14);
    endless.extend_from_slice(&PINGREQ.repeat(3));
    socket.write_all(&endless).await.unwrap();
    let mut answers = Vec::new();
    while answers.len() < 6 {
        answers.extend(next_frame(&mut socket).await.1);
    }
    assert_eq!(answers, PINGRESP.repeat(3));
    socket.write_all(b"\x30\xFF\xFF\xFF\x7F").await.unwrap();
    assert_eq!(next_frame(&mut socket).await.0, CLOSE);
}

/// What a full socket holds back leaves without anything further to push it, in whole frames.
#[tokio::test]
async fn large_messages_arrive_whole_at_a_slow_reader() {
    let broker = broker(&[]);
    let mut socket = connected(&broker).await;
    socket.write_all(&frame(BINARY, wire::SUBSCRIBE)).await.unwrap();
    assert_eq!(next_frame(&mut socket).await, (BINARY, wire::SUBACK.to_vec()));
    let expected = wire::flood(&broker).await;
    socket.write_all(&frame(PING, b"still there?")).await.unwrap();
    let (mut got, mut pongs) = (0, 0);
    while got < expected || pongs == 0 {
        match next_frame(&mut socket).await {
            (BINARY, bytes) => got += bytes.len(),
            (PONG, bytes) if bytes == b"still there?" => pongs += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(got, expected);
}

#[tokio::test]
async fn websocket_over_tls_shows_the_certificate_and_asks_for_the_clients() {
    let (authority, stranger) = (Authority::new("ours"), Authority::new("stranger"));
    let change = |config: &mut _| {
        open(config);
        add(config, Protocol::Wss, "127.0.0.1").client_certificates =
            mqtt_operator::config::broker::ClientCertificates::Required;
    };
    let broker = Broker::with_files(change, |etc: &Etc| {
        authority.server().write(etc.certificate("wss").parent().unwrap());
        let ca = etc.client_ca("wss");
        std::fs::create_dir_all(ca.parent().unwrap()).unwrap();
        std::fs::write(ca, authority.pem()).unwrap();
    });
    let address = broker.listener("wss");
    let own = authority.client("page");
    let mut socket = upgraded(wire::tls(address, &authority.pem(), Some(&own)).await.unwrap()).await;
    let connect = b"\x10\x20\0\x04MQTT\x04\xC2\0\x3c\0\x01w\0\x02u1\0\x0dcorrect horse";
    socket.write_all(&frame(BINARY, connect)).await.unwrap();
    assert_eq!(next_frame(&mut socket).await, (BINARY, CONNACK.to_vec()));

    for pair in [None, Some(stranger.client("page"))] {
        // In TLS 1.3 the client hears of it when it first reads.
        if let Ok(mut socket) = wire::tls(address, &authority.pem(), pair.as_ref()).await {
            let _ = socket.write_all(request("/mqtt", MQTT).as_bytes()).await;
            let mut answer = Vec::new();
            let read = tokio::time::timeout(DEADLINE, socket.read_to_end(&mut answer)).await.expect("an end in time");
            assert!(read.is_err() && answer.is_empty(), "{answer:?}");
        }
    }
}
