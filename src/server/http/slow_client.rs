//! A connection whose other end has to keep up.
//!
//! Two things cost a server memory and places while nothing happens, and cost the other end nothing: a request's head that
//! is sent byte by byte, and an answer that nobody reads. Here either ends the connection. That a connection is idle
//! between two requests, or that an answer takes long to be made, is something else and bounded elsewhere.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// For a request's head to arrive, from its first byte on.
const HEAD_MAX: Duration = Duration::from_secs(10);
/// For the other end to take anything of what it is sent.
const WRITE_STALL_MAX: Duration = Duration::from_secs(20);

/// See the module.
pub struct Paced<S> {
    stream: S,
    heads: Heads,
    /// How many heads were complete when this was last looked at.
    complete: usize,
    /// Runs from the first byte of a head until it is complete.
    head: Option<Pin<Box<Sleep>>>,
    /// Runs while nothing can be written.
    write: Option<Pin<Box<Sleep>>>,
    head_max: Duration,
    stall_max: Duration,
}

/// Whether a request is being worked on, so that what arrives is its body and no head.
#[derive(Clone, Default)]
pub struct Heads(Arc<Counts>);

#[derive(Default)]
struct Counts {
    /// Heads that came whole.
    complete: AtomicUsize,
    /// Requests that are being worked on.
    busy: AtomicUsize,
}

/// See [`Heads::pause`].
pub struct Paused(Heads);

impl Heads {
    /// A head is complete; until this is dropped no other is waited for.
    pub fn pause(&self) -> Paused {
        self.0.complete.fetch_add(1, Ordering::Relaxed);
        self.0.busy.fetch_add(1, Ordering::Relaxed);
        Paused(self.clone())
    }

    fn expected(&self) -> bool {
        self.0.busy.load(Ordering::Relaxed) == 0
    }

    fn complete(&self) -> usize {
        self.0.complete.load(Ordering::Relaxed)
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        self.0.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

fn too_slow(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, what)
}

impl<S> Paced<S> {
    /// The connection, and what is to be told when a head is complete.
    pub fn new(stream: S) -> (Self, Heads) {
        Self::within(stream, HEAD_MAX, WRITE_STALL_MAX)
    }

    fn within(stream: S, head_max: Duration, stall_max: Duration) -> (Self, Heads) {
        let heads = Heads::default();
        let paced = Self {
            stream,
            heads: heads.clone(),
            complete: 0,
            head: None,
            write: None,
            head_max,
            stall_max,
        };
        (paced, heads)
    }

    /// Lets a write that got nowhere wait, but not for ever.
    fn stalled<T>(
        &mut self,
        context: &mut Context<'_>,
        done: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if done.is_ready() {
            self.write = None;
            return done;
        }
        let stall_max = self.stall_max;
        let timer = || Box::pin(tokio::time::sleep(stall_max));
        match self.write.get_or_insert_with(timer).as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(too_slow("the other end reads nothing"))),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        // Also one that was answered before anything more was read: a long answer is no long head.
        let complete = self.heads.complete();
        if complete != self.complete {
            self.complete = complete;
            self.head = None;
        }
        if !self.heads.expected() {
            self.head = None;
            return read;
        }
        if self.head.is_none() && buffer.filled().len() > before {
            self.head = Some(Box::pin(tokio::time::sleep(self.head_max)));
        }
        let over = self
            .head
            .as_mut()
            .is_some_and(|head| head.as_mut().poll(context).is_ready());
        if over {
            return Poll::Ready(Err(too_slow("a request's head does not end")));
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.stalled(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.stalled(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    const SHORT: Duration = Duration::from_millis(50);

    #[tokio::test]
    async fn a_head_has_its_time_and_a_body_has_not() {
        let (mut theirs, ours) = tokio::io::duplex(64);
        let (mut paced, heads) = Paced::within(ours, SHORT, SHORT);
        let mut byte = [0];
        // Idle for as long as it likes.
        let idle = tokio::time::timeout(SHORT * 3, paced.read_exact(&mut byte)).await;
        assert!(idle.is_err());
        theirs.write_all(b"ab").await.expect("written");
        paced.read_exact(&mut byte).await.expect("the first byte");
        let reading = heads.pause();
        paced.read_exact(&mut byte).await.expect("of the body");
        let body = tokio::time::timeout(SHORT * 3, paced.read_exact(&mut byte)).await;
        assert!(body.is_err());
        drop(reading);
        theirs.write_all(b"c").await.expect("written");
        paced.read_exact(&mut byte).await.expect("the first byte");
        let late = paced.read_exact(&mut byte).await.expect_err("cut");
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_head_that_was_answered_at_once_is_over() {
        let (mut theirs, ours) = tokio::io::duplex(64);
        let (mut paced, heads) = Paced::within(ours, SHORT, SHORT);
        theirs.write_all(b"a").await.expect("written");
        let mut byte = [0];
        paced.read_exact(&mut byte).await.expect("the head");
        // Nothing is read while the request is worked on; then its answer takes long.
        drop(heads.pause());
        let next = tokio::time::timeout(SHORT * 3, paced.read_exact(&mut byte)).await;
        assert!(next.is_err(), "{next:?}");
    }

    #[tokio::test]
    async fn who_reads_nothing_is_not_written_to_for_ever() {
        let (theirs, ours) = tokio::io::duplex(4);
        let (mut paced, _heads) = Paced::within(ours, SHORT, SHORT);
        let stalled = paced.write_all(b"12345").await.expect_err("cut");
        assert_eq!(stalled.kind(), io::ErrorKind::TimedOut);
        drop(theirs);
    }
}
