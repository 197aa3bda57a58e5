//! The provider's prompt cache, as far as a bill shows it.
//!
//! A prefix is known by its hash, for as long as the server runs. It becomes readable when the first reply that wrote it
//! begins, as with the provider: a fan-out without a warm-up pays for every write. Lifetimes and the provider's shortest
//! cacheable prefix are left out, so that a short test prompt shows whether the client asked for caching at all.

use std::collections::{HashSet, VecDeque};

use super::request::CacheTtl;
use crate::protocol::Usage;

/// Prefixes remembered; the oldest is forgotten first.
const MAX_PREFIXES: usize = 65_536;

/// A cacheable prefix of a request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Prefix {
    /// Of model and text.
    pub(super) hash: u64,
    /// Length of the prefix.
    pub(super) bytes: u64,
    /// How long it is to be kept.
    pub(super) ttl: CacheTtl,
}

/// All prefixes that can be read.
#[derive(Debug, Default)]
pub(super) struct PromptCache {
    known: HashSet<u64>,
    order: VecDeque<u64>,
}

impl PromptCache {
    /// Splits a prompt of `total_bytes` with these prefixes, shortest first, into input tokens by kind.
    pub(super) fn usage(&self, prefixes: &[Prefix], total_bytes: u64) -> Usage {
        let mut usage = Usage::default();
        let mut counted = 0;
        if let Some(hit) = prefixes.iter().rposition(|prefix| self.known.contains(&prefix.hash)) {
            counted = tokens(prefixes[hit].bytes);
            usage.cache_read = counted;
        }
        for prefix in prefixes {
            let written = tokens(prefix.bytes).saturating_sub(counted);
            counted += written;
            match prefix.ttl {
                CacheTtl::FiveMinutes => usage.cache_write_5m += written,
                CacheTtl::OneHour => usage.cache_write_1h += written,
            }
        }
        usage.input = tokens(total_bytes).saturating_sub(counted);
        usage
    }

    /// Makes the prefixes readable.
    pub(super) fn insert(&mut self, prefixes: &[Prefix]) {
        for prefix in prefixes {
            if self.known.insert(prefix.hash) {
                self.order.push_back(prefix.hash);
            }
        }
        while self.order.len() > MAX_PREFIXES {
            if let Some(oldest) = self.order.pop_front() {
                self.known.remove(&oldest);
            }
        }
    }
}

/// Deterministic stand-in for a tokenizer: three bytes a token, rounded up.
pub(super) fn tokens(bytes: u64) -> u64 {
    bytes.div_ceil(3)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(hash: u64, bytes: u64, ttl: CacheTtl) -> Prefix {
        Prefix { hash, bytes, ttl }
    }

    #[test]
    fn the_longest_known_prefix_is_read_and_the_rest_written() {
        let short = prefix(1, 30, CacheTtl::OneHour);
        let long = prefix(2, 90, CacheTtl::FiveMinutes);
        let mut cache = PromptCache::default();
        let first = cache.usage(&[short, long], 100);
        assert_eq!(first, Usage { cache_write_1h: 10, cache_write_5m: 20, input: 4, ..Usage::default() });
        cache.insert(&[short]);
        let second = cache.usage(&[short, long], 100);
        assert_eq!(second, Usage { cache_read: 10, cache_write_5m: 20, input: 4, ..Usage::default() });
        cache.insert(&[short, long]);
        let third = cache.usage(&[short, long], 100);
        assert_eq!(third, Usage { cache_read: 30, input: 4, ..Usage::default() });
    }

    #[test]
    fn the_memory_of_prefixes_is_bounded() {
        let mut cache = PromptCache::default();
        for hash in 0..100_000 {
            cache.insert(&[prefix(hash, 3, CacheTtl::FiveMinutes)]);
        }
        assert_eq!((cache.known.len(), cache.order.len()), (MAX_PREFIXES, MAX_PREFIXES));
        assert_eq!(cache.usage(&[prefix(0, 3, CacheTtl::FiveMinutes)], 3).cache_read, 0);
        assert_eq!(cache.usage(&[prefix(99_999, 3, CacheTtl::FiveMinutes)], 3).cache_read, 1);
    }
}
