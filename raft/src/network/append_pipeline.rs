//! Pipeline of appends to one follower: decides which of them may be in flight at once.
//!
//! openraft sends appends one after the other, because a follower that is overtaken by later entries sees a hole. A
//! commit is sent at once, by an append of its own that carries no entries. Sent like the others, it would hold up the
//! next entries for a round trip. Every client that waits for one answer before its next request would wait too. The
//! commit may be overtaken, because it only reports that the log is committed up to an entry this follower has
//! acknowledged long ago.
//!
//! # Invariants
//!
//! - While an append with entries is in flight, nothing follows it.
//! - Answers come in the order of the requests.
//! - After an answer that ends the stream, no request is taken any more.

use std::future::Future;

use futures_util::stream::{FuturesOrdered, Stream, StreamExt, unfold};

/// Maximum number of appends in flight at once: one that may be overtaken, and one behind it.
const IN_FLIGHT_MAX: usize = 2;

/// Append in flight.
pub(crate) struct InFlight<F> {
    /// Whether the append carries entries.
    pub has_entries: bool,
    /// The answer, and whether the stream continues after it.
    pub response: F,
}

struct PipelineState<I, S, F: Future> {
    input: I,
    send: S,
    in_flight: FuturesOrdered<F>,
    /// Whether the append that was sent last carries entries.
    has_entries: bool,
    ended: bool,
}

/// Returns the answers to the requests of `input`. `send` sends each request as soon as the invariants above allow.
pub(crate) fn pipelined<I, S, F, A>(input: I, send: S) -> impl Stream<Item = A>
where
    I: Stream + Unpin,
    S: FnMut(I::Item) -> InFlight<F>,
    F: Future<Output = (A, bool)>,
{
    let state = PipelineState {
        input,
        send,
        in_flight: FuturesOrdered::new(),
        has_entries: false,
        ended: false,
    };
    unfold(state, |mut state| async move {
        loop {
            if state.in_flight.is_empty() {
                state.has_entries = false;
            }
            let may_send =
                state.in_flight.len() < IN_FLIGHT_MAX && !state.has_entries && !state.ended;
            tokio::select! {
                biased;
                Some(answered) = state.in_flight.next() => {
                    let (answer, continues): (A, bool) = answered;
                    if !continues {
                        state.ended = true;
                        state.in_flight = FuturesOrdered::new();
                    }
                    return Some((answer, state));
                }
                request = state.input.next(), if may_send => match request {
                    Some(request) => {
                        let sent = (state.send)(request);
                        state.has_entries = sent.has_entries;
                        state.in_flight.push_back(sent.response);
                    }
                    None => state.ended = true,
                },
                else => return None,
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::BTreeMap;
    use std::pin::pin;

    use futures_util::FutureExt;
    use futures_util::stream::iter;
    use tokio::sync::oneshot;

    use super::*;

    /// Requests by name, in capitals those that carry entries. The test answers each of them.
    #[derive(Default)]
    struct Follower {
        waiting: RefCell<BTreeMap<char, oneshot::Sender<bool>>>,
    }

    impl Follower {
        fn send(&self, request: char) -> InFlight<impl Future<Output = (char, bool)>> {
            let (answer, replied) = oneshot::channel();
            self.waiting.borrow_mut().insert(request, answer);
            InFlight {
                has_entries: request.is_ascii_uppercase(),
                response: async move { (request, replied.await.expect("answered")) },
            }
        }

        fn in_flight(&self) -> String {
            self.waiting.borrow().keys().collect()
        }

        fn answer(&self, request: char, continues: bool) {
            let answer = self.waiting.borrow_mut().remove(&request).expect("sent");
            let _ = answer.send(continues);
        }
    }

    #[test]
    fn an_append_without_entries_is_overtaken_and_one_with_entries_is_not() {
        let follower = Follower::default();
        let mut answers = pin!(pipelined(iter("aBcd".chars()), |r| follower.send(r)));
        assert_eq!(answers.next().now_or_never(), None);
        assert_eq!(follower.in_flight(), "Ba");
        follower.answer('B', true);
        assert_eq!(answers.next().now_or_never(), None, "in order");
        assert_eq!(follower.in_flight(), "a");
        follower.answer('a', true);
        assert_eq!(answers.next().now_or_never(), Some(Some('a')));
        assert_eq!(
            follower.in_flight(),
            "",
            "B is not known to be answered yet"
        );
        assert_eq!(answers.next().now_or_never(), Some(Some('B')));
        assert_eq!(answers.next().now_or_never(), None);
        assert_eq!(follower.in_flight(), "cd");
        follower.answer('c', true);
        follower.answer('d', true);
        assert_eq!(answers.next().now_or_never(), Some(Some('c')));
        assert_eq!(answers.next().now_or_never(), Some(Some('d')));
        assert_eq!(answers.next().now_or_never(), Some(None));
    }

    #[test]
    fn no_append_follows_one_with_entries_until_its_answer() {
        let follower = Follower::default();
        let mut answers = pin!(pipelined(iter("Abc".chars()), |r| follower.send(r)));
        assert_eq!(answers.next().now_or_never(), None);
        assert_eq!(follower.in_flight(), "A");
        follower.answer('A', true);
        assert_eq!(answers.next().now_or_never(), Some(Some('A')));
        assert_eq!(answers.next().now_or_never(), None);
        assert_eq!(follower.in_flight(), "bc");
    }

    #[test]
    fn appends_in_flight_are_bounded() {
        let follower = Follower::default();
        let mut answers = pin!(pipelined(iter("abcD".chars()), |r| follower.send(r)));
        assert_eq!(answers.next().now_or_never(), None);
        assert_eq!(follower.in_flight(), "ab");
    }

    #[test]
    fn no_append_is_sent_or_answered_after_an_answer_that_ends_the_stream() {
        let follower = Follower::default();
        let mut answers = pin!(pipelined(iter("aBc".chars()), |r| follower.send(r)));
        assert_eq!(answers.next().now_or_never(), None);
        follower.answer('a', false);
        assert_eq!(answers.next().now_or_never(), Some(Some('a')));
        assert_eq!(answers.next().now_or_never(), Some(None));
        assert_eq!(follower.in_flight(), "B");
    }
}
