//! Slow-client protection: timeouts on request heads and on stalled writes.
//!
//! Two kinds of slow clients cost a server memory and connections at no cost to themselves. One sends a head byte by
//! byte; the other does not read its response. Both kinds of connections end here. An idle connection between two
//! requests, and a response that takes long to make, are bounded elsewhere.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// Maximum time for a head to arrive, from its first byte on.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum time for the client to take any byte of a response.
const WRITE_STALL_TIMEOUT: Duration = Duration::from_secs(20);

/// A connection with slow-client protection.
pub struct SlowClientGuard<S> {
    stream: S,
    head_tracker: HeadTracker,
    /// Number of complete heads at the last read.
    complete: usize,
    /// Runs from the first byte of a head until it is complete.
    head_timer: Option<Pin<Box<Sleep>>>,
    /// Runs while nothing can be written.
    write_timer: Option<Pin<Box<Sleep>>>,
    head_timeout: Duration,
    write_stall_timeout: Duration,
}

/// Tracker of heads: while a request is in progress, arriving bytes belong to its body, not to a head.
#[derive(Clone, Default)]
pub struct HeadTracker(Arc<HeadCounts>);

#[derive(Default)]
struct HeadCounts {
    /// Number of complete heads.
    complete: AtomicUsize,
    /// Number of requests in progress.
    in_progress: AtomicUsize,
}

/// Guard of a request in progress. See [`HeadTracker::head_complete`].
pub struct RequestInProgress(HeadTracker);

impl HeadTracker {
    /// Records that a head is complete. No other head is awaited until the returned guard is dropped.
    pub fn head_complete(&self) -> RequestInProgress {
        self.0.complete.fetch_add(1, Ordering::Relaxed);
        self.0.in_progress.fetch_add(1, Ordering::Relaxed);
        RequestInProgress(self.clone())
    }

    fn awaits_head(&self) -> bool {
        self.0.in_progress.load(Ordering::Relaxed) == 0
    }

    fn complete(&self) -> usize {
        self.0.complete.load(Ordering::Relaxed)
    }
}

impl Drop for RequestInProgress {
    fn drop(&mut self) {
        self.0.0.in_progress.fetch_sub(1, Ordering::Relaxed);
    }
}

fn timed_out(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, what)
}

impl<S> SlowClientGuard<S> {
    /// Guards a connection. The caller must report every complete head to the tracker.
    pub fn new(stream: S) -> (Self, HeadTracker) {
        Self::with_timeouts(stream, HEAD_TIMEOUT, WRITE_STALL_TIMEOUT)
    }

    fn with_timeouts(
        stream: S,
        head_timeout: Duration,
        write_stall_timeout: Duration,
    ) -> (Self, HeadTracker) {
        let head_tracker = HeadTracker::default();
        let guarded = Self {
            stream,
            head_tracker: head_tracker.clone(),
            complete: 0,
            head_timer: None,
            write_timer: None,
            head_timeout,
            write_stall_timeout,
        };
        (guarded, head_tracker)
    }

    /// Bounds the time that a write makes no progress.
    fn bound_stall<T>(
        &mut self,
        context: &mut Context<'_>,
        done: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if done.is_ready() {
            self.write_timer = None;
            return done;
        }
        let write_stall_timeout = self.write_stall_timeout;
        let timer = || Box::pin(tokio::time::sleep(write_stall_timeout));
        match self
            .write_timer
            .get_or_insert_with(timer)
            .as_mut()
            .poll(context)
        {
            Poll::Ready(()) => Poll::Ready(Err(timed_out("the client does not read the response"))),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for SlowClientGuard<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        // A request that was answered before the next read counts too, because a long response is not a long head.
        let complete = self.head_tracker.complete();
        if complete != self.complete {
            self.complete = complete;
            self.head_timer = None;
        }
        if !self.head_tracker.awaits_head() {
            self.head_timer = None;
            return read;
        }
        if self.head_timer.is_none() && buffer.filled().len() > before {
            self.head_timer = Some(Box::pin(tokio::time::sleep(self.head_timeout)));
        }
        let over = self
            .head_timer
            .as_mut()
            .is_some_and(|timer| timer.as_mut().poll(context).is_ready());
        if over {
            return Poll::Ready(Err(timed_out(
                "the head of a request did not arrive in time",
            )));
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for SlowClientGuard<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.bound_stall(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.bound_stall(context, written)
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
    async fn a_slow_head_is_cut_off_but_a_slow_body_is_not() {
        let (mut theirs, ours) = tokio::io::duplex(64);
        let (mut guarded, head_tracker) = SlowClientGuard::with_timeouts(ours, SHORT, SHORT);
        let mut byte = [0];
        // Idle time is not bounded here.
        let idle = tokio::time::timeout(SHORT * 3, guarded.read_exact(&mut byte)).await;
        assert!(idle.is_err());
        theirs.write_all(b"ab").await.expect("written");
        guarded.read_exact(&mut byte).await.expect("the first byte");
        let reading = head_tracker.head_complete();
        guarded.read_exact(&mut byte).await.expect("of the body");
        let body = tokio::time::timeout(SHORT * 3, guarded.read_exact(&mut byte)).await;
        assert!(body.is_err());
        drop(reading);
        theirs.write_all(b"c").await.expect("written");
        guarded.read_exact(&mut byte).await.expect("the first byte");
        let late = guarded.read_exact(&mut byte).await.expect_err("cut");
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_head_answered_before_another_read_stops_its_timer() {
        let (mut theirs, ours) = tokio::io::duplex(64);
        let (mut guarded, head_tracker) = SlowClientGuard::with_timeouts(ours, SHORT, SHORT);
        theirs.write_all(b"a").await.expect("written");
        let mut byte = [0];
        guarded.read_exact(&mut byte).await.expect("the head");
        // Nothing is read while the request is in progress; afterwards its response takes long.
        drop(head_tracker.head_complete());
        let next = tokio::time::timeout(SHORT * 3, guarded.read_exact(&mut byte)).await;
        assert!(next.is_err(), "{next:?}");
    }

    #[tokio::test]
    async fn a_write_to_a_client_that_reads_nothing_times_out() {
        let (theirs, ours) = tokio::io::duplex(4);
        let (mut guarded, _heads) = SlowClientGuard::with_timeouts(ours, SHORT, SHORT);
        let stalled = guarded.write_all(b"12345").await.expect_err("cut");
        assert_eq!(stalled.kind(), io::ErrorKind::TimedOut);
        drop(theirs);
    }
}
