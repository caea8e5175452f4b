//! Bytes on their way to one client.
//!
//! Small packets are copied into one buffer, so that acknowledgements and deliveries of one turn leave in one write; a
//! large payload stays where it is and leaves by reference. The buffer belongs to the connection only while something
//! waits in it: an idle connection holds none.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;

use crate::store::Message;

/// A payload of this size or more is not copied.
const BY_REFERENCE: usize = 1024;
/// Slices of one vectored write.
const SLICES: usize = 32;
/// A buffer larger than this is given back to the allocator when it is empty.
const KEEP_CAPACITY: usize = 256 * 1024;

thread_local! {
    /// The buffer that the connections of a thread take turns with.
    static SPARE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

#[derive(Debug, Default)]
pub struct Outbox {
    segments: VecDeque<Segment>,
    /// Bytes of the first segment that are already written.
    written: usize,
    length: usize,
    /// Whether the socket may hold bytes that it took: TLS and WebSocket have buffers of their own.
    unflushed: bool,
}

#[derive(Debug)]
enum Segment {
    Copied(Vec<u8>),
    Payload(Arc<Message>),
}

impl Segment {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Copied(bytes) => bytes,
            Self::Payload(message) => message.payload(),
        }
    }
}

impl Outbox {
    /// Bytes that wait.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether all has left.
    pub fn is_empty(&self) -> bool {
        self.length == 0 && !self.unflushed
    }

    /// Bytes of the buffers; payloads that leave by reference are not among them.
    pub fn held(&self) -> usize {
        let copied = |segment: &Segment| if let Segment::Copied(bytes) = segment { bytes.capacity() } else { 0 };
        self.segments.iter().map(copied).sum::<usize>() + self.segments.capacity() * size_of::<Segment>()
    }

    /// Appends what `write` appends.
    pub fn write(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        if !matches!(self.segments.back(), Some(Segment::Copied(_))) {
            self.segments.push_back(Segment::Copied(SPARE.take()));
        }
        if let Some(Segment::Copied(bytes)) = self.segments.back_mut() {
            let before = bytes.len();
            write(bytes);
            self.length += bytes.len() - before;
        }
    }

    /// Appends the payload of a message whose head has been written.
    pub fn payload(&mut self, message: &Arc<Message>) {
        let payload = message.payload();
        if payload.len() < BY_REFERENCE {
            return self.write(|bytes| bytes.extend_from_slice(payload));
        }
        self.length += payload.len();
        self.segments.push_back(Segment::Payload(message.clone()));
    }

    /// Writes until all is out or the socket takes no more; answers how many bytes it took.
    pub fn poll_write<S: AsyncWrite + Unpin>(
        &mut self,
        socket: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let mut total = 0;
        while self.length > 0 {
            let n = match self.poll_once(socket, cx) {
                Poll::Ready(result) => result?,
                Poll::Pending if total > 0 => return Poll::Ready(Ok(total)),
                Poll::Pending => return Poll::Pending,
            };
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            total += n;
            self.unflushed = true;
            self.advance(n);
        }
        if self.unflushed {
            match Pin::new(socket).poll_flush(cx) {
                Poll::Ready(result) => result?,
                Poll::Pending if total > 0 => return Poll::Ready(Ok(total)),
                Poll::Pending => return Poll::Pending,
            }
            self.unflushed = false;
        }
        Poll::Ready(Ok(total))
    }

    fn poll_once<S: AsyncWrite + Unpin>(&self, socket: &mut S, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let Some(first) = self.segments.front() else { return Poll::Ready(Ok(0)) };
        let first = &first.bytes()[self.written..];
        if self.segments.len() == 1 {
            return Pin::new(socket).poll_write(cx, first);
        }
        let mut slices = [IoSlice::new(&[]); SLICES];
        slices[0] = IoSlice::new(first);
        let mut used = 1;
        for (slice, segment) in slices[1..].iter_mut().zip(self.segments.iter().skip(1)) {
            *slice = IoSlice::new(segment.bytes());
            used += 1;
        }
        let n = ready!(Pin::new(socket).poll_write_vectored(cx, &slices[..used]))?;
        Poll::Ready(Ok(n))
    }

    fn advance(&mut self, mut n: usize) {
        self.length -= n;
        while let Some(first) = self.segments.front() {
            let left = first.bytes().len() - self.written;
            if n < left {
                self.written += n;
                return;
            }
            n -= left;
            self.written = 0;
            if let Some(Segment::Copied(mut bytes)) = self.segments.pop_front()
                && bytes.capacity() <= KEEP_CAPACITY
            {
                bytes.clear();
                SPARE.set(bytes);
            }
        }
        if self.segments.capacity() > SLICES {
            self.segments = VecDeque::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mqtt::QoS;
    use crate::mqtt::packet::Publish;

    /// A socket that takes a few bytes at a time.
    struct Trickle(Vec<u8>, usize);

    impl AsyncWrite for Trickle {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            let n = bytes.len().min(self.1);
            self.0.extend_from_slice(&bytes[..n]);
            Poll::Ready(Ok(n))
        }
        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn copied_and_referenced_bytes_leave_in_order_through_any_socket() {
        for step in [1, 7, 1000, 100_000] {
            let large = vec![b'L'; 3000];
            let properties = Default::default();
            let publish = Publish {
                dup: false,
                qos: QoS::AtMostOnce,
                retain: false,
                topic: "t",
                packet_id: None,
                properties,
                payload: &large,
            };
            let message = Arc::new(Message::new(&publish, "t", 0, None));
            let mut outbox = Outbox::default();
            let mut expected = Vec::new();
            for i in 0..10u8 {
                outbox.write(|out| out.extend_from_slice(&[i; 5]));
                expected.extend_from_slice(&[i; 5]);
                outbox.payload(&message);
                expected.extend_from_slice(&large);
            }
            assert_eq!(outbox.len(), expected.len());
            let mut socket = Trickle(Vec::new(), step);
            let mut cx = Context::from_waker(std::task::Waker::noop());
            while !outbox.is_empty() {
                assert!(outbox.poll_write(&mut socket, &mut cx).is_ready());
            }
            assert_eq!(socket.0, expected, "step {step}");
        }
    }
}
