//! The task that owns the socket.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio::time::{Instant, interval_at, timeout};

use super::state::State;
use super::{Acknowledge, Client, Connected, Delivery, Error, Incoming, LARGEST_PACKET, Message, Options};
use crate::mqtt::packet::{ConnAck, Connect};
use crate::mqtt::property::ConnectProperties;
use crate::mqtt::{Packet, QoS, ReasonCode, Version, codec};

/// Bytes asked of the socket at a time: little for the many that are idle, more for those that fill it.
const SMALLEST_READ: usize = 2 * 1024;
const LARGEST_READ: usize = 64 * 1024;
/// Batches that wait for the application before the socket is left unread. A batch is what one read brought.
const BATCHES: usize = 8;
/// Bytes that wait to be written before publishers wait.
const OUTPUT_LIMIT: usize = 256 * 1024;
/// How long the server has to close after our DISCONNECT.
const LINGER: Duration = Duration::from_secs(1);

/// What the task and the handles share.
#[derive(Debug)]
pub(super) struct Link {
    state: Mutex<State>,
    /// There is something to write.
    wake: Notify,
    /// The output has been taken.
    drained: Notify,
    /// The server's Receive Maximum.
    pub(super) window: Arc<Semaphore>,
    /// Set when the task has ended.
    ended: watch::Sender<Option<Error>>,
}

impl Link {
    /// Works on the state and sees to it that what this wrote is sent.
    pub(super) fn with<T>(&self, work: impl FnOnce(&mut State) -> Result<T, Error>) -> Result<T, Error> {
        let (result, wake) = {
            let mut state = self.lock();
            if state.closing || self.ended.borrow().is_some() {
                drop(state);
                return Err(self.reason());
            }
            let was_empty = state.output.is_empty();
            let result = work(&mut state);
            (result, was_empty && !state.output.is_empty())
        };
        if wake {
            self.wake.notify_one();
        }
        result
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // The state stays consistent: nothing in it panics half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until publishers may write.
    pub(super) async fn room_to_write(&self) -> Result<(), Error> {
        loop {
            let drained = self.drained.notified();
            tokio::pin!(drained);
            // Enabled before the check, or a drain between the two would be missed.
            drained.as_mut().enable();
            if self.ended.borrow().is_some() {
                return Err(self.reason());
            }
            if self.lock().output.len() < OUTPUT_LIMIT {
                return Ok(());
            }
            drained.await;
        }
    }

    /// Why the connection ended.
    pub(super) fn reason(&self) -> Error {
        self.ended.borrow().clone().unwrap_or(Error::Closed)
    }

    /// Resolves when the task has ended.
    pub(super) async fn finished(&self) {
        // The sender is ours: waiting cannot fail.
        let _ = self.ended.subscribe().wait_for(Option::is_some).await;
    }

    fn end(&self, error: Error) {
        self.window.close();
        self.ended.send_replace(Some(error));
        self.lock().give_up();
        self.drained.notify_waiters();
    }
}

/// Says CONNECT, waits for CONNACK, and starts the task. `buffers`: the writer may hold back what it took.
pub(super) async fn open<R, W>(
    mut reader: R,
    mut writer: W,
    buffers: bool,
    options: &Options,
) -> Result<(Client, Incoming, Connected), Error>
where
    R: AsyncRead + Unpin + Send + 'static,
    W: AsyncWrite + Unpin + Send + 'static,
{
    let mut hello = Vec::new();
    codec::encode(&Packet::Connect(Box::new(connect_packet(options))), options.version, &mut hello);
    writer.write_all(&hello).await.map_err(Error::io)?;
    writer.flush().await.map_err(Error::io)?;
    let mut input = BytesMut::with_capacity(SMALLEST_READ);
    let connected = read_connack(&mut reader, &mut input, options).await?;

    let link = Arc::new(Link {
        state: Mutex::new(State::new(options.version, &connected)),
        wake: Notify::new(),
        drained: Notify::new(),
        window: Arc::new(Semaphore::new(usize::from(connected.receive_maximum))),
        ended: watch::Sender::new(None),
    });
    let (alive, clients) = mpsc::channel(1);
    let (deliveries, batches) = mpsc::channel(BATCHES);
    let connection = Connection {
        link: Arc::clone(&link),
        version: options.version,
        maximum_packet_size: options.maximum_packet_size,
        acknowledge: options.acknowledge,
        keep_alive: Duration::from_secs(connected.server_keep_alive.unwrap_or(options.keep_alive).into()),
        deliveries,
        clients,
        input,
        output: Vec::new(),
        written: 0,
        buffers,
        unflushed: false,
        read_size: SMALLEST_READ,
        ready: Vec::new(),
        failure: None,
    };
    tokio::spawn(connection.run(reader, writer));
    let client = Client { link: Arc::clone(&link), _alive: alive };
    let incoming = Incoming { batches, batch: Vec::new().into_iter(), link, ended: false };
    Ok((client, incoming, connected))
}

fn connect_packet(options: &Options) -> Connect<'_> {
    let properties = if options.version == Version::V5 {
        ConnectProperties {
            session_expiry: options.session_expiry,
            receive_maximum: options.receive_maximum,
            maximum_packet_size: Some(options.maximum_packet_size).filter(|&size| size < LARGEST_PACKET),
            ..ConnectProperties::default()
        }
    } else {
        ConnectProperties::default()
    };
    let will_delay = options.will_delay.filter(|_| options.version == Version::V5);
    Connect {
        version: options.version,
        clean_start: options.clean_start,
        keep_alive: options.keep_alive,
        client_id: &options.client_id,
        username: options.username.as_deref(),
        password: options.password.as_deref(),
        will: options.will.as_ref().map(|will: &Message| will.will(will_delay)),
        properties,
    }
}

async fn read_connack(
    reader: &mut (impl AsyncRead + Unpin),
    input: &mut BytesMut,
    options: &Options,
) -> Result<Connected, Error> {
    loop {
        if let Some(length) = codec::packet_length(input, options.maximum_packet_size)
            .map_err(Error::Violation)?
            .filter(|&l| l <= input.len())
        {
            let frame = input.split_to(length);
            return match codec::decode(&frame, options.version).map_err(Error::Violation)? {
                Packet::ConnAck(connack) => accepted(&connack),
                _ => Err(Error::Unexpected("packet before CONNACK")),
            };
        }
        if reader.read_buf(input).await.map_err(Error::io)? == 0 {
            return Err(Error::ClosedByServer);
        }
    }
}

fn accepted(connack: &ConnAck<'_>) -> Result<Connected, Error> {
    let properties = &connack.properties;
    if connack.code != ReasonCode::SUCCESS {
        let reason = properties.reason_string.unwrap_or_default().to_owned();
        return Err(Error::Refused { code: connack.code, reason });
    }
    Ok(Connected {
        session_present: connack.session_present,
        code: connack.code,
        assigned_client_id: properties.assigned_client_id.map(str::to_owned),
        server_keep_alive: properties.server_keep_alive,
        session_expiry: properties.session_expiry,
        receive_maximum: properties.receive_maximum.unwrap_or(u16::MAX),
        maximum_qos: properties.maximum_qos.and_then(QoS::from_bits).unwrap_or(QoS::ExactlyOnce),
        retain_available: properties.retain_available.unwrap_or(true),
        maximum_packet_size: properties.maximum_packet_size.unwrap_or(LARGEST_PACKET),
    })
}

/// Writes some of it; nothing means that what the writer holds back is to leave. Cancel-safe.
async fn push(writer: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> std::io::Result<usize> {
    if bytes.is_empty() {
        return writer.flush().await.map(|()| 0);
    }
    writer.write(bytes).await
}

struct Connection {
    link: Arc<Link>,
    version: Version,
    maximum_packet_size: u32,
    acknowledge: Acknowledge,
    /// Zero: off.
    keep_alive: Duration,
    deliveries: mpsc::Sender<Vec<Delivery>>,
    /// Closed when the last client has gone.
    clients: mpsc::Receiver<()>,
    input: BytesMut,
    read_size: usize,
    output: Vec<u8>,
    written: usize,
    /// Whether the writer may hold back what it took, and whether it may do so now.
    buffers: bool,
    unflushed: bool,
    /// Deliveries that wait for room in the channel. While there are any, the socket is not read.
    ready: Vec<Delivery>,
    /// Why the connection ends once these have been handed over.
    failure: Option<Error>,
}

impl Connection {
    async fn run<R, W>(mut self, mut reader: R, mut writer: W)
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        // Bytes that came with the CONNACK.
        self.decode();
        let result = self.work(&mut reader, &mut writer).await;
        if result.is_ok() {
            let _ = writer.shutdown().await;
            // Closing with bytes unread would reset the connection, and the server might never see the DISCONNECT.
            let _ = timeout(LINGER, drain(&mut reader)).await;
        }
        self.link.end(result.err().unwrap_or(Error::Closed));
    }

    async fn work<R, W>(&mut self, reader: &mut R, writer: &mut W) -> Result<(), Error>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        // A quarter of the time is left to the network.
        let period = self.keep_alive.mul_f32(0.75).max(Duration::from_millis(1));
        let mut tick = interval_at(Instant::now() + period, period);
        let deliveries = self.deliveries.clone();
        let mut handles = true;
        loop {
            let closing = self.take_output();
            let writing = self.written < self.output.len();
            let holding = !self.ready.is_empty();
            if let Some(failure) = self.failure.take_if(|_| !holding) {
                return Err(failure);
            }
            if closing && !writing && !self.unflushed {
                return Ok(());
            }
            if !handles && self.deliveries.is_closed() {
                // Nobody is left: no DISCONNECT, as the documentation of `connect` says.
                return Ok(());
            }
            tokio::select! {
                written = push(writer, &self.output[self.written..]), if writing || self.unflushed => {
                    self.written += written.map_err(Error::io)?;
                    self.unflushed = writing && self.buffers;
                    tick.reset();
                }
                read = reader.read_buf(&mut self.input), if !holding => {
                    match read.map_err(Error::io)? {
                        0 => return Err(Error::ClosedByServer),
                        length if length >= self.read_size => self.read_size = LARGEST_READ.min(self.read_size * 2),
                        _ => {}
                    }
                    self.decode();
                }
                permit = deliveries.reserve(), if holding => {
                    let batch = std::mem::take(&mut self.ready);
                    if let Ok(permit) = permit {
                        if self.acknowledge == Acknowledge::Automatic {
                            acknowledge_all(&self.link, &batch);
                        }
                        permit.send(batch);
                    }
                }
                () = self.link.wake.notified(), if !writing => {}
                _ = self.clients.recv(), if handles => handles = false,
                () = deliveries.closed(), if !handles => {}
                _ = tick.tick(), if !self.keep_alive.is_zero() => self.ping(holding)?,
            }
        }
    }

    /// Takes what is to be written once the last of it has gone. Says whether DISCONNECT is in it.
    fn take_output(&mut self) -> bool {
        let mut state = self.link.lock();
        if self.written == self.output.len() {
            self.output.clear();
            self.written = 0;
            std::mem::swap(&mut self.output, &mut state.output);
            if !self.output.is_empty() {
                self.link.drained.notify_waiters();
            }
        }
        state.closing && state.output.is_empty()
    }

    /// Takes in every whole packet that has been read, up to the one that ends the connection.
    fn decode(&mut self) {
        let link = Arc::clone(&self.link);
        let mut state = link.lock();
        let wanted = loop {
            match self.decode_one(&mut state) {
                Ok(None) => {}
                Ok(Some(missing)) => break missing,
                Err(error) => {
                    self.failure = Some(error);
                    break 0;
                }
            }
        };
        drop(state);
        self.input.reserve(self.read_size.max(wanted.min(LARGEST_READ)));
    }

    /// How many bytes are missing, when there is no whole packet.
    fn decode_one(&mut self, state: &mut State) -> Result<Option<usize>, Error> {
        let length = codec::packet_length(&self.input, self.maximum_packet_size).map_err(Error::Violation)?;
        let length = length.unwrap_or(self.input.len() + 1);
        if length > self.input.len() {
            return Ok(Some(length - self.input.len()));
        }
        let packet = codec::decode_from_server(&self.input[..length], self.version).map_err(Error::Violation)?;
        if let Some(delivery) = state.receive(&packet)? {
            self.ready.push(delivery);
        }
        self.input.advance(length);
        Ok(None)
    }

    fn ping(&self, holding: bool) -> Result<(), Error> {
        let mut state = self.link.lock();
        // While the socket is left unread the answer cannot be seen.
        if state.ping_outstanding && !holding {
            return Err(Error::KeepAlive);
        }
        if !state.closing {
            state.ping();
        }
        Ok(())
    }
}

fn acknowledge_all(link: &Link, batch: &[Delivery]) {
    let mut state = link.lock();
    if !state.closing {
        batch.iter().filter_map(|delivery| delivery.sequence).for_each(|sequence| state.acknowledge(sequence));
    }
}

async fn drain(reader: &mut (impl AsyncRead + Unpin)) {
    let mut discarded = [0; 4096];
    while matches!(reader.read(&mut discarded).await, Ok(length) if length > 0) {}
}
