//! Ways to spoil good bytes.

use corelane::base::rng::Rng;

/// Changes some bytes, cuts the end off, lets it grow, or puts in a number that
/// is out of all proportion.
pub fn mutate(bytes: &mut Vec<u8>, rng: &mut Rng) {
    for _ in 0..rng.between(1, 3) {
        let len = bytes.len() as u64;
        match rng.below(7) {
            0 | 1 if len > 0 => {
                for _ in 0..rng.between(1, 4) {
                    let at = rng.below(len) as usize;
                    bytes[at] =
                        [0, 1, 0x7f, 0x80, 0xff, rng.next_u64() as u8][rng.below(6) as usize];
                }
            }
            2 if len > 0 => {
                let at = rng.below(len) as usize;
                bytes[at] ^= 1 << rng.below(8);
            }
            3 => bytes.truncate(rng.below(len + 1) as usize),
            4 => bytes.extend((0..rng.between(1, 64)).map(|_| rng.next_u64() as u8)),
            5 if len >= 4 => {
                let at = rng.below(len - 3) as usize;
                let numbers = [-1, 0, 1, i32::MAX, i32::MIN, 0x00ff_ffff, len as i32, 1 << 20];
                let number: i32 = numbers[rng.below(8) as usize];
                bytes[at..at + 4].copy_from_slice(&number.to_be_bytes());
            }
            _ if len > 1 => {
                // A piece of it again, somewhere else.
                let (from, to) = (rng.below(len) as usize, rng.below(len) as usize);
                let piece =
                    bytes[from..(from + rng.between(1, 40) as usize).min(bytes.len())].to_vec();
                bytes.splice(to..to, piece);
            }
            _ => bytes.push(rng.next_u64() as u8),
        }
    }
}

/// As [`mutate`]; mostly `seal` sets lengths and checksums right again, so that what
/// lies behind them is looked at.
pub fn mutate_sealed(bytes: &mut Vec<u8>, rng: &mut Rng, seal: fn(&mut [u8])) {
    mutate(bytes, rng);
    if rng.chance(2, 3) {
        seal(bytes);
    }
}
