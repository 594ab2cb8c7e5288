//! Copy-on-write pages: an ordered map of records, shared with frozen views.
//!
//! The keys of the records only ever grow. Records are kept in pages of [`PAGE_RECORDS`] behind `Arc`. Freezing clones
//! the list of pages, not the records. After that, the first write to a page copies that page only. A view of a million
//! records costs some thousand reference counts, and applies go on concurrently.
//!
//! Each page caches a sum over its records until it is next changed. So a digest over all records costs only the pages
//! that changed since the last one. The sum does not depend on how records are spread over pages. Replicas that reached
//! the same records in different ways have the same sum.
//!
//! # Invariants
//!
//! - Keys ascend within a page and over the pages.
//! - No page is empty.
//! - Every key of a page is at or above the key it is filed under, and below the next page's.

use std::collections::BTreeMap;
use std::ops::{Bound, RangeInclusive};
use std::sync::{Arc, OnceLock};

/// Records in a full page. Larger pages freeze faster and copy slower.
const PAGE_RECORDS: usize = 128;

/// A value with a key of its own.
pub(crate) trait Record: Clone {
    /// Its key.
    type Key: Ord + Copy + std::fmt::Debug;
    /// Returns its key, which never changes over the life of the record.
    fn key(&self) -> Self::Key;
}

/// Some consecutive records.
#[derive(Debug)]
struct Page<R> {
    records: Vec<R>,
    /// Cached sum over the current records; see [`Paged::sum`].
    sum: OnceLock<u64>,
}

impl<R> Page<R> {
    fn of(records: Vec<R>) -> Arc<Self> {
        Arc::new(Self {
            records,
            sum: OnceLock::new(),
        })
    }
}

/// A clone drops the cached sum, because it is made in order to be changed.
impl<R: Clone> Clone for Page<R> {
    fn clone(&self) -> Self {
        Self {
            records: self.records.clone(),
            sum: OnceLock::new(),
        }
    }
}

/// Returns the records of a page for a change: copies them if a view shares them, and drops their cached sum.
fn page_records_mut<R: Clone>(page: &mut Arc<Page<R>>) -> &mut Vec<R> {
    let page = Arc::make_mut(page);
    page.sum.take();
    &mut page.records
}

/// The paged map. `Clone` is the freeze. See the module.
#[derive(Debug, Clone)]
pub(crate) struct Paged<R: Record> {
    pages: BTreeMap<R::Key, Arc<Page<R>>>,
    len: usize,
}

impl<R: Record> Default for Paged<R> {
    fn default() -> Self {
        Self {
            pages: BTreeMap::new(),
            len: 0,
        }
    }
}

impl<R: Record> Paged<R> {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn first(&self) -> Option<&R> {
        self.pages
            .first_key_value()
            .and_then(|(_, page)| page.records.first())
    }

    pub fn last(&self) -> Option<&R> {
        self.pages
            .last_key_value()
            .and_then(|(_, page)| page.records.last())
    }

    pub fn get(&self, key: R::Key) -> Option<&R> {
        let (_, page) = self.pages.range(..=key).next_back()?;
        let at = place(&page.records, key)?;
        Some(&page.records[at])
    }

    pub fn get_mut(&mut self, key: R::Key) -> Option<&mut R> {
        let (_, page) = self.pages.range_mut(..=key).next_back()?;
        let at = place(&page.records, key)?;
        Some(&mut page_records_mut(page)[at])
    }

    /// Changes every record. The keys must stay.
    pub fn change_all(&mut self, mut change: impl FnMut(&mut R)) {
        for page in self.pages.values_mut() {
            page_records_mut(page).iter_mut().for_each(&mut change);
        }
    }

    /// Adds a record whose key is above all others.
    pub fn push(&mut self, record: R) {
        let key = record.key();
        assert!(self.try_push(record), "keys must grow, {key:?} does not");
    }

    /// Adds a record if its key is above all others; returns whether it did.
    pub fn try_push(&mut self, record: R) -> bool {
        let key = record.key();
        if self.last().is_some_and(|last| last.key() >= key) {
            return false;
        }
        self.len += 1;
        if let Some(mut page) = self.pages.last_entry()
            && page.get().records.len() < PAGE_RECORDS
        {
            let records = page_records_mut(page.get_mut());
            let count = records.len();
            if count == records.capacity() {
                records.reserve_exact((count * 2).clamp(4, PAGE_RECORDS) - count);
            }
            records.push(record);
            return true;
        }
        self.pages.insert(key, Page::of(vec![record]));
        true
    }

    pub fn remove(&mut self, key: R::Key) -> Option<R> {
        let (&filed, page) = self.pages.range_mut(..=key).next_back()?;
        let at = place(&page.records, key)?;
        let records = page_records_mut(page);
        let record = records.remove(at);
        let left = records.len();
        self.len -= 1;
        if left == 0 {
            self.pages.remove(&filed);
        } else if left < PAGE_RECORDS / 4 {
            self.merge(filed);
        }
        Some(record)
    }

    /// Merges a page that has become sparse with its successor, so that pages stay well filled after any order of
    /// removals.
    fn merge(&mut self, filed: R::Key) {
        let above = (Bound::Excluded(filed), Bound::Unbounded);
        let Some((&next, page)) = self.pages.range(above).next() else {
            return;
        };
        if page.records.len() + self.pages[&filed].records.len() > PAGE_RECORDS / 2 {
            return;
        }
        let page = self.pages.remove(&next).expect("just found");
        let records = Arc::unwrap_or_clone(page).records;
        let target = self.pages.get_mut(&filed).expect("the caller's page");
        page_records_mut(target).extend(records);
    }

    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &R> {
        self.pages.values().flat_map(|page| page.records.iter())
    }

    /// Returns records with keys above `after` (all, without one), ascending.
    pub fn iter_after(&self, after: Option<R::Key>) -> impl Iterator<Item = &R> {
        let from = after
            .and_then(|key| self.pages.range(..=key).next_back())
            .map(|(&filed, _)| filed);
        let lower = from.map_or(Bound::Unbounded, Bound::Included);
        self.pages
            .range((lower, Bound::Unbounded))
            .flat_map(|(_, page)| page.records.iter())
            .skip_while(move |record| after.is_some_and(|after| record.key() <= after))
    }

    /// Returns records with keys below `before` (all, without one), descending.
    pub fn iter_before(&self, before: Option<R::Key>) -> impl Iterator<Item = &R> {
        let upper = before.map_or(Bound::Unbounded, Bound::Excluded);
        self.pages
            .range((Bound::Unbounded, upper))
            .rev()
            .flat_map(|(_, page)| page.records.iter().rev())
            .skip_while(move |record| before.is_some_and(|before| record.key() >= before))
    }

    /// Returns records with keys in the range, ascending.
    pub fn range(&self, keys: RangeInclusive<R::Key>) -> impl Iterator<Item = &R> {
        let (first, last) = keys.into_inner();
        let filed = self
            .pages
            .range(..=first)
            .next_back()
            .map_or(first, |(&filed, _)| filed);
        self.pages
            .range(filed..)
            .flat_map(|(_, page)| page.records.iter())
            .skip_while(move |record| record.key() < first)
            .take_while(move |record| record.key() <= last)
    }

    /// Returns the sum of `each` over all records. Only pages that changed since the last call are computed again, so
    /// `each` must always return the same for the same record.
    pub fn sum(&self, mut each: impl FnMut(&R) -> u64) -> u64 {
        let mut sum = |records: &[R]| {
            let each = records.iter().map(&mut each);
            each.fold(0_u64, u64::wrapping_add)
        };
        let pages = self.pages.values();
        pages
            .map(|page| *page.sum.get_or_init(|| sum(&page.records)))
            .fold(0_u64, u64::wrapping_add)
    }

    /// Returns the first violation of the invariants, if any.
    pub fn fault(&self) -> Option<String> {
        let mut count = 0;
        let mut last: Option<R::Key> = None;
        for (&filed, page) in &self.pages {
            let records = &page.records;
            if records.is_empty() || records.len() > PAGE_RECORDS {
                return Some(format!("page {filed:?} holds {} records", records.len()));
            }
            if last.is_some_and(|last| last >= filed) {
                return Some(format!("page {filed:?} begins below {last:?}"));
            }
            for record in records {
                let key = record.key();
                if key < filed || last.is_some_and(|last| last >= key) {
                    return Some(format!("{key:?} in page {filed:?} after {last:?}"));
                }
                last = Some(key);
                count += 1;
            }
        }
        (count != self.len).then(|| format!("{count} records, counted as {}", self.len))
    }
}

/// Returns the position of the record with this key.
fn place<R: Record>(records: &[R], key: R::Key) -> Option<usize> {
    records
        .binary_search_by(|record| record.key().cmp(&key))
        .ok()
}

#[cfg(test)]
mod tests {
    use super::{PAGE_RECORDS, Paged, Record};

    impl Record for (u64, u64) {
        type Key = u64;
        fn key(&self) -> u64 {
            self.0
        }
    }

    fn filled(count: u64) -> Paged<(u64, u64)> {
        let mut paged = Paged::default();
        for key in 0..count {
            paged.push((key * 2, key));
        }
        paged
    }

    fn keys<'a>(records: impl Iterator<Item = &'a (u64, u64)>) -> Vec<u64> {
        records.map(|record| record.0).collect()
    }

    #[test]
    fn finds_what_is_there_and_only_that() {
        let paged = filled(1_000);
        assert_eq!(paged.fault(), None);
        for key in 0..2_000 {
            assert_eq!(paged.get(key).is_some(), key % 2 == 0, "{key}");
        }
    }

    #[test]
    fn ranges_agree_with_a_plain_list() {
        let mut paged = filled(500);
        for key in (0..1_000).step_by(6) {
            assert!(paged.remove(key).is_some());
        }
        assert!(paged.remove(3).is_none());
        assert_eq!(paged.fault(), None);
        let all: Vec<u64> = (0..1_000)
            .filter(|key| key % 2 == 0 && key % 6 != 0)
            .collect();
        assert_eq!(keys(paged.iter()), all);
        for key in 0..1_002 {
            let above: Vec<u64> = all.iter().copied().filter(|&k| k > key).collect();
            let below: Vec<u64> = all.iter().rev().copied().filter(|&k| k < key).collect();
            let within: Vec<u64> = all
                .iter()
                .copied()
                .filter(|k| (key..=key + 300).contains(k))
                .collect();
            assert_eq!(keys(paged.iter_after(Some(key))), above, "after {key}");
            assert_eq!(keys(paged.iter_before(Some(key))), below, "before {key}");
            assert_eq!(keys(paged.range(key..=key + 300)), within, "from {key}");
        }
        assert_eq!(keys(paged.iter_after(None)), all);
    }

    #[test]
    fn a_frozen_view_does_not_change() {
        let mut paged = filled(1_000);
        let frozen = paged.clone();
        for key in (0..2_000).step_by(2) {
            if key % 3 == 0 {
                paged.remove(key);
            } else {
                paged.get_mut(key).expect("there").1 = 0;
            }
        }
        paged.push((5_000, 1));
        assert_eq!(paged.fault(), None);
        assert_eq!(frozen.len(), 1_000);
        assert!(
            frozen
                .iter()
                .enumerate()
                .all(|(at, &(key, value))| key == 2 * at as u64 && value == at as u64)
        );
    }

    #[test]
    fn a_sum_is_of_the_records_as_they_are_and_asks_only_what_has_changed() {
        let asked = |paged: &Paged<(u64, u64)>| {
            let mut count = 0;
            let sum = paged.sum(|&(key, value)| {
                count += 1;
                key.wrapping_mul(0x9e37_79b9).wrapping_add(value)
            });
            let mut fresh = Paged::default();
            paged.iter().for_each(|&record| fresh.push(record));
            let plain =
                fresh.sum(|&(key, value)| key.wrapping_mul(0x9e37_79b9).wrapping_add(value));
            assert_eq!(sum, plain);
            count
        };
        let mut paged = filled(1_000);
        assert_eq!(asked(&paged), 1_000);
        assert_eq!(asked(&paged), 0);
        let frozen = paged.clone();
        paged.get_mut(6).expect("there").1 = 9;
        assert!(asked(&paged) <= PAGE_RECORDS);
        assert_eq!(asked(&frozen), 0);
        for key in (0..2_000).step_by(6) {
            paged.remove(key);
            asked(&paged);
        }
        paged.push((5_000, 1));
        assert!(asked(&paged) <= PAGE_RECORDS);
    }

    #[test]
    fn random_removals_leave_pages_well_filled() {
        let mut paged = filled(20_000);
        let mut state = 1_u64;
        while paged.len() > 1_000 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            paged.remove((state >> 33) % 20_000 * 2);
        }
        assert_eq!(paged.fault(), None);
        assert!(
            paged.pages.len() < 1_000 * 8 / PAGE_RECORDS,
            "{} pages",
            paged.pages.len()
        );
    }
}
