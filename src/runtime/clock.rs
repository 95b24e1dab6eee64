//! The clocks of the data plane, read once per turn.
//!
//! The monotonic reading is CLOCK_MONOTONIC as the kernel counts it, so that
//! readings of all cores compare with each other.

use crate::base::time::{Instant, Now, UnixMillis};

/// Both clocks now.
pub fn now() -> Now {
    let wall = read(libc::CLOCK_REALTIME);
    Now { instant: monotonic(), unix: UnixMillis(wall.tv_sec * 1000 + wall.tv_nsec / 1_000_000) }
}

/// The monotonic clock now.
pub fn monotonic() -> Instant {
    let time = read(libc::CLOCK_MONOTONIC);
    Instant::from_nanos(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

fn read(clock: libc::clockid_t) -> libc::timespec {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is valid for writing for the length of the call.
    let result = unsafe { libc::clock_gettime(clock, &mut time) };
    assert_eq!(result, 0, "both clocks exist on every Linux");
    time
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_advance_and_tell_the_date() {
        let (a, b) = (now(), now());
        assert!(b.instant >= a.instant && a.instant > Instant::default());
        assert!(a.unix > UnixMillis(1_700_000_000_000), "{}", a.unix);
    }
}
