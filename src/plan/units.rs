//! Durations and amounts as users write them.

use super::Invalid;
use crate::api::{Duration, Quantity};

/// Seconds, or the default.
pub fn seconds_or(field: &str, value: Option<&Duration>, default: u64) -> Result<u64, Invalid> {
    value.map_or(Ok(default), |Duration(text)| {
        seconds(text).ok_or_else(|| Invalid::new(field, format!("{text:?} is not a duration such as 8760h or 1h30m")))
    })
}

/// Bytes, or the default.
pub fn bytes_or(field: &str, value: Option<&Quantity>, default: u64) -> Result<u64, Invalid> {
    match value {
        None => Ok(default),
        Some(Quantity::Number(number)) => Ok(*number),
        Some(Quantity::Text(text)) => {
            bytes(text).ok_or_else(|| Invalid::new(field, format!("{text:?} is not an amount such as 64Mi or 65536")))
        }
    }
}

fn seconds(text: &str) -> Option<u64> {
    let mut total: u64 = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let (number, after) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit())?);
        let unit = match after.chars().next()? {
            'h' => 3600,
            'm' => 60,
            's' => 1,
            _ => return None,
        };
        total = total.checked_add(number.parse::<u64>().ok()?.checked_mul(unit)?)?;
        rest = &after[1..];
    }
    if text.is_empty() { None } else { Some(total) }
}

fn bytes(text: &str) -> Option<u64> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let factor: u64 = match suffix {
        "" => 1,
        "k" => 1000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_sums_of_hours_minutes_and_seconds() {
        assert_eq!(seconds("8760h"), Some(8760 * 3600));
        assert_eq!(seconds("1h30m5s"), Some(5405));
        for wrong in ["", "h", "5", "5d", "1.5h", "-1h", "99999999999999999999h", "1h ", "1µs"] {
            assert_eq!(seconds(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn amounts_have_decimal_and_binary_suffixes() {
        assert_eq!(bytes("65536"), Some(65536));
        assert_eq!(bytes("1Gi"), Some(1 << 30));
        assert_eq!(bytes("1G"), Some(1_000_000_000));
        for wrong in ["", "Gi", "1Ti", "-1", "1.5Gi", "99999999999Gi"] {
            assert_eq!(bytes(wrong), None, "{wrong:?}");
        }
    }
}
