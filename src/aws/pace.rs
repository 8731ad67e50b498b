//! How long to wait before what depends on AWS is tried again: longer each time, and not at the same moment as the
//! other members. Pure.

use std::time::Duration;

use crate::group::word::fingerprint;

/// The longest wait, before it is spread.
const LONGEST: Duration = Duration::from_secs(600);

/// `first`, doubled with each of `failures`, 10 minutes at most; spread over ±20 % by `seed` and the number of the try.
#[must_use]
pub fn wait(first: Duration, failures: u32, seed: &str) -> Duration {
    spread(first.saturating_mul(1 << failures.min(16)).min(LONGEST), failures, seed)
}

/// `span` ±20 %, the same for the same `seed` and `round`.
#[must_use]
pub fn spread(span: Duration, round: u32, seed: &str) -> Duration {
    span.mul_f64(0.8 + 0.4 * fraction(round, seed))
}

/// A number of at least 0 and less than 1, the same for the same arguments.
#[must_use]
pub fn fraction(round: u32, seed: &str) -> f64 {
    let hash = fingerprint(&format!("{round} {seed}"));
    // Eight hexadecimal digits, those in which neighbours differ most.
    f64::from(u32::from_str_radix(&hash[8..], 16).unwrap_or(0)) / 2_f64.powi(32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_ten_minutes_and_members_do_not_come_together() {
        let first = Duration::from_secs(10);
        for (failures, middle) in [(0, 10), (1, 20), (5, 320), (6, 600), (60, 600), (u32::MAX, 600)] {
            for seed in ["i-0123456789abcdef0", "i-0123456789abcdef1", ""] {
                let wait = wait(first, failures, seed).as_secs_f64() / f64::from(middle);
                assert!((0.8..1.2).contains(&wait), "{failures} {seed}: {wait}");
            }
        }
        let instances = (0..100).map(|n| format!("i-0123456789abcde{n:02x}"));
        let mut fractions: Vec<_> = instances.map(|instance| fraction(0, &instance)).collect();
        fractions.sort_by(f64::total_cmp);
        let gaps = fractions.windows(2).map(|pair| pair[1] - pair[0]);
        assert!(gaps.fold(0.0, f64::max) < 0.1, "{fractions:?}");
    }
}
