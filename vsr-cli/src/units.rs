//! Quantities as people write and read them: sizes, times, counts, addresses.
//!
//! Everything that goes into a table passes through here, so that the same thing looks the same in
//! every command; JSON output carries raw numbers instead, with the unit in the field's name.

use std::time::Duration;

/// Parses `host:port`. The host may be a name, an address, or `[v6]`.
pub(crate) fn endpoint(text: &str) -> Result<String, String> {
    let text = text.trim();
    let Some((host, port)) = text.rsplit_once(':') else {
        return Err("no port: write host:port, for example 127.0.0.1:7000".to_owned());
    };
    if host.is_empty() {
        return Err("no host: write host:port, for example 127.0.0.1:7000".to_owned());
    }
    if host.contains(':') && !(host.starts_with('[') && host.ends_with(']')) {
        return Err("an IPv6 address needs brackets: [::1]:7000".to_owned());
    }
    match port.parse::<u16>() {
        Ok(1..) => Ok(text.to_owned()),
        Ok(0) | Err(_) => Err(format!("`{port}` is no port: it must be 1 to 65535")),
    }
}

/// Parses a duration that is not zero, such as `250ms`, `5s` or `1m 30s`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(Duration::ZERO) => Err("must be longer than nothing".to_owned()),
        Ok(duration) => Ok(duration),
        Err(error) => Err(format!("{error}: write for example 250ms, 5s or 1m")),
    }
}

/// Parses a duration that may be zero.
pub(crate) fn duration_or_zero(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    humantime::parse_duration(text)
        .map_err(|error| format!("{error}: write for example 250ms, 5s or 1m"))
}

/// Parses a size in bytes: `128`, `4KiB`, `1MiB`.
pub(crate) fn size(text: &str) -> Result<usize, String> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let factor: usize = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        other => return Err(format!("`{other}` is no unit: write bytes, KiB or MiB")),
    };
    let number: usize = number
        .parse()
        .map_err(|_| "write for example 128 or 4KiB".to_owned())?;
    number
        .checked_mul(factor)
        .ok_or_else(|| "too large".to_owned())
}

/// Parses a fraction between 0 and 1; `80%` is one too.
pub(crate) fn fraction(text: &str) -> Result<f64, String> {
    let parsed = match text.strip_suffix('%') {
        Some(percent) => percent.trim().parse::<f64>().map(|percent| percent / 100.0),
        None => text.parse::<f64>(),
    };
    match parsed {
        Ok(value) if (0.0..=1.0).contains(&value) => Ok(value),
        _ => Err("must be between 0 and 1, for example 0.8 or 80%".to_owned()),
    }
}

/// Parses a rate per second: `5000`, `20k`, `1.5M`.
pub(crate) fn rate(text: &str) -> Result<f64, String> {
    let (number, factor) = match text.trim_end_matches(['k', 'K', 'm', 'M']) {
        rest if rest.len() == text.len() => (rest, 1.0),
        rest if text.ends_with(['k', 'K']) => (rest, 1e3),
        rest => (rest, 1e6),
    };
    match number.parse::<f64>() {
        Ok(value) if value * factor >= 0.001 && value.is_finite() => Ok(value * factor),
        _ => Err("must be operations per second, for example 5000 or 20k".to_owned()),
    }
}

/// `1234567` as `1,234,567`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A time in three significant digits and the unit that suits it.
pub(crate) fn time(nanoseconds: f64) -> String {
    let (value, unit) = match nanoseconds {
        ns if ns < 1e3 => return format!("{ns:.0} ns"),
        ns if ns < 1e6 => (ns / 1e3, "us"),
        ns if ns < 1e9 => (ns / 1e6, "ms"),
        ns => (ns / 1e9, "s"),
    };
    format!("{} {unit}", three_digits(value))
}

/// A number of bytes in three significant digits, powers of 1024.
pub(crate) fn bytes(count: f64) -> String {
    let (value, unit) = match count {
        b if b < 1024.0 => return format!("{b:.0} B"),
        b if b < 1024.0 * 1024.0 => (b / 1024.0, "KiB"),
        b if b < 1024.0 * 1024.0 * 1024.0 => (b / (1024.0 * 1024.0), "MiB"),
        b => (b / (1024.0 * 1024.0 * 1024.0), "GiB"),
    };
    format!("{} {unit}", three_digits(value))
}

fn three_digits(value: f64) -> String {
    match value {
        v if v < 9.995 => format!("{v:.2}"),
        v if v < 99.95 => format!("{v:.1}"),
        v => format!("{v:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_need_a_host_and_a_port() {
        for good in [
            "127.0.0.1:7000",
            "node-1.example:65535",
            "[::1]:7000",
            " a:1 ",
        ] {
            assert_eq!(endpoint(good), Ok(good.trim().to_owned()));
        }
        for (bad, says) in [
            ("localhost", "no port"),
            (":7000", "no host"),
            ("a:0", "1 to 65535"),
            ("a:65536", "1 to 65535"),
            ("a:b", "`b` is no port"),
            ("::1:7000", "brackets"),
        ] {
            let error = endpoint(bad).expect_err(bad);
            assert!(error.contains(says), "{bad}: {error}");
        }
    }

    #[test]
    fn sizes_rates_and_fractions_take_the_usual_units() {
        assert_eq!(size("128"), Ok(128));
        assert_eq!(size("4KiB"), Ok(4096));
        assert_eq!(size("1m"), Ok(1 << 20));
        assert!(size("1GB").is_err() && size("").is_err() && size("-1").is_err());
        assert_eq!(rate("5000"), Ok(5000.0));
        assert_eq!(rate("1.5M"), Ok(1_500_000.0));
        assert!(rate("0").is_err() && rate("fast").is_err() && rate("-3").is_err());
        assert_eq!(fraction("80%"), Ok(0.8));
        assert_eq!(fraction("1"), Ok(1.0));
        assert!(fraction("1.1").is_err() && fraction("NaN").is_err());
    }

    #[test]
    fn durations_are_not_zero_unless_zero_is_allowed() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert!(duration("0s").is_err() && duration("5").is_err());
        assert_eq!(duration_or_zero("0"), Ok(Duration::ZERO));
    }

    #[test]
    fn numbers_are_written_for_reading() {
        for (number, text) in [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (1_234_567, "1,234,567"),
        ] {
            assert_eq!(grouped(number), text);
        }
        for (nanoseconds, text) in [
            (950.0, "950 ns"),
            (1_000.0, "1.00 us"),
            (94_300.0, "94.3 us"),
            (999_960.0, "1000 us"),
            (3_217_000.0, "3.22 ms"),
            (12e9, "12.0 s"),
        ] {
            assert_eq!(time(nanoseconds), text);
        }
        assert_eq!(bytes(1023.0), "1023 B");
        assert_eq!(bytes(1536.0), "1.50 KiB");
        assert_eq!(bytes(3.0 * 1024.0 * 1024.0 * 1024.0), "3.00 GiB");
    }
}
