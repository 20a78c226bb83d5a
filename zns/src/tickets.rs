//! Tickets: numbers that stand for something handed out later, once.

use crate::device::Ticket;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

/// What waits behind the tickets of one device.
#[derive(Debug)]
pub(crate) struct Tickets<T> {
    next: AtomicU64,
    waiting: Mutex<HashMap<u64, T>>,
}

impl<T> Default for Tickets<T> {
    fn default() -> Self {
        Self { next: AtomicU64::new(1), waiting: Mutex::new(HashMap::new()) }
    }
}

impl<T> Tickets<T> {
    /// Keeps `item` for the holder of the ticket.
    pub(crate) fn issue(&self, item: T) -> Ticket {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.waiting.lock().insert(number, item);
        Ticket(number)
    }

    /// Hands out what the ticket stands for; `None` for a ticket that was redeemed or is of another device.
    pub(crate) fn redeem(&self, ticket: &Ticket) -> Option<T> {
        self.waiting.lock().remove(&ticket.0)
    }
}
