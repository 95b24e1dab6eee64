//! How bytes and times are shown.

use serde_json::{Value, json};

/// Characters of a key or value in a line for people.
const SHORT: usize = 200;

/// A string, or `{"hex": ...}` for what is none, so that no byte is lost.
pub fn json_text(bytes: Option<&[u8]>) -> Value {
    match bytes.map(|bytes| std::str::from_utf8(bytes).map_err(|_| bytes)) {
        None => Value::Null,
        Some(Ok(text)) => text.into(),
        Some(Err(bytes)) => json!({ "hex": hex(bytes) }),
    }
}

/// One line for people: what does not print is escaped, what is long is cut.
pub fn short_text(bytes: Option<&[u8]>) -> String {
    let Some(bytes) = bytes else { return "null".to_owned() };
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => format!("{text:?}"),
        Err(_) => format!("0x{}", hex(bytes)),
    };
    if text.chars().count() <= SHORT {
        return text;
    }
    let cut: String = text.chars().take(SHORT).collect();
    format!("{cut}... ({} bytes)", bytes.len())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Milliseconds since 1970 as a date in UTC; as they are where there is none.
pub fn utc(ms: i64) -> String {
    // Years 0 to 9999.
    if !(-62_167_219_200_000..=253_402_300_799_999).contains(&ms) {
        return format!("timestamp {ms}");
    }
    let (days, in_day) = (ms.div_euclid(86_400_000), ms.rem_euclid(86_400_000));
    // Days of 400-year eras that begin with the first of March
    // (Howard Hinnant's civil_from_days).
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (seconds, ms) = (in_day / 1_000, in_day % 1_000);
    let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_as_dates() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_709_251_199_999, "2024-02-29T23:59:59.999Z"),
            (1_735_689_600_000, "2025-01-01T00:00:00.000Z"),
            (253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
            (i64::MAX, "timestamp 9223372036854775807"),
        ] {
            assert_eq!(utc(ms), text);
        }
    }

    #[test]
    fn bytes_as_text() {
        assert_eq!(short_text(None), "null");
        assert_eq!(short_text(Some(b"a\n\"")), r#""a\n\"""#);
        assert_eq!(short_text(Some(b"\xff\x00")), "0xff00");
        assert!(short_text(Some(&[b'a'; 500])).ends_with("... (500 bytes)"));
        assert_eq!(json_text(Some(b"\xff")), json!({ "hex": "ff" }));
    }
}
