//! Who may come in: connections at a time and connects per second, in all and for each address.
//!
//! Pure but for a lock: times are arguments. What is remembered of addresses is bounded, whatever they are: those that are
//! connected are as many as there may be connections, and of those that are gone only the last [`REMEMBERED`] are known.
//! IPv6 clients own whole networks, so their first 64 bits count as their address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::limits::Limit;
use super::rate::Bucket;
use crate::config::broker::Limits;
use crate::store::memory::Held;

/// Addresses in one of the two generations of [`Recent`].
const REMEMBERED: usize = 32 * 1024;
/// Connections beyond the limit that are served as far as their CONNECT, to be told why they are refused. Those beyond are
/// closed without a word.
const ANTECHAMBER: u32 = 128;

/// Counts connections, and says who may come in.
#[derive(Debug)]
pub struct Admission {
    limits: Limits,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    connections: u32,
    /// Connections that are only there to be told why they are refused.
    refused: u32,
    connects: Bucket,
    by_address: HashMap<Address, u32>,
    recent: Recent,
}

/// What counts as one client's address: an IPv4 address, or an IPv6 network of 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Address {
    V4(u32),
    V6(u64),
}

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address.to_bits()),
            IpAddr::V6(address) => Self::V6((address.to_bits() >> 64) as u64),
        }
    }
}

/// The buckets of the last addresses, in two generations: when the younger is full, the older is forgotten. Whoever has
/// so many addresses that this helps him has no need of it.
#[derive(Debug, Default)]
struct Recent {
    young: HashMap<Address, Bucket>,
    old: HashMap<Address, Bucket>,
}

impl Recent {
    fn bucket(&mut self, address: Address) -> &mut Bucket {
        if self.young.len() >= REMEMBERED && !self.young.contains_key(&address) {
            self.old = std::mem::take(&mut self.young);
        }
        let known = self.old.remove(&address);
        self.young.entry(address).or_insert_with(|| known.unwrap_or_default())
    }
}

/// A place among the connections, given back when it is dropped.
#[derive(Debug)]
pub struct Pass {
    admission: Arc<Admission>,
    /// Counted under this address.
    address: Option<Address>,
    /// The limit that is reached: the client is to be told so in answer to its CONNECT.
    refused: Option<Limit>,
    /// What its transport has on the account of memory.
    pub held: Held,
}

impl Admission {
    pub fn new(limits: &Limits) -> Arc<Self> {
        Arc::new(Self { limits: limits.clone(), inner: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Behind the lock are numbers only, each consistent by itself.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a connection that was accepted. An error is the limit because of which it is to be closed at once; a pass
    /// may still say that its holder is refused.
    pub fn enter(self: &Arc<Self>) -> Result<Pass, Limit> {
        let mut inner = self.lock();
        let refused = (inner.connections >= self.limits.max_connections).then_some(Limit::MaxConnections);
        match refused {
            None => inner.connections += 1,
            Some(limit) if inner.refused >= ANTECHAMBER => return Err(limit),
            Some(_) => inner.refused += 1,
        }
        drop(inner);
        Ok(Pass { admission: self.clone(), address: None, refused, held: Held::default() })
    }

    /// A CONNECT has arrived: whether all clients together are not too fast.
    pub fn connect(&self, now: u64) -> Result<(), Limit> {
        let Some(rate) = self.limits.connect_rate else { return Ok(()) };
        if self.lock().connects.take(rate, 1, now) { Ok(()) } else { Err(Limit::ConnectRate) }
    }
}

impl Pass {
    /// The address of the client is known: from the socket, or from what a trusted proxy says. Call it once.
    pub fn identify(&mut self, address: IpAddr, now: u64) {
        let limits = &self.admission.limits;
        if self.refused.is_some()
            || (limits.max_connections_per_address == 0 && limits.connect_rate_per_address.is_none())
        {
            return;
        }
        let address = Address::from(address);
        let mut guard = self.admission.lock();
        let inner = &mut *guard;
        let too_fast =
            limits.connect_rate_per_address.is_some_and(|rate| !inner.recent.bucket(address).take(rate, 1, now));
        let connected = inner.by_address.get(&address).copied().unwrap_or(0);
        let refused = if limits.max_connections_per_address > 0 && connected >= limits.max_connections_per_address {
            Some(Limit::MaxConnectionsPerAddress)
        } else {
            too_fast.then_some(Limit::ConnectRatePerAddress)
        };
        match refused {
            None => {
                inner.by_address.insert(address, connected + 1);
                drop(guard);
                self.address = Some(address);
            }
            Some(limit) => {
                inner.connections -= 1;
                inner.refused += 1;
                drop(guard);
                self.refused = Some(limit);
            }
        }
    }

    /// The limit because of which the client is to be refused.
    pub fn refused(&self) -> Option<Limit> {
        self.refused
    }

    /// Whether so many are being refused that this one is not even listened to.
    pub fn is_hopeless(&self) -> bool {
        self.refused.is_some() && self.admission.lock().refused > ANTECHAMBER
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut inner = self.admission.lock();
        if self.refused.is_some() {
            inner.refused -= 1;
        } else {
            inner.connections -= 1;
        }
        if let Some(address) = self.address
            && let Some(connected) = inner.by_address.get_mut(&address)
        {
            *connected -= 1;
            if *connected == 0 {
                inner.by_address.remove(&address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;
    use crate::config::broker::Rate;

    fn admission(change: impl FnOnce(&mut Limits)) -> Arc<Admission> {
        let mut limits = Limits { connect_rate: None, ..Limits::default() };
        change(&mut limits);
        Admission::new(&limits)
    }

    fn from(admission: &Arc<Admission>, address: impl Into<IpAddr>, now: u64) -> Pass {
        let mut pass = admission.enter().unwrap();
        pass.identify(address.into(), now);
        pass
    }

    #[test]
    fn one_more_than_the_limit_is_told_so_and_a_flood_is_not_listened_to() {
        let admission = admission(|limits| limits.max_connections = 2);
        let mut inside: Vec<_> = (0..2).map(|_| admission.enter().unwrap()).collect();
        assert!(inside.iter().all(|pass| pass.refused().is_none()));
        let told: Vec<_> = (0..ANTECHAMBER).map(|_| admission.enter().unwrap()).collect();
        assert!(told.iter().all(|pass| pass.refused() == Some(Limit::MaxConnections) && !pass.is_hopeless()));
        assert_eq!(admission.enter().unwrap_err(), Limit::MaxConnections);
        inside.pop();
        assert_eq!(admission.enter().unwrap().refused(), None, "a place is free again");
        drop((inside, told));
        let inner = admission.lock();
        assert_eq!((inner.connections, inner.refused), (0, 0));
    }

    #[test]
    fn an_address_has_its_own_limit() {
        let admission = admission(|limits| limits.max_connections_per_address = 2);
        let (one, other) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
        let first = from(&admission, one, 0);
        let second = from(&admission, one.to_ipv6_mapped(), 0);
        assert_eq!(from(&admission, one, 0).refused(), Some(Limit::MaxConnectionsPerAddress));
        assert_eq!(from(&admission, other, 0).refused(), None);
        drop(first);
        assert_eq!(from(&admission, one, 0).refused(), None);
        drop(second);
        assert!(admission.lock().by_address.is_empty());
    }

    #[test]
    fn all_addresses_of_an_ipv6_network_are_one() {
        let admission = admission(|limits| limits.max_connections_per_address = 1);
        let address = |network, host| Ipv6Addr::new(0x2001, 0xdb8, 0, network, 0, 0, 0, host);
        let _first = from(&admission, address(1, 1), 0);
        assert_eq!(from(&admission, address(1, 2), 0).refused(), Some(Limit::MaxConnectionsPerAddress));
        assert_eq!(from(&admission, address(2, 1), 0).refused(), None);
    }

    #[test]
    fn an_address_that_opens_too_many_connections_waits_and_others_do_not() {
        let rate = Rate { amount: 3, seconds: 1 };
        let admission = admission(|limits| limits.connect_rate_per_address = Some(rate));
        let (one, other) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
        for _ in 0..3 {
            assert_eq!(from(&admission, one, 0).refused(), None);
        }
        assert_eq!(from(&admission, one, 0).refused(), Some(Limit::ConnectRatePerAddress));
        assert_eq!(from(&admission, other, 0).refused(), None);
        assert_eq!(from(&admission, one, 400).refused(), None);
    }

    #[test]
    fn all_together_have_a_rate() {
        let admission = admission(|limits| limits.connect_rate = Some(Rate { amount: 2, seconds: 1 }));
        assert_eq!(admission.connect(0), Ok(()));
        assert_eq!(admission.connect(0), Ok(()));
        assert_eq!(admission.connect(0), Err(Limit::ConnectRate));
        assert_eq!(admission.connect(500), Ok(()));
    }

    #[test]
    fn a_million_addresses_do_not_fill_the_memory() {
        let admission = admission(|limits| limits.connect_rate_per_address = Some(Rate { amount: 1, seconds: 3600 }));
        for address in 0..1_000_000_u32 {
            drop(from(&admission, Ipv4Addr::from_bits(address), 0));
        }
        let inner = admission.lock();
        assert!(inner.recent.young.len() + inner.recent.old.len() <= 2 * REMEMBERED);
        assert!(inner.by_address.is_empty());
        drop(inner);
        let last = Ipv4Addr::from_bits(999_999);
        assert_eq!(from(&admission, last, 0).refused(), Some(Limit::ConnectRatePerAddress), "the last are known");
    }
}
