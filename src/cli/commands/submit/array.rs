//! Arrays of tasks: the numbers in `--array`, as users of Slurm write them.

use std::collections::BTreeSet;

/// Maximum tasks of an array. One that cannot be accepted is thereby refused before it is built.
pub const ARRAY_TASKS_MAX: u64 = 100_000;
/// Maximum of `%N`, as the cluster accepts it.
const CONCURRENCY_MAX: u32 = 1_000_000;

/// Numbers of the tasks of an array.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Array {
    /// The numbers, in the order given, each once.
    pub numbers: Vec<u64>,
    /// Maximum tasks that run at once.
    pub concurrency: Option<u32>,
}

/// Parses `1-100`, `1,3,5`, `0-10:2`, a list of these, and `%N` behind it.
pub fn parse(text: &str) -> Result<Array, String> {
    let (list, concurrency) = match text.split_once('%') {
        None => (text, None),
        Some((list, most)) => (list, Some(concurrency(text, most)?)),
    };
    let mut numbers = Vec::new();
    let mut known = BTreeSet::new();
    for item in list.split(',') {
        let (from, to, step) = range(text, item.trim())?;
        if (to - from) / step >= ARRAY_TASKS_MAX {
            return Err(too_many(text));
        }
        for number in (0..=(to - from) / step).map(|nth| from + nth * step) {
            if known.insert(number) {
                numbers.push(number);
            }
        }
        if numbers.len() as u64 > ARRAY_TASKS_MAX {
            return Err(too_many(text));
        }
    }
    Ok(Array {
        numbers,
        concurrency,
    })
}

fn too_many(text: &str) -> String {
    format!("'{text}' is more than {ARRAY_TASKS_MAX} tasks; submit several jobs")
}

fn concurrency(text: &str, most: &str) -> Result<u32, String> {
    match most.trim().parse() {
        Ok(most) if (1..=CONCURRENCY_MAX).contains(&most) => Ok(most),
        Ok(_) | Err(_) => Err(format!(
            "'{text}': behind % is the maximum of tasks that run at once, from 1, as in 1-100%4"
        )),
    }
}

/// Parses `N`, `FROM-TO` or `FROM-TO:STEP`.
fn range(text: &str, item: &str) -> Result<(u64, u64, u64), String> {
    let wrong = || {
        format!(
            "'{text}' is no list of numbers and ranges, such as 1-100, 1,3,5 or 0-10:2, with %N behind it for at most N \
             at once"
        )
    };
    let number = |text: &str| -> Result<u64, String> {
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        is_number
            .then(|| text.parse().ok())
            .flatten()
            .ok_or_else(wrong)
    };
    let (range, step) = match item.split_once(':') {
        None => (item, 1),
        Some((range, step)) => (range, number(step)?),
    };
    if step == 0 {
        return Err(format!("'{text}': a step is at least 1"));
    }
    let (from, to) = match range.split_once('-') {
        Some((from, to)) => (number(from)?, number(to)?),
        None if step == 1 => (number(range)?, number(range)?),
        None => return Err(wrong()),
    };
    if from > to {
        return Err(format!("'{text}' is empty: {from} is greater than {to}"));
    }
    Ok((from, to, step))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(text: &str) -> Vec<u64> {
        parse(text).expect(text).numbers
    }

    #[test]
    fn numbers_ranges_and_steps_are_listed_in_the_order_given() {
        assert_eq!(numbers("9-11"), [9, 10, 11]);
        assert_eq!(numbers("7-7"), [7]);
        assert_eq!(numbers("5"), [5]);
        assert_eq!(numbers("1,3,5"), [1, 3, 5]);
        assert_eq!(numbers("0-10:2"), [0, 2, 4, 6, 8, 10]);
        assert_eq!(numbers("0-9:4,20, 3-4"), [0, 4, 8, 20, 3]);
        assert_eq!(numbers("1-3,2-4,2"), [1, 2, 3, 4], "each number once");
        assert_eq!(numbers("1-100000").len(), 100_000);
        assert_eq!(numbers("0-1000000:1000").len(), 1_001);
        assert_eq!(numbers("18446744073709551615"), [u64::MAX]);
    }

    #[test]
    fn a_limit_on_running_tasks_stands_behind_a_percent_sign() {
        let array = parse("1-10%2").expect("valid");
        assert_eq!((array.numbers.len(), array.concurrency), (10, Some(2)));
        assert_eq!(parse("1-10").expect("valid").concurrency, None);
        for text in ["1-10%", "1-10%0", "1-10%x", "1-10%2%3", "1-10%-1"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_names_no_numbers_is_refused() {
        for text in [
            "",
            ",",
            "1,",
            "5-",
            "-5",
            "a-b",
            "2-1",
            "1-2-3",
            "1-5:0",
            "1-5:",
            "5:2",
            "1-5:x",
            "+1",
            "1 2",
            "%2",
            "1-100001",
            "0-18446744073709551615",
            "1-60000,70000-120000",
            "18446744073709551616",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
