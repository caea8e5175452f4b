//! Durations and amounts as users write them.

use super::Invalid;
use crate::api::{self, Duration, Quantity};
use crate::config::broker::Rate;

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

/// So many in so much time, `3/10s`. The time may leave out its number: `100/s`.
pub fn rate(field: &str, value: &api::Rate) -> Result<Rate, Invalid> {
    let (text, rate) = match value {
        api::Rate::Number(number) => (number.to_string(), None),
        api::Rate::Text(text) => (text.clone(), parse_rate(text)),
    };
    rate.ok_or_else(|| Invalid::new(field, format!("{text:?} is not a rate such as 100/s, 3/10s or 1Mi/s")))
}

fn parse_rate(text: &str) -> Option<Rate> {
    let (amount, time) = text.split_once('/')?;
    let time = if time.starts_with(|c: char| c.is_ascii_digit()) { time.to_owned() } else { format!("1{time}") };
    let rate = Rate { amount: bytes(amount)?, seconds: u32::try_from(seconds(&time)?).ok()? };
    (rate.amount > 0 && rate.seconds > 0).then_some(rate)
}

/// An amount of memory as Kubernetes writes it, `512Mi`, `1.5Gi` or `1e9`, in bytes.
pub fn amount(text: &str) -> Option<u64> {
    // Thousandths are legal for memory, and mean nothing.
    const SUFFIXES: [(&str, f64); 13] = [
        ("Ki", 1024.0),
        ("Mi", 1_048_576.0),
        ("Gi", 1_073_741_824.0),
        ("Ti", 1_099_511_627_776.0),
        ("Pi", 1_125_899_906_842_624.0),
        ("m", 0.001),
        ("k", 1e3),
        ("M", 1e6),
        ("G", 1e9),
        ("T", 1e12),
        ("P", 1e15),
        ("E", 1e18),
        ("", 1.0),
    ];
    let (number, factor) =
        SUFFIXES.iter().find_map(|(suffix, factor)| text.strip_suffix(suffix).map(|number| (number, *factor)))?;
    let digits = number.starts_with(|c: char| c.is_ascii_digit() || c == '.');
    let bytes = number.parse::<f64>().ok().filter(|_| digits)? * factor;
    // Beyond 2^53 the fractions of a float are more than a byte, and no machine has so much.
    (bytes < 9e15).then_some(bytes as u64)
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
        "T" => 1_000_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
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
        for wrong in ["", "Gi", "1Pi", "-1", "1.5Gi", "99999999999Gi"] {
            assert_eq!(bytes(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn rates_are_an_amount_and_a_time() {
        for (text, amount, seconds) in
            [("100/s", 100, 1), ("3/10s", 3, 10), ("1Mi/m", 1 << 20, 60), ("1k/2h", 1000, 7200)]
        {
            assert_eq!(parse_rate(text), Some(Rate { amount, seconds }), "{text}");
        }
        for wrong in ["", "5", "/s", "5/", "0/s", "5/0s", "5/d", "-5/s", "5 /s", "5/5"] {
            assert_eq!(parse_rate(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn memory_is_read_as_kubernetes_writes_it() {
        for (text, bytes) in [
            ("512Mi", 512 << 20),
            ("1.5Gi", 3 << 29),
            ("1e9", 1_000_000_000),
            ("128974848", 128_974_848),
            ("129M", 129_000_000),
            ("128974848000m", 128_974_848),
        ] {
            assert_eq!(amount(text), Some(bytes), "{text}");
        }
        for wrong in ["", "Mi", "x", "-1Gi", "inf", "nan", "1e99", "512MiB"] {
            assert_eq!(amount(wrong), None, "{wrong:?}");
        }
    }
}
