//! What must not be seen: secrets, and whether a user exists.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use super::*;
use crate::support::{PASSWORD, wait_until, write_etc};

/// Presents every kind of secret to a broker that logs all it can, and looks for them in all that it says.
#[test]
#[expect(
    clippy::too_many_lines,
    reason = "one broker process, each way to present a secret, and each place where it may show"
)]
fn class_20_no_secret_is_in_logs_metrics_or_reports() {
    let _entered = runtime().enter();
    let directory = tempfile::tempdir().unwrap();
    let port = crate::support::free_ports::<2>();
    write_etc(directory.path(), |config| {
        config.listeners[0].port = port[0];
        config.admin.set_port(port[1]);
    });
    let mut broker = Command::new(env!("CARGO_BIN_EXE_mqtt-broker"))
        .args(["--etc".as_ref(), directory.path().as_os_str()])
        .args(["--state".as_ref(), directory.path().join("state").as_os_str()])
        .env("RUST_LOG", "trace")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (told, log) = std::sync::mpsc::channel();
    let outputs: [Box<dyn std::io::Read + Send>; 2] =
        [Box::new(broker.stdout.take().unwrap()), Box::new(broker.stderr.take().unwrap())];
    for output in outputs {
        let told = told.clone();
        std::thread::spawn(move || {
            BufReader::new(output).lines().map_while(Result::ok).for_each(|it| drop(told.send(it)));
        });
    }
    drop(told);
    let get = |path: &str| {
        let request = reqwest::Client::new()
            .get(format!("http://127.0.0.1:{}{path}", port[1]))
            .bearer_auth(Broker::admin_token());
        runtime().block_on(async { request.send().await?.text().await })
    };
    wait_until(DEADLINE, "the broker is ready", || get("/readyz").and_then(|_| get("/metrics")).map(drop));

    let good = token("dev1", &["allow all t/#"]);
    let mut secrets: Vec<String> =
        vec![String::from_utf8(PASSWORD.to_vec()).unwrap(), good.clone(), Broker::admin_token()];
    let say = |bytes: &[u8]| {
        use std::io::{Read, Write};
        let mut socket = std::net::TcpStream::connect(("127.0.0.1", port[0])).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        socket.write_all(bytes).unwrap();
        let _ = socket.shutdown(std::net::Shutdown::Write);
        let _ = socket.read_to_end(&mut Vec::new());
    };
    for (n, version) in VERSIONS.into_iter().enumerate() {
        let wrong = [format!("wrong-password-{n}"), format!("{}{n}", &good[..good.len() - 3])];
        for password in &wrong {
            say(&bearer(version, "dev1", "dev1", password).bytes());
            say(&Connect { password: Some(password.as_bytes().to_vec()), ..Connect::new(version, "u1").user(1) }
                .bytes());
        }
        secrets.extend(wrong);
        say(&Connect::new(version, "u1").user(1).bytes());
        say(&bearer(version, "dev1", "dev1", &good).bytes());
        // Swapped by mistake: the password where the user name belongs.
        let swapped = format!("swapped-secret-{n}");
        say(&Connect {
            username: Some("u1".into()),
            password: Some(swapped.clone().into_bytes()),
            ..Connect::new(version, "x")
        }
        .bytes());
        secrets.push(swapped);
    }
    let data = bytes![0x15, "JWT", 0x16, Data(good.as_bytes())];
    say(&Connect::new(Version::V5, "dev1").with(&data).bytes());
    let users = std::fs::read_to_string(directory.path().join("users/users.json")).unwrap();
    let hash = serde_json::from_str::<Value>(&users).unwrap()["users"][0]["hash"].as_str().unwrap().to_owned();
    secrets.push(hash.rsplit_once('$').unwrap().1.to_owned());
    // The last part of a token is what makes it worth something.
    secrets.push(good.rsplit_once('.').unwrap().1.to_owned());

    let said = ["/metrics", "/api/v1/report", "/api/v1/sessions", "/api/v1/denies", "/livez", "/readyz"]
        .map(|path| get(path).unwrap())
        .join("\n");
    Command::new("kill").arg(broker.id().to_string()).status().unwrap();
    broker.wait().unwrap();
    let lines: Vec<String> = log.iter().collect();
    assert!(lines.iter().any(|line| line.contains("wrong password")), "the log is there: {lines:#?}");
    for secret in &secrets {
        assert!(!said.contains(secret.as_str()), "{secret} is told over HTTP");
        assert!(!lines.iter().any(|line| line.contains(secret.as_str())), "{secret} is in the log");
    }
}

#[test]
fn class_22_an_unknown_user_and_a_wrong_password_are_answered_alike() {
    let broker = broker();
    each_version(|version| {
        let answers = ["u1", "nobody-of-this-name", "U1", "u1 "].map(|name| {
            let mut wire = Wire::open(&broker, version);
            let connect = Connect {
                username: Some(name.into()),
                password: Some(b"wrong".to_vec()),
                ..Connect::new(version, "c")
            };
            wire.send(&connect.bytes());
            let frame = wire.expect_packet();
            wire.expect_close();
            frame
        });
        assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    });
}
