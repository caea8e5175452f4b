//! A WebSocket connection as a stream of bytes.
//!
//! Frames are taken apart in the reader's own buffer, and an idle connection holds no buffer: what tens of thousands of
//! browsers cost is the reason why this is not a general WebSocket library, which owns a buffer per connection and keeps
//! it as large as the largest frame was.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::frames::{self, Decoder, Event, Failure};

/// Bytes of one outgoing frame.
const FRAME_MAX: usize = 64 * 1024;

thread_local! {
    /// The buffer that the connections of a thread take turns with.
    static SPARE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The server's side of a WebSocket, after its handshake.
#[derive(Debug)]
pub struct WebSocket<S> {
    socket: S,
    decoder: Decoder,
    /// What came together with the handshake, and is read first.
    early: Vec<u8>,
    /// Frames on their way out, whole ones.
    out: Vec<u8>,
    /// Bytes of `out` that are written.
    written: usize,
    /// Why nothing more is read, once that is so.
    end: Option<End>,
    /// What the peer wants to hear again, once `out` is empty.
    pong: Option<Vec<u8>>,
    /// Whether our goodbye is in `out` or gone.
    closing: bool,
}

/// Why nothing more is read.
#[derive(Clone, Copy, Debug)]
enum End {
    /// The peer closed.
    Closed,
    Failed(Failure),
}

impl<S: AsyncRead + AsyncWrite + Unpin> WebSocket<S> {
    /// A socket after its handshake, with what has been read past that.
    pub fn after(socket: S, early: Vec<u8>) -> Self {
        Self {
            socket,
            early,
            decoder: Decoder::default(),
            out: Vec::new(),
            written: 0,
            end: None,
            pong: None,
            closing: false,
        }
    }

    /// Takes frames apart in place; answers how many bytes for MQTT are at the front now.
    fn decode(&mut self, bytes: &mut [u8]) -> usize {
        let (mut payload, mut from) = (0, 0);
        while from < bytes.len() && self.end.is_none() {
            let (decoded, result) = self.decoder.decode(&mut bytes[from..]);
            bytes.copy_within(from..from + decoded.payload, payload);
            payload += decoded.payload;
            from += decoded.used;
            match (result, decoded.event) {
                (Err(failure), _) => self.fail(failure),
                (Ok(()), Some(Event::Close)) => {
                    self.say_goodbye(self.decoder.goodbye());
                    self.end = Some(End::Closed);
                }
                (Ok(()), Some(Event::Ping)) => self.pong(),
                (Ok(()), None) => {}
            }
        }
        payload
    }

    fn fail(&mut self, failure: Failure) {
        self.say_goodbye(failure.code());
        self.end = Some(End::Failed(failure));
    }

    fn say_goodbye(&mut self, code: u16) {
        if !self.closing {
            self.closing = true;
            frames::close(code, self.outgoing());
        }
    }

    /// Of pings that come faster than their answers leave, the last is answered.
    fn pong(&mut self) {
        if self.closing {
            return;
        }
        if !self.out.is_empty() {
            self.pong = Some(self.decoder.control().to_vec());
            return;
        }
        let mut out = SPARE.take();
        frames::pong(self.decoder.control(), &mut out);
        self.out = out;
    }

    fn outgoing(&mut self) -> &mut Vec<u8> {
        if self.out.is_empty() {
            self.out = SPARE.take();
        }
        &mut self.out
    }

    /// Writes what waits.
    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            while self.written < self.out.len() {
                let n = ready!(Pin::new(&mut self.socket).poll_write(cx, &self.out[self.written..]))?;
                if n == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.written += n;
            }
            self.written = 0;
            let mut out = std::mem::take(&mut self.out);
            if out.capacity() > 0 && out.capacity() <= 2 * FRAME_MAX {
                out.clear();
                SPARE.set(out);
            }
            match self.pong.take().filter(|_| !self.closing) {
                Some(payload) => frames::pong(&payload, self.outgoing()),
                None => return Poll::Ready(Ok(())),
            }
        }
    }

    /// Puts one frame with as much as it may hold on its way.
    fn send(&mut self, slices: &[IoSlice<'_>]) -> usize {
        let length = slices.iter().map(|slice| slice.len()).sum::<usize>().min(FRAME_MAX);
        let out = self.outgoing();
        frames::binary(length, out);
        let mut left = length;
        for slice in slices {
            let n = slice.len().min(left);
            out.extend_from_slice(&slice[..n]);
            left -= n;
        }
        length
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for WebSocket<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // An answer to a ping leaves when it can; reading does not wait for it.
        if let Poll::Ready(Err(error)) = this.poll_out(cx) {
            return Poll::Ready(Err(error));
        }
        while this.end.is_none() {
            let before = buffer.filled().len();
            if this.early.is_empty() {
                ready!(Pin::new(&mut this.socket).poll_read(cx, buffer))?;
            } else {
                let n = this.early.len().min(buffer.remaining());
                buffer.put_slice(&this.early[..n]);
                this.early.drain(..n);
            }
            if buffer.filled().len() == before {
                return Poll::Ready(Ok(()));
            }
            let payload = this.decode(&mut buffer.filled_mut()[before..]);
            buffer.set_filled(before + payload);
            if let Poll::Ready(Err(error)) = this.poll_out(cx) {
                return Poll::Ready(Err(error));
            }
            if payload > 0 {
                return Poll::Ready(Ok(()));
            }
        }
        match this.end {
            Some(End::Failed(failure)) => Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, failure))),
            _ => Poll::Ready(Ok(())),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WebSocket<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_out(cx))?;
        if this.closing {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let n = this.send(slices);
        // What does not leave now leaves at the next write or flush.
        match this.poll_out(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(n)),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_out(cx))?;
        Pin::new(&mut this.socket).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.say_goodbye(frames::NORMAL);
        ready!(this.poll_out(cx))?;
        Pin::new(&mut this.socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// A masked frame; the mask is zero.
    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        [&[first, 0x80 | payload.len() as u8, 0, 0, 0, 0], payload].concat()
    }

    /// Of the pings that arrive while nothing can leave, the last is answered: whole, and after what was before it.
    #[tokio::test]
    async fn answer_to_a_ping_waits_for_its_turn_and_is_not_mixed_up() {
        let (server, mut client) = tokio::io::duplex(64);
        let mut socket = WebSocket::after(server, Vec::new());
        let poll = |socket: &mut WebSocket<_>| {
            let mut bytes = [0; 64];
            let mut cx = Context::from_waker(std::task::Waker::noop());
            Pin::new(socket).poll_read(&mut cx, &mut ReadBuf::new(&mut bytes)).is_ready()
        };
        // More than the pipe holds.
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert!(matches!(Pin::new(&mut socket).poll_write(&mut cx, &[7; 100]), Poll::Ready(Ok(100))));
        client.write_all(&frame(0x89, b"one")).await.unwrap();
        client.write_all(&frame(0x89, b"two")).await.unwrap();
        client.write_all(&frame(0x8A, b"mine")).await.unwrap();
        assert!(!poll(&mut socket));
        client.write_all(&frame(0x89, b"three")[..8]).await.unwrap();
        assert!(!poll(&mut socket));
        let mut got = vec![0; 64];
        client.read_exact(&mut got).await.unwrap();
        assert!(!poll(&mut socket));
        let mut rest = vec![0; 38 + 5];
        client.read_exact(&mut rest).await.unwrap();
        got.extend_from_slice(&rest);
        assert_eq!(got, [&[0x82, 100][..], &[7; 100], b"\x8A\x03two"].concat());
        client.write_all(&frame(0x89, b"three")[8..]).await.unwrap();
        assert!(!poll(&mut socket));
        let mut answer = [0; 7];
        client.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"\x8A\x05three");
    }

    #[tokio::test]
    async fn large_writes_leave_in_frames_and_a_goodbye_comes_last() {
        let (server, mut client) = tokio::io::duplex(1024);
        let mut socket = WebSocket::after(server, Vec::new());
        let payload = vec![7; 3 * FRAME_MAX / 2];
        let writing = async {
            socket.write_all(&payload).await.unwrap();
            socket.shutdown().await.unwrap();
            assert!(socket.write_all(b"late").await.is_err());
        };
        let mut got = Vec::new();
        let ((), read) = tokio::join!(writing, client.read_to_end(&mut got));
        read.unwrap();
        assert_eq!(got[..10], [0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]);
        let second = 10 + FRAME_MAX;
        assert_eq!(got[second..second + 4], [0x82, 126, 0x80, 0]);
        assert_eq!(got[second + 4 + FRAME_MAX / 2..], [0x88, 2, 3, 232]);
    }
}
