//! MQTT.js over WebSocket, from a page in headless Chromium.

use std::net::SocketAddr;
use std::process::{Child, Stdio};
use std::time::Duration;

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::{MethodRouter, get, post};
use mqtt_operator::config::broker::{Listener, Protocol};
use mqtt_operator::config::files::Etc;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::{VERSIONS, script, settings};
use crate::support::{Authority, Broker, chromium, mqttjs};

/// A browser has to start; then everything is fast.
const DEADLINE: Duration = Duration::from_mins(1);

/// A web server with the page, and what the page reports.
struct Site {
    address: SocketAddr,
    settings: mpsc::Sender<String>,
    seen: mpsc::Receiver<String>,
}

impl Site {
    async fn start() -> Self {
        let library = std::fs::read(mqttjs().join("dist/mqtt.min.js")).unwrap();
        let file = |name: &str| std::fs::read(script(name)).unwrap();
        let serve =
            |kind: &'static str, content: Vec<u8>| get(move || async move { ([(CONTENT_TYPE, kind)], content) });
        let (settings, settings_in) = mpsc::channel::<String>(1);
        let settings_in = std::sync::Arc::new(tokio::sync::Mutex::new(settings_in));
        let (seen_out, seen) = mpsc::channel(1);
        let app = Router::new()
            .route("/page.html", serve("text/html", file("page.html")))
            .route("/exchange.js", serve("text/javascript", file("exchange.js")))
            .route("/mqtt.min.js", serve("text/javascript", library))
            .route("/settings", get(|| async move { settings_in.lock().await.recv().await.unwrap_or_default() }))
            .route("/seen", post(|body: String| async move { seen_out.send(body).await.unwrap_or_default() }));
        let address = listen(app).await;
        Self { address, settings, seen }
    }

    /// Opens the page under this host, has it do these exchanges, and returns what each saw.
    async fn open(&mut self, host: &str, exchanges: &[String]) -> Vec<Value> {
        self.settings.send(format!("[{}]", exchanges.join(","))).await.unwrap();
        let browser = Browser::open(&format!("http://{host}:{}/page.html", self.address.port()));
        let seen = tokio::time::timeout(DEADLINE, self.seen.recv()).await;
        let seen = seen.unwrap_or_else(|_| panic!("the page reported nothing; {}", browser.log())).unwrap();
        serde_json::from_str(&seen).unwrap_or_else(|error| panic!("{error}: {seen}"))
    }
}

/// A web server with one page of this text, and the library beside it.
pub async fn site_of(path: &str, page: &str) -> SocketAddr {
    let app = Router::new()
        .route(path, serve("text/html", page.as_bytes().to_vec()))
        .route("/mqtt.min.js", serve("text/javascript", std::fs::read(mqttjs().join("dist/mqtt.min.js")).unwrap()));
    listen(app).await
}

fn serve(kind: &'static str, content: Vec<u8>) -> MethodRouter {
    get(move || async move { ([(CONTENT_TYPE, kind)], content) })
}

async fn listen(app: Router) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

/// A browser that ends with this value.
pub struct Browser {
    child: Child,
    profile: tempfile::TempDir,
}

impl Browser {
    pub fn open(url: &str) -> Self {
        let profile = tempfile::tempdir().unwrap();
        let log = std::fs::File::create(profile.path().join("log")).unwrap();
        let child = chromium()
            // The sandbox needs rights that a container seldom has; the page is ours. No other flag is about security
            // but the last: the certificate of this broker is the test's own.
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"])
            .args(["--disable-background-networking", "--disable-extensions", "--enable-logging=stderr"])
            .arg("--ignore-certificate-errors")
            .arg(format!("--user-data-dir={}", profile.path().join("profile").display()))
            .arg(url)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Self { child, profile }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.profile.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A broker with WebSocket, with and without TLS, for pages of this origin.
fn broker(origin: &str) -> Broker {
    let authority = Authority::new("interop");
    Broker::with_files(
        |config| {
            for (name, protocol) in [("ws", Protocol::Ws), ("wss", Protocol::Wss)] {
                let mut listener = Listener::new(name, protocol, ([127, 0, 0, 1], 0).into());
                listener.allowed_origins = vec![origin.into()];
                config.listeners.push(listener);
            }
        },
        |etc: &Etc| authority.server().write(etc.certificate("wss").parent().unwrap()),
    )
}

fn over(broker: &Broker, scheme: &str, prefix: &str, version: u8) -> String {
    let address = broker.listener(scheme);
    let url = json!({"url": format!("{scheme}://{address}/mqtt")});
    settings(&address.to_string(), &format!("{prefix}{version}"), version, &url)
}

#[tokio::test(flavor = "multi_thread")]
async fn mqttjs_in_a_browser_gets_what_it_expects() {
    let mut site = Site::start().await;
    let broker = broker(&format!("http://{}", site.address));
    let mut exchanges: Vec<String> = VERSIONS.iter().map(|&version| over(&broker, "ws", "ws", version)).collect();
    exchanges.push(over(&broker, "wss", "wss", 5));
    let seen = site.open("127.0.0.1", &exchanges).await;
    assert_eq!(seen.len(), 4);
    for (seen, (prefix, version)) in seen.iter().zip([("ws", 3), ("ws", 4), ("ws", 5), ("wss", 5)]) {
        super::judge_mqttjs(prefix, version, &seen.to_string());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_another_origin_is_refused() {
    let mut site = Site::start().await;
    // The same server, under a name that is not in the list.
    let broker = broker(&format!("http://{}", site.address));
    let seen = site.open("localhost", &[over(&broker, "ws", "ws", 5), over(&broker, "wss", "wss", 4)]).await;
    for seen in seen {
        assert!(seen["error"].is_string(), "{seen}");
    }
    assert_eq!(broker.report().sessions, 0, "nobody was let in");
}
