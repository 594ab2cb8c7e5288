//! The known masters, and the one to ask first.

use std::sync::{Mutex, PoisonError};

use url::Url;

use crate::error::Error;

/// Maximum number of masters that are remembered in addition to those given.
const LEARNED_MAX: usize = 16;

/// Parses a list such as `http://a:7101,b:7102`. A missing scheme means `http`.
pub fn parse_masters(text: &str) -> Result<Vec<Url>, Error> {
    let urls = text
        .split(',')
        .map(str::trim)
        .filter(|one| !one.is_empty())
        .map(parse_master);
    urls.collect()
}

fn parse_master(text: &str) -> Result<Url, Error> {
    let with_scheme = if text.contains("://") {
        text.to_owned()
    } else {
        format!("http://{text}")
    };
    let url = Url::parse(&with_scheme)
        .map_err(|error| Error::Usage(format!("{text} is not a master's URL: {error}")))?;
    check(&url)?;
    Ok(url)
}

fn check(url: &Url) -> Result<(), Error> {
    if url.scheme() != "http" {
        return Err(Error::Usage(format!(
            "{url}: the scheme must be http, not {}",
            url.scheme()
        )));
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err(Error::Usage(format!("{url}: the host is missing")));
    }
    Ok(())
}

/// The masters known, in a fixed order, and the one that answered last.
#[derive(Debug)]
pub(super) struct Masters {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    known: Vec<Url>,
    given: usize,
    /// The master that calls ask first.
    start: Url,
    /// Whether that master answered its latest call.
    answered: bool,
}

impl State {
    fn after(&self, master: &Url) -> Url {
        let at = self.known.iter().position(|one| one == master);
        let next = at.map_or(0, |at| (at + 1) % self.known.len());
        self.known[next].clone()
    }
}

impl Masters {
    pub(super) fn new(given: &[Url]) -> Result<Self, Error> {
        if given.is_empty() {
            return Err(Error::Usage("at least one master is needed".to_owned()));
        }
        let mut known: Vec<Url> = Vec::with_capacity(given.len());
        for url in given {
            check(url)?;
            if !known.contains(url) {
                known.push(url.clone());
            }
        }
        let given = known.len();
        let known_first = known[0].clone();
        Ok(Self {
            state: Mutex::new(State {
                known,
                given,
                start: known_first,
                answered: false,
            }),
        })
    }

    pub(super) fn all(&self) -> Vec<Url> {
        self.lock().known.clone()
    }

    pub(super) fn count(&self) -> usize {
        self.lock().known.len()
    }

    /// Returns the master asked first, if it answered its latest call.
    pub(super) fn preferred(&self) -> Option<Url> {
        let state = self.lock();
        state.answered.then(|| state.start.clone())
    }

    /// Returns the master that a call asks first.
    pub(super) fn first(&self) -> Url {
        self.lock().start.clone()
    }

    /// Returns the master that a call asks after `master` failed.
    pub(super) fn after(&self, master: &Url) -> Url {
        self.lock().after(master)
    }

    /// Records that `master` answered: it is asked first from now on.
    pub(super) fn prefer(&self, master: &Url) {
        let mut state = self.lock();
        if state.start != *master {
            state.start = master.clone();
        }
        state.answered = true;
    }

    /// Records that `master` failed. Calls then start with the next one, unless another has taken its place already. So
    /// a call with a short deadline that ran out on a silent master does not ask the same one again.
    pub(super) fn forget(&self, master: &Url) {
        let mut state = self.lock();
        if state.start == *master {
            state.start = state.after(master);
            state.answered = false;
        }
    }

    /// Replaces the masters learned before by these. Those given at the start stay.
    pub(super) fn learn(&self, learned: impl IntoIterator<Item = Url>) {
        let mut state = self.lock();
        let given = state.given;
        state.known.truncate(given);
        for url in learned.into_iter().take(LEARNED_MAX) {
            if check(&url).is_ok() && !state.known.contains(&url) {
                state.known.push(url);
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // No code under this lock panics halfway, so the state is consistent even if a caller panicked.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::{Masters, parse_masters};

    #[test]
    fn reads_lists_with_and_without_scheme() {
        let urls = parse_masters("http://a:1, b:2,").expect("valid");
        assert_eq!(
            urls.iter().map(|url| url.as_str()).collect::<Vec<_>>(),
            ["http://a:1/", "http://b:2/"]
        );
        assert!(parse_masters("ftp://a:1").is_err());
        assert!(parse_masters("http://").is_err());
    }

    #[test]
    fn goes_round_and_prefers_who_answered() {
        let urls = parse_masters("a:1,b:2").expect("valid");
        let masters = Masters::new(&urls).expect("not empty");
        assert_eq!(masters.first(), urls[0]);
        assert_eq!(masters.after(&urls[0]), urls[1]);
        assert_eq!(masters.after(&urls[1]), urls[0]);
        masters.prefer(&urls[1]);
        assert_eq!(masters.first(), urls[1]);
        masters.forget(&urls[0]);
        assert_eq!(masters.first(), urls[1]);
        assert_eq!(masters.preferred(), Some(urls[1].clone()));
        masters.forget(&urls[1]);
        assert_eq!(
            (masters.first(), masters.preferred()),
            (urls[0].clone(), None)
        );
        masters.forget(&urls[0]);
        assert_eq!(
            masters.first(),
            urls[1],
            "one that is silent is not asked first twice"
        );
    }

    #[test]
    fn learned_masters_replace_each_other_but_never_the_given() {
        let urls = parse_masters("a:1,b:2,c:3").expect("valid");
        let masters = Masters::new(&urls[..1]).expect("not empty");
        masters.learn([urls[0].clone(), urls[1].clone()]);
        assert_eq!(masters.all(), urls[..2]);
        masters.learn([urls[2].clone()]);
        assert_eq!(masters.all(), [urls[0].clone(), urls[2].clone()]);
    }
}
