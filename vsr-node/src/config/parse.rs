//! From what people write to what the program means. Every function returns what is wrong and what
//! would be right; the caller adds which setting it was and where it came from.

use std::time::Duration;

use vsr_types::limits;

/// What is wrong, and what would be right.
pub(crate) type Wrong = (String, String);

fn wrong<T>(what: impl Into<String>, right: impl Into<String>) -> Result<T, Wrong> {
    Err((what.into(), right.into()))
}

/// A whole number; underscores may group the digits.
pub(crate) fn number(text: &str) -> Result<u64, Wrong> {
    let digits: String = text.chars().filter(|c| *c != '_').collect();
    if digits.is_empty() || !digits.chars().all(|c| c.is_ascii_digit()) {
        return wrong("not a whole number", "digits only, such as 4096");
    }
    digits
        .parse()
        .or_else(|_| wrong("larger than 64 bits", "a number below 2^64"))
}

/// Digits and the unit behind them.
fn quantity<'a>(text: &'a str, right: &str) -> Result<(u64, &'a str), Wrong> {
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '_')
        .unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    if digits.is_empty() {
        return wrong("does not begin with a whole number", right);
    }
    Ok((number(digits)?, unit.trim()))
}

/// A number of bytes: `4096`, `4096B`, `64KiB`, `512MiB`, `1GiB`, or with powers of ten `kB`, `MB`, `GB`.
pub(crate) fn size(text: &str) -> Result<usize, Wrong> {
    const RIGHT: &str = "a number of bytes with a unit, such as 64KiB, 512MiB or 1GiB";
    let (count, unit) = quantity(text, RIGHT)?;
    let factor: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "k" | "m" | "g" => {
            return wrong(
                format!("the unit {unit:?} may mean powers of 1000 or of 1024"),
                format!("{count}{}iB (powers of 1024)", unit.to_ascii_uppercase()),
            );
        }
        _ => return wrong(format!("the unit {unit:?} is not known"), RIGHT),
    };
    count
        .checked_mul(factor)
        .and_then(|bytes| usize::try_from(bytes).ok())
        .map_or_else(|| wrong("larger than any memory", RIGHT), Ok)
}

/// A duration: `500us`, `100ms`, `5s`, `1m`.
pub(crate) fn duration(text: &str) -> Result<Duration, Wrong> {
    const RIGHT: &str = "a whole number with a unit, such as 500us, 100ms, 5s or 1m";
    let (count, unit) = quantity(text, RIGHT)?;
    let nanos: u64 = match unit {
        "ns" => 1,
        "us" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "" => return wrong("has no unit", format!("{RIGHT}; perhaps {count}ms")),
        _ => return wrong(format!("the unit {unit:?} is not known"), RIGHT),
    };
    count
        .checked_mul(nanos)
        .map(Duration::from_nanos)
        .filter(|duration| *duration <= Duration::from_secs(24 * 3600))
        .map_or_else(|| wrong("longer than a day", RIGHT), Ok)
}

/// On or off.
pub(crate) fn switch(text: &str) -> Result<bool, Wrong> {
    match text {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => wrong("neither on nor off", "true or false"),
    }
}

/// The cluster's name.
pub(crate) fn cluster(text: &str) -> Result<String, Wrong> {
    const RIGHT: &str = "1 to 64 bytes without spaces, such as payments";
    if text.is_empty() {
        return wrong("empty", RIGHT);
    }
    if text.len() > limits::CLUSTER_NAME_MAX {
        return wrong(format!("{} bytes long", text.len()), RIGHT);
    }
    if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return wrong("contains a space or a control character", RIGHT);
    }
    Ok(text.to_owned())
}

/// What the port of an address may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Port {
    /// Others must find it: not 0.
    Fixed,
    /// 0 lets the system choose; the banner says what it chose.
    MayBeZero,
}

/// `host:port`, where host is a name, an IPv4 address, or an IPv6 address in brackets.
pub(crate) fn address(text: &str, port: Port) -> Result<String, Wrong> {
    const RIGHT: &str = "host:port, such as 10.0.0.1:7000, db-0.example:7000 or [::1]:7000";
    if text.is_empty() {
        return wrong("empty", RIGHT);
    }
    if let Some((scheme, _)) = text.split_once("://") {
        return wrong(format!("a URL ({scheme}://), not an address"), RIGHT);
    }
    let (host, port_text) = match text.strip_prefix('[') {
        Some(rest) => {
            let Some((host, after)) = rest.split_once(']') else {
                return wrong("the bracket is not closed", RIGHT);
            };
            if host.parse::<std::net::Ipv6Addr>().is_err() {
                return wrong(format!("{host:?} is not an IPv6 address"), RIGHT);
            }
            let Some(port) = after.strip_prefix(':') else {
                return wrong("has no port", RIGHT);
            };
            (host, port)
        }
        None => {
            let Some((host, port)) = text.rsplit_once(':') else {
                return wrong("has no port", RIGHT);
            };
            if host.contains(':') {
                return wrong(
                    "looks like an IPv6 address without brackets",
                    format!("[address]:port, perhaps [{host}]:{port}"),
                );
            }
            host_name(host)?;
            (host, port)
        }
    };
    let number: u16 = match port_text.parse() {
        Ok(number) if port_text.bytes().all(|b| b.is_ascii_digit()) => number,
        _ => {
            return wrong(
                format!("{port_text:?} is not a port"),
                "a port from 1 to 65535",
            );
        }
    };
    if number == 0 && port == Port::Fixed {
        return wrong(
            "port 0 would be another one on every machine",
            "a port from 1 to 65535",
        );
    }
    let host = host.to_ascii_lowercase();
    Ok(if text.starts_with('[') {
        format!("[{host}]:{number}")
    } else {
        format!("{host}:{number}")
    })
}

fn host_name(host: &str) -> Result<(), Wrong> {
    const RIGHT: &str = "a host name or an IP address in front of the port";
    if host.is_empty() {
        return wrong("has no host", RIGHT);
    }
    if host.len() > 253 {
        return wrong(
            "the host name is longer than DNS allows (253 characters)",
            RIGHT,
        );
    }
    if let Some(bad) = host
        .chars()
        .find(|c| !c.is_ascii_alphanumeric() && !"-._".contains(*c))
    {
        return wrong(format!("the host name contains {bad:?}"), RIGHT);
    }
    let dotted_number = host
        .split('.')
        .all(|part| part.bytes().all(|b| b.is_ascii_digit()));
    if dotted_number && host.parse::<std::net::Ipv4Addr>().is_err() {
        return wrong(
            format!("{host} is not an IPv4 address"),
            "four numbers from 0 to 255",
        );
    }
    Ok(())
}

/// The peers list: every entry an address, no entry twice.
pub(crate) fn peers(text: &str) -> Result<Vec<String>, Wrong> {
    const RIGHT: &str =
        "host:port of every replica, separated by commas, such as a:7000,b:7000,c:7000";
    if text.trim().is_empty() {
        return wrong("the list is empty", RIGHT);
    }
    let mut peers: Vec<String> = Vec::new();
    for (i, entry) in text.split(',').map(str::trim).enumerate() {
        let peer = address(entry, Port::Fixed)
            .map_err(|(what, right)| (format!("entry {i} ({entry:?}): {what}"), right))?;
        if let Some(first) = peers.iter().position(|other| *other == peer) {
            return wrong(
                format!("{peer} is in the list twice, as replica {first} and replica {i}"),
                "every replica once",
            );
        }
        peers.push(peer);
    }
    if peers.len() > limits::REPLICAS_MAX {
        return wrong(
            format!("{} entries", peers.len()),
            format!(
                "at most {} replicas; 3 survive one crash, 5 two, 7 three",
                limits::REPLICAS_MAX
            ),
        );
    }
    Ok(peers)
}

/// A duration as people write it.
pub(crate) fn show_duration(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    match nanos {
        n if n % 1_000_000_000 == 0 => format!("{}s", n / 1_000_000_000),
        n if n % 1_000_000 == 0 => format!("{}ms", n / 1_000_000),
        n if n % 1_000 == 0 => format!("{}us", n / 1_000),
        n => format!("{n}ns"),
    }
}

/// A number of bytes as people read it: exact where a binary unit divides it, else one decimal.
#[must_use]
pub fn show_size(bytes: usize) -> String {
    const UNITS: [(&str, usize); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    let Some((unit, factor)) = UNITS.into_iter().find(|(_, factor)| bytes >= *factor) else {
        return format!("{bytes} B");
    };
    if bytes.is_multiple_of(factor) {
        return format!("{} {unit}", bytes / factor);
    }
    let tenths = (bytes as u128 * 10 / factor as u128) as u64;
    format!("{}.{} {unit}", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_know_their_units() {
        assert_eq!(size("512MiB"), Ok(512 << 20));
        assert_eq!(size("1gib"), Ok(1 << 30));
        assert_eq!(size("64 KiB"), Ok(65536));
        assert_eq!(size("4096"), Ok(4096));
        assert_eq!(size("2MB"), Ok(2_000_000));
        assert!(
            size("512M").unwrap_err().1.contains("512MiB"),
            "says what was probably meant"
        );
        assert!(size("MiB").is_err());
        assert!(size("-1MiB").is_err());
        assert!(size("99999999999GiB").is_err());
        assert!(size("1PiB").is_err());
    }

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(duration("100ms"), Ok(Duration::from_millis(100)));
        assert_eq!(duration("5s"), Ok(Duration::from_secs(5)));
        assert_eq!(duration("1m"), Ok(Duration::from_secs(60)));
        assert!(duration("100").unwrap_err().1.contains("100ms"));
        assert!(duration("1.5s").is_err());
        assert!(duration("10 parsecs").is_err());
        assert!(duration("2000m").is_err(), "longer than a day");
    }

    #[test]
    fn addresses_are_hosts_and_ports() {
        let fixed = |text| address(text, Port::Fixed);
        assert_eq!(fixed("A.example:7000"), Ok("a.example:7000".into()));
        assert_eq!(fixed("[::1]:7000"), Ok("[::1]:7000".into()));
        assert_eq!(fixed("10.0.0.1:1"), Ok("10.0.0.1:1".into()));
        for bad in [
            "",
            "a",
            "a:",
            ":7000",
            "a:0",
            "a:65536",
            "a:x",
            "::1:7000",
            "[::1]",
            "[::1:7000",
            "[a]:7000",
            "http://a:7000",
            "a b:7000",
            "300.0.0.1:7000",
            "a:+7",
        ] {
            assert!(fixed(bad).is_err(), "{bad:?} is no address");
        }
        assert_eq!(
            address("127.0.0.1:0", Port::MayBeZero),
            Ok("127.0.0.1:0".into())
        );
    }

    #[test]
    fn sizes_read_well() {
        assert_eq!(show_size(512 << 20), "512 MiB");
        assert_eq!(show_size((1 << 20) + (1 << 19)), "1.5 MiB");
        assert_eq!(show_size(100), "100 B");
        assert_eq!(show_duration(Duration::from_millis(1500)), "1500ms");
        assert_eq!(show_duration(Duration::from_secs(5)), "5s");
    }
}
