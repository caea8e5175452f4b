//! What a CONNECT costs the broker as a whole, over a socket, and what many rules cost the way of a publication.
//!
//! `cargo bench --bench connect` starts our broker, and mosquitto beside it, on one core, loads them from another, and
//! prints CPU time of the broker's process, as the kernel counts it. `-- --rounds 3` for fewer rounds, `-- --connects 500`
//! for fewer connections in each, `-- --write` to write the tables into docs/benchmarks.md. Needs Linux, `mosquitto` and
//! `taskset`, and a machine that does nothing else.

// A benchmark that cannot go on has nothing better to do than to say so.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use mqtt_operator::auth::issuer::file_stem;
use mqtt_operator::auth::key::{Algorithm, PrivateKey, PrivateKeys, generate};
use mqtt_operator::auth::password;
use mqtt_operator::auth::token::{Claims, issue};
use mqtt_operator::mqtt::packet::{Connect, Packet};
use mqtt_operator::mqtt::property::ConnectProperties;
use mqtt_operator::mqtt::{Version, codec};
use serde_json::{Value, json};

/// Connections of one run, each with a token of its own; fewer than a broker remembers for sure.
const CONNECTS: usize = 4_000;
/// Connections that are under way at a time.
const AT_ONCE: usize = 16;
const BROKER_CORE: &str = "0";
const LOADER_CORE: &str = "1";
const ISSUER: &str = "https://idp.example";
const PASSWORD: &str = "a password of usual length";
/// What the topics of publications begin with, and all rules.
const PREFIX: &str = "sensors/floor";
const ACL: &str = r#"[
    {"permission":"allow","action":"publish","topic":"sensor/${clientid}/#","qos":[0,1],"retain":false},
    {"permission":"allow","action":"subscribe","topic":"cmd/${clientid}/#"}]"#;

fn base64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn now() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs()
}

fn claims(issuer: &str, n: usize) -> Claims {
    Claims {
        iss: issuer.into(),
        aud: "bench".into(),
        sub: format!("device-{n}"),
        iat: now(),
        exp: now() + 3600,
        jti: Some(format!("token-{n}")),
        acl: serde_json::from_str(ACL).unwrap(),
        ..Claims::default()
    }
}

fn sign_rsa(key: &KeyPair, n: usize) -> String {
    let header = json!({"alg": "RS256", "typ": "JWT", "kid": "rsa"}).to_string();
    let payload = serde_json::to_string(&claims(ISSUER, n).to_object()).unwrap();
    let message = format!("{}.{}", base64(header), base64(payload));
    let mut signature = vec![0; key.public_modulus_len()];
    key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message.as_bytes(), &mut signature).unwrap();
    format!("{message}.{}", base64(signature))
}

/// The keys that sign, for as long as the benchmark runs.
struct Keys {
    own: PrivateKey,
    rsa: KeyPair,
}

impl Keys {
    fn issuer_document(&self) -> String {
        let public = self.rsa.public_key();
        let (n, e) = (public.modulus(), public.exponent());
        let (n, e) = (n.big_endian_without_leading_zero(), e.big_endian_without_leading_zero());
        json!({"keys": [{"kty": "RSA", "kid": "rsa", "n": base64(n), "e": base64(e)}]}).to_string()
    }
}

/// A program under measurement; gone when it is dropped.
struct Program {
    child: Child,
    address: SocketAddr,
    _directory: tempfile::TempDir,
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Program {
    fn start(mut command: Command, directory: tempfile::TempDir, port: u16) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let began = Instant::now();
        while TcpStream::connect(address).is_err() {
            assert!(child.try_wait().unwrap().is_none(), "{command:?} has ended");
            assert!(began.elapsed() < Duration::from_mins(1), "{command:?} does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Self { child, address, _directory: directory }
    }

    /// User and system time of the process, in seconds.
    fn cpu(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields = stat[stat.rfind(')').unwrap() + 1..].split_ascii_whitespace().skip(11).take(2);
        fields.map(|ticks| ticks.parse::<f64>().unwrap() / 100.0).sum()
    }

    /// CPU µs for each CONNECT, from this address of the loopback network: each run has ports of its own.
    fn connects(&self, from: Ipv4Addr, connects: &[Vec<u8>]) -> f64 {
        let before = self.cpu();
        for some in connects.chunks(AT_ONCE) {
            let open = |connect: &Vec<u8>| {
                let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
                socket.bind(&SocketAddr::from((from, 0)).into()).unwrap();
                socket.connect(&self.address.into()).unwrap();
                let mut stream = TcpStream::from(socket);
                stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
                stream.write_all(connect).unwrap();
                stream
            };
            let mut streams: Vec<TcpStream> = some.iter().map(open).collect();
            for stream in &mut streams {
                let mut answer = [0; 4];
                stream.read_exact(&mut answer).unwrap();
                assert_eq!(answer, [0x20, 2, 0, 0], "CONNACK");
                stream.write_all(&[0xE0, 0]).unwrap();
                stream.shutdown(Shutdown::Write).unwrap();
            }
            for mut stream in streams {
                let _ = stream.read(&mut [0]);
            }
        }
        (self.cpu() - before) * 1e6 / connects.len() as f64
    }
}

fn pinned(program: impl AsRef<Path>) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", BROKER_CORE]).arg(program.as_ref());
    command
}

fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

/// Ours as it is shipped, but for the limit on the rate of connections; nothing is written to disk.
fn ours(keys: &Keys, hash: &str) -> Program {
    let directory = tempfile::tempdir().unwrap();
    let port = free_port();
    let rules = |count: usize| {
        let mut rules: Vec<Value> = (1..count)
            .map(|n| json!({"permission": "allow", "action": "publish", "topic": format!("{PREFIX}/room{n}/+")}))
            .collect();
        rules.push(json!({"permission": "allow", "action": "all", "topic": format!("{PREFIX}/#")}));
        rules
    };
    let issuer = json!({
        "issuer": ISSUER, "audiences": ["bench"], "keys": "document", "algorithms": ["RS256"], "aclClaim": "acl",
        "maxTokenTtl": 86_400,
    });
    let config = json!({
        "format": 1, "namespace": "bench", "name": "bench", "admin": "127.0.0.1:0",
        "listeners": [{"name": "mqtt", "protocol": "mqtt", "address": "127.0.0.1", "port": port}],
        "limits": {"connectRate": null},
        "auth": {
            "jwt": {"issuer": "bench", "audience": "bench", "maxTokenTtl": 86_400, "aclClaim": "acl"},
            "issuers": [issuer],
            "users": [{"name": "u", "acl": []}],
            "groups": [{"name": "one", "acl": rules(1)}, {"name": "hundred", "acl": rules(100)}],
        },
    });
    let etc = directory.path();
    let public = PrivateKeys { keys: vec![keys.own.clone()] }.public();
    for (name, text) in [
        ("config/broker.json".to_owned(), config.to_string()),
        ("jwks/jwks.json".to_owned(), public),
        (format!("jwks/{}.json", file_stem(ISSUER)), keys.issuer_document()),
        ("users/users.json".to_owned(), json!({"format": 1, "users": [{"name": "u", "hash": hash}]}).to_string()),
    ] {
        let path = etc.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let mut command = pinned(env!("CARGO_BIN_EXE_mqtt-broker"));
    command.arg("--etc").arg(etc).arg("--state").arg(etc.join("state"));
    Program::start(command, directory, port)
}

/// Mosquitto with the settings of its package, and a file of passwords.
fn mosquitto() -> Program {
    let directory = tempfile::tempdir().unwrap();
    let port = free_port();
    let passwords = directory.path().join("passwords");
    let made = Command::new("mosquitto_passwd").args(["-c", "-b"]).arg(&passwords).args(["u", PASSWORD]).status();
    assert!(made.expect("mosquitto_passwd: apt-get install mosquitto").success());
    let mut text = format!("listener {port} 127.0.0.1\nallow_anonymous false\npersistence false\nlog_type none\n");
    writeln!(text, "password_file {}\nuser root", passwords.display()).unwrap();
    let file = directory.path().join("mosquitto.conf");
    std::fs::write(&file, text).unwrap();
    let found = ["/usr/sbin/mosquitto", "/usr/local/sbin/mosquitto"].iter().map(PathBuf::from).find(|it| it.exists());
    let mut command = pinned(found.unwrap_or_else(|| "mosquitto".into()));
    command.arg("-c").arg(&file);
    Program::start(command, directory, port)
}

/// CONNECTs of 3.1.1 with these passwords.
fn connects(of: impl Iterator<Item = (String, String, String)>) -> Vec<Vec<u8>> {
    let connect = |(client_id, username, password): (String, String, String)| {
        let mut bytes = Vec::new();
        let packet = Connect {
            version: Version::V311,
            clean_start: true,
            keep_alive: 60,
            client_id: &client_id,
            username: Some(&username),
            password: Some(password.as_bytes()),
            will: None,
            properties: ConnectProperties::default(),
        };
        codec::encode(&Packet::Connect(Box::new(packet)), Version::V311, &mut bytes);
        bytes
    };
    of.map(connect).collect()
}

/// What came of all rounds, in the order in which it was measured first.
#[derive(Default)]
struct Figures(Vec<(&'static str, Vec<f64>)>);

impl Figures {
    fn add(&mut self, what: &'static str, figure: f64) {
        eprintln!("{what:<55} {figure:8.3}");
        match self.0.iter_mut().find(|(name, _)| *name == what) {
            Some((_, figures)) => figures.push(figure),
            None => self.0.push((what, vec![figure])),
        }
    }

    /// The median, the lowest and the highest.
    fn row(&self, what: &str, digits: usize) -> String {
        let (_, figures) = self.0.iter().find(|(name, _)| *name == what).unwrap();
        let mut sorted = figures.clone();
        sorted.sort_by(f64::total_cmp);
        let (middle, low, high) = (sorted[sorted.len() / 2], sorted[0], sorted[sorted.len() - 1]);
        format!("{middle:.digits$} ({low:.digits$}–{high:.digits$})")
    }
}

fn measure_connects(figures: &mut Figures, keys: &Keys, hash: &str, round: u8, count: usize) {
    let device = |n: usize| (format!("client-{n}"), format!("device-{n}"));
    let with = |sign: &dyn Fn(usize) -> String| {
        connects((0..count).map(|n| {
            let (client_id, username) = device(n);
            (client_id, username, sign(n))
        }))
    };
    let rsa = with(&|n| sign_rsa(&keys.rsa, n));
    let own = with(&|n| issue(&keys.own, &claims("bench", n)));
    let password = connects((0..count).map(|n| (format!("client-{n}"), "u".to_owned(), PASSWORD.to_owned())));
    let from = |run: u8| Ipv4Addr::new(127, 1, round, run);
    let broker = ours(keys, hash);
    figures.add("RS256 token, new", broker.connects(from(1), &rsa));
    figures.add("RS256 token, seen before", broker.connects(from(2), &rsa));
    drop(broker);
    let broker = ours(keys, hash);
    figures.add("EdDSA token, new", broker.connects(from(3), &own));
    figures.add("EdDSA token, seen before", broker.connects(from(4), &own));
    // The first one costs the hash, which is meant to be dear; the others are found again.
    broker.connects(from(5), &password[..1]);
    figures.add("password", broker.connects(from(6), &password[1..]));
    drop(broker);
    let broker = mosquitto();
    broker.connects(from(7), &password[..1]);
    figures.add("mosquitto, password", broker.connects(from(8), &password[1..]));
}

/// CPU µs of the broker for each message of a publisher that so many rules concern.
fn publications(broker: &Program, keys: &Keys, group: &str, topics: &str) -> f64 {
    let claims = Claims { groups: vec![group.to_owned()], acl: Vec::new(), ..claims("bench", 0) };
    let token = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(token.path(), issue(&keys.own, &claims)).unwrap();
    let mut command = Command::new("taskset");
    command.args(["-c", LOADER_CORE, env!("CARGO_BIN_EXE_mqttctl"), "bench", "pairs", "--threads", "1", "--quiet"]);
    command.args(["--duration", "3", "--output", "json", "--prefix", PREFIX, "--topics", topics, "--token-file"]);
    command.arg(token.path()).args([
        "--port",
        &broker.address.port().to_string(),
        "--pid",
        &broker.child.id().to_string(),
    ]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["lost"], &report["duplicates"]), (&json!(0), &json!(0)), "{report}");
    report["broker"]["cpu_per_delivery"].as_f64().unwrap()
}

const PUBLICATIONS: [(&str, [&str; 3]); 2] = [
    ("1", ["one topic, 1 rule", "one topic, 100 rules", "one topic, share in %"]),
    ("1000", ["1,000 topics in turn, 1 rule", "1,000 topics in turn, 100 rules", "1,000 topics in turn, share in %"]),
];

fn measure_publications(figures: &mut Figures, keys: &Keys, hash: &str) {
    for (topics, [one, hundred, share]) in PUBLICATIONS {
        let cost = |group: &str| publications(&ours(keys, hash), keys, group, topics);
        let (few, many) = (cost("one"), cost("hundred"));
        figures.add(one, few);
        figures.add(hundred, many);
        figures.add(share, (many - few) / many * 100.0);
    }
}

fn report(figures: &Figures, rounds: u8, count: usize) -> String {
    let text = |command: &mut Command| {
        let output = command.output().ok().map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
        output.filter(|text| !text.is_empty()).unwrap_or_else(|| "unknown".to_owned())
    };
    let commit = text(Command::new("git").args(["describe", "--always", "--dirty"]));
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map_or("", |it| it.1);
    let day = text(Command::new("date").args(["-u", "+%Y-%m-%d"]));
    let mut out = format!(
        "{day}, commit {commit}; {model}. {rounds} rounds of {count} connections, {AT_ONCE} at a time; median \
         (lowest–highest).\n\n| CONNECT with | CPU µs |\n|---|---|\n"
    );
    let ours =
        ["RS256 token, new", "RS256 token, seen before", "EdDSA token, new", "EdDSA token, seen before", "password"];
    for what in ours.into_iter().chain(["mosquitto, password"]) {
        writeln!(out, "| {what} | {} |", figures.row(what, 1)).unwrap();
    }
    out.push_str("\n| 1→1 QoS 0 | 1 rule: CPU µs | 100 rules: CPU µs | share of 100 rules, % |\n|---|---|---|---|\n");
    for (_, [one, hundred, share]) in PUBLICATIONS {
        let name = one.split_once(", 1 rule").unwrap().0;
        let cells = [figures.row(one, 3), figures.row(hundred, 3), figures.row(share, 1)];
        writeln!(out, "| {name} | {} |", cells.join(" | ")).unwrap();
    }
    out
}

/// Puts the report between its marks.
fn write_page(text: &str) {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/benchmarks.md");
    let (begin, end) = ("<!-- connect -->", "<!-- end of connect -->");
    let before = std::fs::read_to_string(&page).unwrap();
    let (head, rest) = before.split_once(begin).unwrap();
    let (_, tail) = rest.split_once(end).unwrap();
    std::fs::write(&page, format!("{head}{begin}\n\n{text}\n{end}{tail}")).unwrap();
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let number = |flag: &str, otherwise: usize| {
        arguments.iter().position(|it| it == flag).map_or(otherwise, |at| arguments[at + 1].parse().unwrap())
    };
    let (rounds, count) = (number("--rounds", 5) as u8, number("--connects", CONNECTS));
    let pinned =
        Command::new("taskset").args(["-a", "-c", "-p", LOADER_CORE, &std::process::id().to_string()]).output();
    assert!(pinned.expect("taskset: apt-get install util-linux").status.success(), "two cores are needed");
    let keys =
        Keys { own: generate(Algorithm::EdDsa, &[5; 48]).unwrap(), rsa: KeyPair::generate(KeySize::Rsa2048).unwrap() };
    let hash = password::hash(PASSWORD.as_bytes(), [7; 16]).unwrap();
    let mut figures = Figures::default();
    for round in 0..rounds {
        eprintln!("round {}", round + 1);
        measure_connects(&mut figures, &keys, &hash, round, count);
        measure_publications(&mut figures, &keys, &hash);
    }
    let text = report(&figures, rounds, count);
    println!("{text}");
    if arguments.iter().any(|it| it == "--write") {
        write_page(&text);
    }
}
