//! A broker that lives for many inputs, on a runtime of this thread alone, so that an input takes the same way each time.

use std::cell::{Cell, RefCell};
use std::io;
use std::sync::Once;
use std::time::Duration;

use mqtt_operator::mqtt::codec::{decode, encode, packet_length};
use mqtt_operator::mqtt::packet::{Connect, Packet, Version};
use mqtt_operator::mqtt::property::ConnectProperties;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::runtime::Runtime;

use super::broker::PASSWORD;

/// Inputs that one broker gets: what they leave behind has to stay small.
const INPUTS: usize = 500;
/// No input takes so long, on a machine however busy.
pub const DEADLINE: Duration = Duration::from_secs(15);

thread_local! {
    /// Panics of this thread. The broker catches those of a connection, and they are mistakes all the same.
    static PANICS: Cell<usize> = const { Cell::new(0) };
}

fn count_panics() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            PANICS.set(PANICS.get() + 1);
            before(panic);
        }));
    });
}

/// A runtime with what a target keeps in it.
pub struct World<T> {
    pub runtime: Runtime,
    kept: Option<T>,
    inputs: usize,
}

impl<T> World<T> {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        Self { runtime: runtime.expect("a runtime needs nothing"), kept: None, inputs: 0 }
    }
}

/// Lets `with` have what `make` makes, a new one now and then.
pub fn visit<T: 'static>(
    world: &'static std::thread::LocalKey<RefCell<Option<World<T>>>>,
    make: impl AsyncFn() -> T,
    with: impl AsyncFnOnce(&mut T),
) {
    count_panics();
    let panics = PANICS.get();
    world.with_borrow_mut(|world| {
        // The runtime goes, too: sessions of clients that are away are tasks that wait for days.
        if world.as_ref().is_some_and(|world| world.inputs == INPUTS) {
            *world = None;
        }
        let World { runtime, kept, inputs } = world.get_or_insert_with(World::new);
        *inputs += 1;
        runtime.block_on(async {
            if kept.is_none() {
                *kept = Some(make().await);
            }
            let done = with(kept.as_mut().expect("just made"));
            tokio::time::timeout(DEADLINE, done).await.expect("done in time");
        });
    });
    assert_eq!(PANICS.get(), panics, "a connection panicked");
}

/// A CONNECT as user `u<n>`, without a will.
pub fn greeting(user: &str, client_id: &str, version: Version) -> Vec<u8> {
    let connect = Connect {
        version,
        clean_start: true,
        keep_alive: 0,
        client_id,
        username: Some(user),
        password: Some(PASSWORD),
        will: None,
        properties: ConnectProperties::default(),
    };
    let mut out = Vec::new();
    encode(&Packet::Connect(Box::new(connect)), version, &mut out);
    out
}

/// Lets the broker's tasks run.
pub async fn breathe(times: usize) {
    for _ in 0..times {
        tokio::task::yield_now().await;
    }
}

/// Sends packets and reads those of the broker, one by one.
pub struct Speaker {
    socket: DuplexStream,
    version: Version,
    input: Vec<u8>,
}

impl Speaker {
    pub fn new(socket: DuplexStream, version: Version) -> Self {
        Self { socket, version, input: Vec::new() }
    }

    pub async fn send(&mut self, packet: &Packet<'_>) {
        let mut out = Vec::new();
        encode(packet, self.version, &mut out);
        self.send_bytes(&out).await.expect("the broker listens");
    }

    pub async fn send_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.socket.write_all(bytes).await
    }

    /// Reads packets until `last` says that one is the last; panics when the broker ends the connection.
    pub async fn read_until(&mut self, mut last: impl FnMut(&Packet<'_>) -> bool) {
        loop {
            while let Some(length) = packet_length(&self.input, u32::MAX).expect("the broker sends packets")
                && length <= self.input.len()
            {
                let frame: Vec<u8> = self.input.drain(..length).collect();
                if last(&decode(&frame, self.version).expect("the broker sends legal packets")) {
                    return;
                }
            }
            let read = self.socket.read_buf(&mut self.input).await.expect("a socket in memory");
            assert!(read > 0, "the broker has ended the connection");
        }
    }
}
