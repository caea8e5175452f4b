//! mosquitto_pub and mosquitto_sub, as people type them.

use std::fmt::Write as _;
use std::process::Command;

use mqtt_operator::config::broker::{Listener, Protocol};

use crate::support::{Authority, Broker, mosquitto_client, wait_until};
use crate::up::running::{SOON, Watched, run, succeed};

const VERSIONS: [&str; 3] = ["mqttv31", "mqttv311", "mqttv5"];

/// One of the two, connecting as `u1` with its password.
struct Client<'a> {
    broker: &'a Broker,
    version: &'a str,
}

impl Client<'_> {
    fn command(&self, name: &str, line: &str) -> Command {
        let address = self.broker.address();
        let (host, port) = address.rsplit_once(':').unwrap();
        let mut command = mosquitto_client(name);
        command.args(["-h", host, "-p", port, "-V", self.version, "-u", "u1", "-P", "correct horse"]);
        command.args(line.split(' '));
        command
    }

    /// `mosquitto_sub`, once it is subscribed.
    fn listen(&self, line: &str) -> Watched {
        let mut command = Command::new("stdbuf");
        let program = self.command("mosquitto_sub", line);
        command.arg("-oL").arg(program.get_program()).args(program.get_args()).arg("-d");
        let listener = Watched::spawn(command);
        listener.line_with("Subscribed");
        listener
    }

    fn publish(&self, line: &str) {
        succeed(self.command("mosquitto_pub", line));
    }
}

fn in_each_version(test: impl Fn(&Client<'_>) + Sync) {
    let broker = Broker::start();
    std::thread::scope(|scope| {
        for version in VERSIONS {
            let client = Client { broker: &broker, version };
            let test = &test;
            scope.spawn(move || test(&client));
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn mosquitto_delivers_the_lower_of_both_qualities() {
    in_each_version(|client| {
        let version = client.version;
        for granted in 0..3 {
            let topic = format!("t/{version}/{granted}");
            let listener = client.listen(&format!("-t {topic} -q {granted} -F quality=%q"));
            for published in 0..3 {
                client.publish(&format!("-t {topic} -q {published} -m x"));
                let came = || listener.lines().iter().filter(|line| line.starts_with("quality=")).count();
                wait_until(SOON, "message", || if came() > published { Ok(()) } else { Err(listener.lines()) });
            }
            let lines = (0..3).map(|quality| listener.count(&format!("quality={quality}")));
            let expected: [usize; 3] = [[3, 0, 0], [1, 2, 0], [1, 1, 1]][granted];
            assert!(lines.eq(expected), "{version} {granted}: {:?}", listener.lines());
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn mosquitto_gets_what_is_retained_until_it_is_cleared() {
    in_each_version(|client| {
        let topic = format!("t/{}/retained", client.version);
        client.publish(&format!("-t {topic} -q 1 -r -m kept"));
        let seen = succeed(client.command("mosquitto_sub", &format!("-t {topic} -C 1 -W 20 -F %r:%p")));
        assert_eq!(seen, "1:kept\n", "{}", client.version);
        client.publish(&format!("-t {topic} -q 1 -r -n"));
        let listener = client.listen(&format!("-t {topic} -F %r:%p"));
        client.publish(&format!("-t {topic} -q 1 -m live"));
        listener.line_with("0:live");
        assert_eq!(listener.count("1:kept"), 0, "{}", client.version);
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn the_will_of_a_killed_mosquitto_sub_is_published() {
    in_each_version(|client| {
        let topic = format!("t/{}/will", client.version);
        let heir = client.listen(&format!("-t {topic} -q 1"));
        let victim = client.listen(&format!("-t t/none --will-topic {topic} --will-payload gone --will-qos 1"));
        // Dropping it is SIGKILL: no DISCONNECT leaves.
        drop(victim);
        heir.line_with("gone");
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mosquitto_session_keeps_a_thousand_messages_in_order_while_it_is_away() {
    in_each_version(|client| {
        let version = client.version;
        // mosquitto_sub of version 5 asks for a session that outlives the connection only when told so.
        let lasting = if version == "mqttv5" { " -x 300" } else { "" };
        let session = format!("-i away-{version} -c -t t/{version}/away -q 1{lasting}");
        // -E: subscribes and leaves.
        succeed(client.command("mosquitto_sub", &format!("{session} -E")));
        let mut sent = String::new();
        (0..1000).for_each(|number| writeln!(sent, "{number}").unwrap());
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &sent).unwrap();
        let mut publisher = client.command("mosquitto_pub", &format!("-t t/{version}/away -q 1 -l"));
        let published = publisher.stdin(file.reopen().unwrap()).output().unwrap();
        assert!(published.status.success(), "{version}: {published:?}");
        let seen = succeed(client.command("mosquitto_sub", &format!("{session} -C 1000 -W 20")));
        assert_eq!(seen, sent, "{version}");
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn mosquitto_sends_a_large_file_both_ways_on_every_quality() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let payload: Vec<u8> = (0..1000 * 1000_u32).map(|index| (index * 31 + (index >> 8)) as u8).collect();
    std::fs::write(file.path(), &payload).unwrap();
    in_each_version(|client| {
        for quality in 0..3 {
            let topic = format!("t/{}/large{quality}", client.version);
            let directory = tempfile::tempdir().unwrap();
            let got = directory.path().join("got");
            let line = format!("exec \"$@\" >{}", got.display());
            let listening = client.command("mosquitto_sub", &format!("-t {topic} -q {quality} -C 1 -W 20 -N"));
            let mut listener = Command::new("sh");
            listener.args(["-c", &line, "sh"]).arg(listening.get_program()).args(listening.get_args());
            let mut listener = listener.spawn().unwrap();
            // It is told before it listens, so that nothing is missed.
            client.publish(&format!("-t {topic} -q {quality} -r -f {}", file.path().display()));
            assert!(listener.wait().unwrap().success(), "{} {quality}", client.version);
            assert!(std::fs::read(&got).unwrap() == payload, "{} {quality}", client.version);
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn mosquitto_exits_with_the_code_of_its_refusal() {
    let broker = Broker::start();
    for (version, code, words) in [
        ("mqttv31", 4, "bad user name or password"),
        ("mqttv311", 4, "bad user name or password"),
        ("mqttv5", 0x86, "Bad User Name or Password"),
    ] {
        let client = Client { broker: &broker, version };
        let (found, _, stderr) = run(client.command("mosquitto_pub", "-P wrong -t t/a -m x"));
        assert_eq!(found, Some(code), "{version}: {stderr}");
        assert!(stderr.to_lowercase().contains(&words.to_lowercase()), "{version}: {stderr}");
        let mut with_token = client.command("mosquitto_pub", "-q 1 -t t/a -m x");
        with_token.args(["-P", &super::token()]);
        succeed(with_token);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mosquitto_subs_of_one_group_share_and_see_properties() {
    in_each_version(|client| {
        let version = client.version;
        let format = if version == "mqttv5" { " -F %P:%C:%p" } else { " -F ::%p" };
        let line = format!("-t $share/g/t/{version}/shared -q 1{format}");
        let members = [client.listen(&line), client.listen(&line)];
        let properties = if version == "mqttv5" {
            " -D publish user-property unit celsius -D publish content-type text/plain"
        } else {
            ""
        };
        let start = if version == "mqttv5" { "unit:celsius:text/plain:" } else { "::" };
        for number in 0..20 {
            client.publish(&format!("-t t/{version}/shared -q 1 -m {number}{properties}"));
        }
        let lines = || -> Vec<usize> {
            let lines = members.each_ref().map(Watched::lines);
            let mine = lines.each_ref().map(|lines| lines.iter().filter(|line| line.starts_with(start)).count());
            mine.to_vec()
        };
        wait_until(SOON, "20 messages", || match lines() {
            counts if counts.iter().sum::<usize>() >= 20 => Ok(()),
            counts => Err((counts, members.each_ref().map(Watched::lines))),
        });
        assert!(lines().iter().all(|&count| count > 0), "{version}: {:?}", lines());
        for number in 0..20 {
            let copies: usize = members.iter().map(|member| member.count(&format!("{start}{number}"))).sum();
            assert_eq!(copies, 1, "{version} {number}");
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn mosquitto_connects_with_tls_where_it_trusts_the_authority() {
    let (authority, stranger) = (Authority::new("interop"), Authority::new("stranger"));
    let broker = Broker::with_files(
        |config| config.listeners.push(Listener::new("mqtts", Protocol::Mqtts, ([127, 0, 0, 1], 0).into())),
        |etc| authority.server().write(etc.certificate("mqtts").parent().unwrap()),
    );
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, authority: &Authority| {
        let path = directory.path().join(name);
        std::fs::write(&path, authority.pem()).unwrap();
        path.display().to_string()
    };
    let (known, unknown) = (file("known.pem", &authority), file("unknown.pem", &stranger));
    let port = broker.listener("mqtts").port();
    for version in VERSIONS {
        let line = |ca: &str| {
            let tls = ["-h", "127.0.0.1", "-p", &port.to_string(), "-V", version, "--cafile", ca].map(str::to_owned);
            [tls.to_vec(), ["-u", "u1", "-P", "correct horse", "-q", "2"].map(str::to_owned).to_vec()].concat()
        };
        let mut publisher = mosquitto_client("mosquitto_pub");
        publisher.args(line(&known)).args(["-t", "t/tls", "-r", "-m", version]);
        succeed(publisher);
        let mut subscriber = mosquitto_client("mosquitto_sub");
        subscriber.args(line(&known)).args(["-t", "t/tls", "-C", "1", "-W", "20"]);
        assert_eq!(succeed(subscriber), format!("{version}\n"));
        let mut distrustful = mosquitto_client("mosquitto_pub");
        distrustful.args(line(&unknown)).args(["-t", "t/tls", "-m", "never"]);
        let (code, _, stderr) = run(distrustful);
        assert_ne!(code, Some(0), "{version}: {stderr}");
    }
}
