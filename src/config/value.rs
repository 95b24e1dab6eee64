//! Values from text. Each error says what is allowed; the caller adds key and
//! value.

use std::ops::RangeInclusive;
use std::str::FromStr;

use super::settings::Endpoint;

/// A whole number within `range`.
pub fn number<T>(text: &str, range: RangeInclusive<T>) -> Result<T, String>
where
    T: FromStr + PartialOrd + std::fmt::Display,
{
    match text.parse() {
        Ok(number) if range.contains(&number) => Ok(number),
        _ => Err(format!("must be a whole number from {} to {}", range.start(), range.end())),
    }
}

/// `true` or `false`, in any case as Kafka has it.
pub fn boolean(text: &str) -> Result<bool, String> {
    if text.eq_ignore_ascii_case("true") {
        Ok(true)
    } else if text.eq_ignore_ascii_case("false") {
        Ok(false)
    } else {
        Err("must be true or false".to_owned())
    }
}

/// A number of bytes, with `k`, `m`, `g` or `t` for powers of 1024.
pub fn size(text: &str, min: u64) -> Result<u64, String> {
    let lower = text.to_ascii_lowercase();
    let digits = lower.trim_end_matches(['k', 'm', 'g', 't']);
    let shift = match &lower[digits.len()..] {
        "" => Some(0),
        "k" => Some(10),
        "m" => Some(20),
        "g" => Some(30),
        "t" => Some(40),
        _ => None,
    };
    let bytes = shift.and_then(|shift| digits.parse::<u64>().ok()?.checked_mul(1 << shift));
    bytes
        .filter(|bytes| *bytes >= min)
        .ok_or_else(|| format!("must be a size of at least {} MiB, such as 512m or 8g", min >> 20))
}

/// A host, in brackets if it is an IPv6 address, and a port.
pub fn endpoint(text: &str) -> Result<Endpoint, String> {
    const ALLOWED: &str = "must be host:port, with a port from 0 to 65535";
    let (host, port) = text.rsplit_once(':').ok_or(ALLOWED)?;
    let host = match host.strip_prefix('[') {
        Some(inner) => inner.strip_suffix(']').ok_or(ALLOWED)?,
        None if host.contains([':', '/']) => return Err(ALLOWED.to_owned()),
        None => host,
    };
    let port = port.parse().map_err(|_| ALLOWED)?;
    Ok(Endpoint { host: host.to_owned(), port })
}

/// The entries of a comma-separated list, without empty ones.
pub fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|entry| !entry.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let mib = 1 << 20;
        for (text, bytes) in [("1048576", mib), ("1m", mib), ("8G", 8 << 30), ("2048k", 2 * mib)] {
            assert_eq!(size(text, mib), Ok(bytes), "{text}");
        }
        for text in ["", "g", "1mb", "-1", "1.5g", "1kk", "4k", "99999999999t", "8 g"] {
            assert!(size(text, mib).is_err(), "{text}");
        }
    }
}
