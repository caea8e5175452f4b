//! A server of key sets, with a certificate.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use crate::support::{Authority, Pair};

/// What the server says, with its status line.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: &'static str,
    pub headers: String,
    pub body: Vec<u8>,
}

impl Answer {
    /// A key set.
    pub fn keys(jwks: impl Into<Vec<u8>>) -> Self {
        Self { status: "200 OK", headers: "Content-Type: application/jwk-set+json\r\n".into(), body: jwks.into() }
    }
}

/// A server on this machine; gone when it is dropped.
pub struct Server {
    pub address: SocketAddr,
    state: Arc<State>,
    task: tokio::task::JoinHandle<()>,
}

struct State {
    answer: Mutex<Answer>,
    accepted: AtomicUsize,
    requests: AtomicUsize,
    /// Answers that may leave.
    gate: Semaphore,
}

impl Server {
    /// Speaks TLS with a certificate of this authority, or plain HTTP without one.
    pub async fn start(authority: Option<&Authority>, answer: Answer) -> Self {
        let server = Self::held(authority, answer).await;
        server.release();
        server
    }

    /// As [`Server::start`]; answers wait for [`Server::release`].
    pub async fn held(authority: Option<&Authority>, answer: Answer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = authority.map(|authority| acceptor(&authority.server()));
        let state = Arc::new(State {
            answer: Mutex::new(answer),
            accepted: AtomicUsize::new(0),
            requests: AtomicUsize::new(0),
            gate: Semaphore::new(0),
        });
        let task = tokio::spawn(accept(listener, acceptor, state.clone()));
        Self { address, state, task }
    }

    pub fn release(&self) {
        self.state.gate.add_permits(Semaphore::MAX_PERMITS / 2);
    }

    /// Lets one answer leave.
    pub fn release_one(&self) {
        self.state.gate.add_permits(1);
    }

    pub fn answer(&self, answer: Answer) {
        *self.state.answer.lock().unwrap() = answer;
    }

    /// Connections that were accepted.
    pub fn accepted(&self) -> usize {
        self.state.accepted.load(Ordering::SeqCst)
    }

    /// Requests that were read.
    pub fn requests(&self) -> usize {
        self.state.requests.load(Ordering::SeqCst)
    }

    /// Where it is, by its name.
    pub fn url(&self, scheme: &str) -> String {
        format!("{scheme}://localhost:{}/keys?of=all", self.address.port())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn acceptor(pair: &Pair) -> TlsAcceptor {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let chain = CertificateDer::pem_slice_iter(pair.certificate.as_bytes()).map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    TlsAcceptor::from(Arc::new(builder.with_no_client_auth().with_single_cert(chain, key).unwrap()))
}

async fn accept(listener: TcpListener, acceptor: Option<TlsAcceptor>, state: Arc<State>) {
    loop {
        let (socket, _) = listener.accept().await.unwrap();
        state.accepted.fetch_add(1, Ordering::SeqCst);
        let (acceptor, state) = (acceptor.clone(), state.clone());
        tokio::spawn(async move {
            match acceptor {
                None => serve(socket, &state).await,
                // A client that does not trust the certificate goes away here.
                Some(acceptor) => {
                    if let Ok(stream) = acceptor.accept(socket).await {
                        serve(stream, &state).await;
                    }
                }
            }
        });
    }
}

async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, state: &State) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    assert!(head.starts_with(b"GET /keys?of=all HTTP/1.1\r\n"), "{}", String::from_utf8_lossy(&head));
    state.requests.fetch_add(1, Ordering::SeqCst);
    state.gate.acquire().await.unwrap().forget();
    let Answer { status, headers, body } = state.answer.lock().unwrap().clone();
    let length = body.len();
    let head = format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n");
    // Who hangs up in the middle of an answer has had enough of it.
    let _ = stream.write_all(&[head.as_bytes(), &body].concat()).await;
    let _ = stream.shutdown().await;
}
