//! Retry back-off: the delay between a failed attempt and the next, exponential with deterministic jitter.

use crate::command::Backoff;
use crate::types::ids::TaskId;

/// Returns the wait before the `retry`-th retry (from 1) of this task, in ms. It uses integers only, because every
/// replica must compute the same wait. The jitter is derived from the task and the retry, so that tasks that failed
/// together do not come back together.
pub(crate) fn backoff_ms(backoff: &Backoff, task: TaskId, retry: u32) -> u64 {
    let max = u128::from(backoff.max_ms);
    let mut wait = u128::from(backoff.initial_ms).min(max);
    for _ in 1..retry {
        let grown = (wait * u128::from(backoff.factor_milli) / 1_000).min(max);
        if grown <= wait {
            break;
        }
        wait = grown;
    }
    let jitter = u128::from(backoff.jitter_permille);
    let random_permille =
        u128::from(mixed(task.0 ^ u64::from(retry).rotate_right(8))) % (2 * jitter + 1);
    let spread = wait * (1_000 - jitter.min(1_000) + random_permille) / 1_000;
    u64::try_from(spread).unwrap_or(u64::MAX)
}

/// The finalizer of SplitMix64: every input bit reaches every output bit.
fn mixed(mut bits: u64) -> u64 {
    bits = bits.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::backoff_ms;
    use crate::command::Backoff;
    use crate::types::ids::TaskId;

    const PLAIN: Backoff = Backoff {
        initial_ms: 100,
        factor_milli: 1_500,
        max_ms: 1_000,
        jitter_permille: 0,
    };

    #[test]
    fn grows_to_its_cap() {
        let waits: Vec<u64> = (1..9)
            .map(|retry| backoff_ms(&PLAIN, TaskId(7), retry))
            .collect();
        assert_eq!(waits, [100, 150, 225, 337, 505, 757, 1_000, 1_000]);
        assert_eq!(backoff_ms(&PLAIN, TaskId(7), u32::MAX), 1_000);
    }

    #[test]
    fn extremes_neither_overflow_nor_hang() {
        let flat = Backoff {
            initial_ms: 5,
            factor_milli: 1_000,
            max_ms: u64::MAX,
            jitter_permille: 0,
        };
        assert_eq!(backoff_ms(&flat, TaskId(1), u32::MAX), 5);
        let none = Backoff {
            initial_ms: 0,
            factor_milli: 9_000,
            max_ms: u64::MAX,
            jitter_permille: 1_000,
        };
        assert_eq!(backoff_ms(&none, TaskId(1), u32::MAX), 0);
        let vast = Backoff {
            initial_ms: u64::MAX,
            factor_milli: u32::MAX,
            max_ms: u64::MAX,
            jitter_permille: 1_000,
        };
        for task in 0..100 {
            backoff_ms(&vast, TaskId(task), u32::MAX);
        }
    }

    #[test]
    fn jitter_stays_in_its_bounds_and_spreads() {
        let backoff = Backoff {
            initial_ms: 10_000,
            jitter_permille: 200,
            max_ms: 10_000,
            ..PLAIN
        };
        let waits: Vec<u64> = (0..1_000)
            .map(|task| backoff_ms(&backoff, TaskId(task), 1))
            .collect();
        assert!(waits.iter().all(|wait| (8_000..=12_000).contains(wait)));
        assert!(waits.iter().any(|&wait| wait < 8_500) && waits.iter().any(|&wait| wait > 11_500));
        let mean = waits.iter().sum::<u64>() / 1_000;
        assert!((9_800..=10_200).contains(&mean), "{mean}");
    }
}
