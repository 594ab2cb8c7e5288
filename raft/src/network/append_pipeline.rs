//! Which appends to one follower may be under way at once.
//!
//! openraft sends them one after the other, because a follower that is overtaken by later entries sees a hole. A commit
//! is told at once, by an append of its own that carries no entries; sent like the others, it would hold up the next
//! entries for a round trip, and with them every client that waits for one answer before it asks again. But it may be
//! overtaken: all it says is that the log is agreed upon up to an entry which this follower has acknowledged long ago.
//!
//! Invariants:
//!
//! - While an append with entries is under way, nothing follows it.
//! - Answers come in the order of the requests.
//! - After an answer that ends the stream, no request is taken any more.

use std::future::Future;

use futures_util::stream::{FuturesOrdered, Stream, StreamExt, unfold};

/// The most that are under way at once: one that may be overtaken, and one behind it.
const UNDER_WAY_MAX: usize = 2;

/// One append on its way.
pub(crate) struct Sent<F> {
    /// It carries entries.
    pub carries: bool,
    /// Its answer, and whether the stream goes on after it.
    pub answer: F,
}

struct State<I, S, F: Future> {
    input: I,
    send: S,
    under_way: FuturesOrdered<F>,
    /// What was sent last carries entries.
    carries: bool,
    ended: bool,
}

/// The answers to the requests of `input`, each sent by `send` as soon as the rules above allow.
pub(crate) fn overlapping<I, S, F, A>(input: I, send: S) -> impl Stream<Item = A>
where
    I: Stream + Unpin,
    S: FnMut(I::Item) -> Sent<F>,
    F: Future<Output = (A, bool)>,
{
    let state = State {
        input,
        send,
        under_way: FuturesOrdered::new(),
        carries: false,
        ended: false,
    };
    unfold(state, |mut state| async move {
        loop {
            if state.under_way.is_empty() {
                state.carries = false;
            }
            let room = state.under_way.len() < UNDER_WAY_MAX && !state.carries && !state.ended;
            tokio::select! {
                biased;
                Some(answered) = state.under_way.next() => {
                    let (answer, goes_on): (A, bool) = answered;
                    if !goes_on {
                        state.ended = true;
                        state.under_way = FuturesOrdered::new();
                    }
                    return Some((answer, state));
                }
                request = state.input.next(), if room => match request {
                    Some(request) => {
                        let sent = (state.send)(request);
                        state.carries = sent.carries;
                        state.under_way.push_back(sent.answer);
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

    /// Requests by name, in capitals those that carry entries; what was sent is answered by hand.
    #[derive(Default)]
    struct Follower {
        waiting: RefCell<BTreeMap<char, oneshot::Sender<bool>>>,
    }

    impl Follower {
        fn send(&self, request: char) -> Sent<impl Future<Output = (char, bool)>> {
            let (answer, told) = oneshot::channel();
            self.waiting.borrow_mut().insert(request, answer);
            Sent {
                carries: request.is_ascii_uppercase(),
                answer: async move { (request, told.await.expect("answered")) },
            }
        }

        fn under_way(&self) -> String {
            self.waiting.borrow().keys().collect()
        }

        fn answer(&self, request: char, goes_on: bool) {
            let answer = self.waiting.borrow_mut().remove(&request).expect("sent");
            let _ = answer.send(goes_on);
        }
    }

    #[test]
    fn what_carries_nothing_is_overtaken_and_what_carries_entries_is_not() {
        let follower = Follower::default();
        let mut answers = pin!(overlapping(iter("aBcd".chars()), |r| follower.send(r)));
        assert_eq!(answers.next().now_or_never(), None);
        assert_eq!(follower.under_way(), "Ba");
        follower.answer('B', true);
        assert_eq!(answers.next().now_or_never(), None, "in order");
        assert_eq!(follower.under_way(), "a");
        follower.answer('a', true);
        assert_eq!(answers.next().now_or_never(), Some(Some('a')));
        assert_eq!(
            follower.under_way(),
            "",
            "B is not known to be answered yet"
        );
        assert_eq!(answers.next().now_or_never(), Some(Some('B')));
        assert_eq!(answers.next().now_or_never(), None);
        assert_eq!(follower.under_way(), "cd");
        follower.answer('c', true);
        follower.answer('d', true);
        assert_eq!(answers.next().now_or_never(), Some(Some('c')));
        assert_eq!(answers.next().now_or_never(), Some(Some('d')));
        assert_eq!(answers.next().now_or_never(), Some(None));
    }

    #[test]
    fn nothing_follows_entries_until_they_are_answered() {
        let follower = Follower::default();
        let mut answers = pin!(overlapping(iter("Abc".chars()), |r| follower.send(r)));
        assert_eq!(answers.next().now_or_never(), None);
        assert_eq!(follower.under_way(), "A");
        follower.answer('A', true);
        assert_eq!(answers.next().now_or_never(), Some(Some('A')));
        assert_eq!(answers.next().now_or_never(), None);
        assert_eq!(follower.under_way(), "bc");
    }

    #[test]
    fn no_more_is_under_way_than_may_be() {
        let follower = Follower::default();
        let mut answers = pin!(overlapping(iter("abcD".chars()), |r| follower.send(r)));
        assert_eq!(answers.next().now_or_never(), None);
        assert_eq!(follower.under_way(), "ab");
    }

    #[test]
    fn after_an_answer_that_ends_it_nothing_is_sent_or_answered() {
        let follower = Follower::default();
        let mut answers = pin!(overlapping(iter("aBc".chars()), |r| follower.send(r)));
        assert_eq!(answers.next().now_or_never(), None);
        follower.answer('a', false);
        assert_eq!(answers.next().now_or_never(), Some(Some('a')));
        assert_eq!(answers.next().now_or_never(), Some(None));
        assert_eq!(follower.under_way(), "B");
    }
}
