//! Pool of permits (*places*) or bytes, with a total bound and a bound per client address.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::client_address::ClientAddress;

/// Pool that clients share. Cheap to clone; clones are the same pool.
#[derive(Debug, Clone)]
pub struct SharedPool(Arc<Pool>);

#[derive(Debug)]
struct Pool {
    max: usize,
    client_max: usize,
    usage: Mutex<Usage>,
}

#[derive(Debug, Default)]
struct Usage {
    total: usize,
    by_client: HashMap<ClientAddress, usize>,
}

/// Part of a pool that one request holds. Returned to the pool on drop.
#[derive(Debug)]
pub struct Share {
    pool: SharedPool,
    client: ClientAddress,
    amount: usize,
}

/// Bound that a request met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolFull {
    /// The bound of the whole pool.
    All,
    /// The bound of its client.
    Client,
}

impl SharedPool {
    /// Creates an unused pool.
    pub fn new(max: usize, client_max: usize) -> Self {
        Self(Arc::new(Pool {
            max,
            client_max: client_max.min(max),
            usage: Mutex::default(),
        }))
    }

    /// Takes a share.
    ///
    /// # Errors
    ///
    /// Fails at one of the bounds, and takes nothing then.
    pub fn take(&self, client: ClientAddress, amount: usize) -> Result<Share, PoolFull> {
        let mut usage = self.0.usage.lock();
        if usage.total.saturating_add(amount) > self.0.max {
            return Err(PoolFull::All);
        }
        let of_client = usage.by_client.get(&client).copied().unwrap_or(0);
        if of_client.saturating_add(amount) > self.0.client_max {
            return Err(PoolFull::Client);
        }
        Ok(self.add(&mut usage, client, amount))
    }

    /// Takes a share beyond the bounds if need be: for the answer to a change that is done.
    pub fn take_anyway(&self, client: ClientAddress, amount: usize) -> Share {
        self.add(&mut self.0.usage.lock(), client, amount)
    }

    fn add(&self, usage: &mut Usage, client: ClientAddress, amount: usize) -> Share {
        usage.total += amount;
        *usage.by_client.entry(client).or_default() += amount;
        Share {
            pool: self.clone(),
            client,
            amount,
        }
    }

    /// Returns the bound of one client.
    pub fn client_max(&self) -> usize {
        self.0.client_max
    }

    /// Returns how much is taken.
    pub fn used(&self) -> usize {
        self.0.usage.lock().total
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut usage = self.pool.0.usage.lock();
        usage.total -= self.amount;
        if let Some(of_client) = usage.by_client.get_mut(&self.client) {
            *of_client -= self.amount;
            if *of_client == 0 {
                usage.by_client.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_is_bounded_in_all_and_per_client_and_shares_are_given_back() {
        let client = |last: u8| ClientAddress::of_peer(([10, 0, 0, last], 1).into());
        let pool = SharedPool::new(10, 6);
        let first = pool.take(client(1), 6).expect("within both bounds");
        assert_eq!(pool.take(client(1), 1).err(), Some(PoolFull::Client));
        let second = pool.take(client(2), 4).expect("within both bounds");
        assert_eq!(pool.take(client(3), 1).err(), Some(PoolFull::All));
        let beyond = pool.take_anyway(client(3), 5);
        assert_eq!(pool.used(), 15);
        drop((first, second, beyond));
        assert_eq!(pool.used(), 0);
        assert!(pool.0.usage.lock().by_client.is_empty());
    }
}
