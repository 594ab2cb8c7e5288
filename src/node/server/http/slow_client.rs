//! Slow-client protection: timeouts on request heads and on stalled writes, and a delay for clients that speak no HTTP.
//!
//! Two kinds of slow clients cost a server memory and connections at no cost to themselves. One sends a head byte by
//! byte; the other does not read its response. Both kinds of connections end here. An idle connection between two
//! requests, and a response that takes long to make, are bounded elsewhere.
//!
//! A client whose first bytes are no request is refused by the HTTP library. The refusal is written with a delay, so that
//! a client that connects again at once takes little processor time from others.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// Maximum time for a head to arrive, from its first byte on.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum time for the client to take a part of a response that waits for it.
const WRITE_STALL_TIMEOUT: Duration = Duration::from_secs(20);
/// Size of that part in bytes. A client that takes less in that time holds memory at no cost to itself.
const WRITE_PROGRESS_BYTES_MIN: usize = 64 << 10;

/// Delay before the refusal of a connection whose first bytes are no request, and of repeated messages of strangers.
pub const REFUSAL_DELAY: Duration = Duration::from_millis(500);

/// A connection with slow-client protection.
pub struct SlowClientGuard<S> {
    stream: S,
    head_tracker: HeadTracker,
    /// Number of complete heads at the last read.
    complete: usize,
    /// Runs from the first byte of a head until it is complete.
    head_timer: Option<Pin<Box<Sleep>>>,
    /// Runs while a response waits for the client.
    write_timer: Option<Pin<Box<Sleep>>>,
    /// Runs before a refusal is written to a client that has sent no request.
    refusal_timer: Option<Pin<Box<Sleep>>>,
    /// Bytes written since the timer began.
    written_bytes: usize,
    /// Whether bytes were written that are not known to be with the system.
    unflushed: bool,
    /// Whether the client has ended its input, which is held back until its request is answered.
    input_ended: bool,
    timeouts: Timeouts,
}

/// See the constants of these names.
#[derive(Debug, Clone, Copy)]
struct Timeouts {
    head: Duration,
    write_stall: Duration,
    refusal_delay: Duration,
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
    /// Number of those that are answered although the client has ended its input.
    outlive_input: AtomicUsize,
    /// Waker of the reader that the end of input is held back from.
    reader: Mutex<Option<Waker>>,
}

/// Reaction to a client that ends its input before its request is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InputEnd {
    /// The client still reads: it may have shut down its sending side only.
    ClientReads,
    /// The client has gone. A long poll or a stream must not outlive it.
    ClientGone,
}

/// Guard of a request in progress. See [`HeadTracker::head_complete`].
pub struct RequestInProgress {
    tracker: HeadTracker,
    input_end: InputEnd,
}

impl HeadTracker {
    /// Records that a head is complete. No other head is awaited until the returned guard is dropped.
    pub fn head_complete(&self, input_end: InputEnd) -> RequestInProgress {
        self.0.complete.fetch_add(1, Ordering::Relaxed);
        self.0.in_progress.fetch_add(1, Ordering::Relaxed);
        if input_end == InputEnd::ClientReads {
            self.0.outlive_input.fetch_add(1, Ordering::Relaxed);
        }
        RequestInProgress {
            tracker: self.clone(),
            input_end,
        }
    }

    /// Returns whether the end of input must wait for an answer, whose end wakes the reader.
    fn holds_back_input_end(&self, context: &Context<'_>) -> bool {
        let mut reader = self.0.reader.lock();
        let answering = self.0.outlive_input.load(Ordering::Relaxed) > 0;
        *reader = answering.then(|| context.waker().clone());
        answering
    }

    /// Returns whether no request is in progress.
    pub fn awaits_head(&self) -> bool {
        self.0.in_progress.load(Ordering::Relaxed) == 0
    }

    fn complete(&self) -> usize {
        self.0.complete.load(Ordering::Relaxed)
    }
}

impl Drop for RequestInProgress {
    fn drop(&mut self) {
        let counts = &self.tracker.0;
        counts.in_progress.fetch_sub(1, Ordering::Relaxed);
        if self.input_end == InputEnd::ClientReads {
            let mut reader = counts.reader.lock();
            counts.outlive_input.fetch_sub(1, Ordering::Relaxed);
            if let Some(reader) = reader.take() {
                reader.wake();
            }
        }
    }
}

fn timed_out(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, what)
}

impl<S> SlowClientGuard<S> {
    /// Guards a connection. The caller must report every complete head to the tracker.
    pub fn new(stream: S) -> (Self, HeadTracker) {
        let timeouts = Timeouts {
            head: HEAD_TIMEOUT,
            write_stall: WRITE_STALL_TIMEOUT,
            refusal_delay: REFUSAL_DELAY,
        };
        Self::with_timeouts(stream, timeouts)
    }

    fn with_timeouts(stream: S, timeouts: Timeouts) -> (Self, HeadTracker) {
        let head_tracker = HeadTracker::default();
        let guarded = Self {
            stream,
            head_tracker: head_tracker.clone(),
            complete: 0,
            head_timer: None,
            write_timer: None,
            refusal_timer: None,
            written_bytes: 0,
            unflushed: false,
            input_ended: false,
            timeouts,
        };
        (guarded, head_tracker)
    }

    /// Waits before a write to a client that has sent no request. Only a refusal is written then.
    fn poll_refusal_delay(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.head_tracker.complete() > 0 {
            return Poll::Ready(());
        }
        let delay = self.timeouts.refusal_delay;
        self.refusal_timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(delay)))
            .as_mut()
            .poll(context)
    }

    /// Bounds the time that a write makes too little progress.
    fn bound_stall(
        &mut self,
        context: &mut Context<'_>,
        done: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(written) = &done {
            self.written_bytes += written.as_ref().copied().unwrap_or(0);
            if self.written_bytes >= WRITE_PROGRESS_BYTES_MIN {
                self.write_timer = None;
            }
            return done;
        }
        if self.write_timer.is_none() {
            self.written_bytes = 0;
        }
        let timeout = self.timeouts.write_stall;
        let timer = || Box::pin(tokio::time::sleep(timeout));
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
        let at_end = matches!(read, Poll::Ready(Ok(())))
            && buffer.filled().len() == before
            && buffer.remaining() > 0;
        if at_end && self.head_tracker.holds_back_input_end(context) {
            // The end of the request wakes the reader. A flush must not: the connection flushes at every poll, and would
            // poll itself for as long as the request takes.
            return Poll::Pending;
        }
        if at_end && self.unflushed {
            self.input_ended = true;
            return Poll::Pending;
        }
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
            self.head_timer = Some(Box::pin(tokio::time::sleep(self.timeouts.head)));
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
        std::task::ready!(self.poll_refusal_delay(context));
        self.unflushed = true;
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.bound_stall(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        std::task::ready!(self.poll_refusal_delay(context));
        self.unflushed = true;
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.bound_stall(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        if flushed.is_ready() {
            self.unflushed = false;
            // The client has taken all that there was.
            self.write_timer = None;
            if self.input_ended {
                // The answer is out, so the end of input may be read.
                self.input_ended = false;
                context.waker().wake_by_ref();
            }
        }
        flushed
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
    const TIMEOUTS: Timeouts = Timeouts {
        head: SHORT,
        write_stall: SHORT,
        refusal_delay: SHORT,
    };

    #[tokio::test]
    async fn a_slow_head_is_cut_off_but_a_slow_body_is_not() {
        let (mut theirs, ours) = tokio::io::duplex(64);
        let (mut guarded, head_tracker) = SlowClientGuard::with_timeouts(ours, TIMEOUTS);
        let mut byte = [0];
        // Idle time is not bounded here.
        let idle = tokio::time::timeout(SHORT * 3, guarded.read_exact(&mut byte)).await;
        assert!(idle.is_err());
        theirs.write_all(b"ab").await.expect("written");
        guarded.read_exact(&mut byte).await.expect("the first byte");
        let reading = head_tracker.head_complete(InputEnd::ClientGone);
        guarded.read_exact(&mut byte).await.expect("of the body");
        let body = tokio::time::timeout(SHORT * 3, guarded.read_exact(&mut byte)).await;
        assert!(body.is_err());
        drop(reading);
        theirs.write_all(b"c").await.expect("written");
        guarded.read_exact(&mut byte).await.expect("the first byte");
        let late = guarded.read_exact(&mut byte).await.expect_err("cut");
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
    }

    #[derive(Default)]
    struct WakeCount(AtomicUsize);

    impl std::task::Wake for WakeCount {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[tokio::test]
    async fn a_client_that_ended_its_input_costs_no_processor_while_it_waits() {
        let (mut theirs, ours) = tokio::io::duplex(64);
        theirs.shutdown().await.expect("open");
        let (mut guarded, head_tracker) = SlowClientGuard::with_timeouts(ours, TIMEOUTS);
        let request = head_tracker.head_complete(InputEnd::ClientReads);
        let wakes = Arc::new(WakeCount::default());
        let waker = Waker::from(Arc::clone(&wakes));
        let mut context = Context::from_waker(&waker);
        let mut byte = [0];
        let mut buffer = ReadBuf::new(&mut byte);
        let read = Pin::new(&mut guarded).poll_read(&mut context, &mut buffer);
        assert!(read.is_pending());
        assert!(Pin::new(&mut guarded).poll_flush(&mut context).is_ready());
        assert_eq!(wakes.0.load(Ordering::Relaxed), 0);
        drop(request);
        assert_eq!(wakes.0.load(Ordering::Relaxed), 1);
        let read = Pin::new(&mut guarded).poll_read(&mut context, &mut buffer);
        assert!(read.is_ready());
    }

    #[tokio::test]
    async fn a_head_answered_before_another_read_stops_its_timer() {
        let (mut theirs, ours) = tokio::io::duplex(64);
        let (mut guarded, head_tracker) = SlowClientGuard::with_timeouts(ours, TIMEOUTS);
        theirs.write_all(b"a").await.expect("written");
        let mut byte = [0];
        guarded.read_exact(&mut byte).await.expect("the head");
        // Nothing is read while the request is in progress; afterwards its response takes long.
        drop(head_tracker.head_complete(InputEnd::ClientGone));
        let next = tokio::time::timeout(SHORT * 3, guarded.read_exact(&mut byte)).await;
        assert!(next.is_err(), "{next:?}");
    }

    #[tokio::test]
    async fn the_end_of_input_is_read_after_the_answer_unless_the_client_counts_as_gone() {
        for input_end in [InputEnd::ClientReads, InputEnd::ClientGone] {
            let (mut theirs, ours) = tokio::io::duplex(64);
            let (mut guarded, head_tracker) = SlowClientGuard::with_timeouts(ours, TIMEOUTS);
            theirs.write_all(b"a").await.expect("written");
            let mut byte = [0];
            guarded.read_exact(&mut byte).await.expect("the head");
            let answering = head_tracker.head_complete(input_end);
            theirs.shutdown().await.expect("half closed");
            let early = tokio::time::timeout(SHORT, guarded.read(&mut byte)).await;
            assert_eq!(early.is_err(), input_end == InputEnd::ClientReads);
            guarded.write_all(b"b").await.expect("written");
            drop(answering);
            guarded.flush().await.expect("flushed");
            let end = tokio::time::timeout(SHORT * 10, guarded.read(&mut byte)).await;
            assert!(matches!(end, Ok(Ok(0))), "{end:?}");
            theirs.read_exact(&mut byte).await.expect("the answer");
        }
    }

    #[tokio::test]
    async fn a_refusal_before_any_request_is_written_after_a_delay_and_an_answer_at_once() {
        let write = async |requests: usize, refusal_delay: Duration| {
            let (_theirs, ours) = tokio::io::duplex(64);
            let timeouts = Timeouts {
                refusal_delay,
                ..TIMEOUTS
            };
            let (mut guarded, head_tracker) = SlowClientGuard::with_timeouts(ours, timeouts);
            for _ in 0..requests {
                drop(head_tracker.head_complete(InputEnd::ClientReads));
            }
            tokio::time::timeout(SHORT * 3, guarded.write_all(b"a")).await
        };
        let long = Duration::from_secs(3_600);
        assert!(write(0, long).await.is_err());
        assert!(write(0, Duration::from_millis(1)).await.is_ok());
        assert!(write(1, long).await.is_ok());
    }

    #[tokio::test]
    async fn a_write_to_a_client_that_reads_nothing_times_out() {
        let (theirs, ours) = tokio::io::duplex(4);
        let (mut guarded, _heads) = SlowClientGuard::with_timeouts(ours, TIMEOUTS);
        let stalled = guarded.write_all(b"12345").await.expect_err("cut");
        assert_eq!(stalled.kind(), io::ErrorKind::TimedOut);
        drop(theirs);
    }
}
