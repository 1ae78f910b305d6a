//! Times as people and files write them, and as the original's export does.
//!
//! Inside the store a time is Unix seconds. Everything here takes the present and the zone as arguments, but for
//! [`parse_time`], which takes the system's zone.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

use crate::error::{Error, ErrorKind, Result};

/// The forms of a time, for messages.
const FORMS: &str = "a date (2026-02-17), a date with a time (2026-02-17T12:30, 2026-02-17T12:30:00Z), \
                     Unix seconds (1771329603), or an age such as 5m, 3h, 2d, 1w";

/// Reads a time that a person wrote, as Unix seconds.
///
/// Understood are RFC 3339 (`2026-02-17T12:30:00+01:00`), ISO dates and date-times without a zone
/// (`2026-02-17`, `2026-02-17 12:30`: in the zone of this machine; a date is its midnight), Unix seconds
/// (`1771329603`, or `@0` for small ones), and ages before `now_ms`: minutes `5m`, hours `3h`, days of 24 hours
/// `2d`, weeks `1w`. Fractions of a second are dropped.
///
/// # Errors
/// [`ErrorKind::Invalid`], with a hint that lists the forms, for anything else and for times before the year -9999
/// or after 9999.
pub fn parse_time(text: &str, now_ms: i64) -> Result<i64> {
    parse_time_in(text, now_ms, &TimeZone::system())
}

pub(crate) fn parse_time_in(text: &str, now_ms: i64, zone: &TimeZone) -> Result<i64> {
    let text = text.trim();
    match parse_age(text) {
        Some(age) => age
            .and_then(|age| now_ms.div_euclid(1000).checked_sub(age))
            .map_or_else(|| Err(unknown(text)), checked),
        None => parse_absolute_in(text, zone),
    }
}

/// Reads a time that stands in a file: as [`parse_time`], without ages, in the zone of this machine.
pub(crate) fn parse_absolute(text: &str) -> Result<i64> {
    parse_absolute_in(text.trim(), &TimeZone::system())
}

fn parse_absolute_in(text: &str, zone: &TimeZone) -> Result<i64> {
    if let Some(seconds) = parse_seconds(text)? {
        return checked(seconds);
    }
    let zoned = text.parse().or_else(|_| text.parse::<Zoned>().map(|zoned| zoned.timestamp()));
    let timestamp = match zoned {
        Ok(timestamp) => timestamp,
        // The reader of local times skips an offset or a zone, even one that made the other readers refuse.
        Err(_) if names_a_zone(text) => return Err(unknown(text)),
        Err(_) => {
            let local = text.parse::<DateTime>().map_err(|_| unknown(text))?;
            // A time that the clock change skips or repeats is taken as most programs take it: after the gap, or
            // the first of the two.
            zone.to_ambiguous_timestamp(local).compatible().map_err(|_| unknown(text))?
        }
    };
    Ok(floor_seconds(timestamp))
}

fn names_a_zone(text: &str) -> bool {
    const DATE_LEN: usize = "2026-02-17".len();
    text.contains('[') || text.get(DATE_LEN..).is_some_and(|time| time.contains(['+', '-']))
}

/// Whether Unix seconds are between the years -9999 and 9999.
///
/// # Errors
/// [`ErrorKind::Invalid`]; the hint thinks of milliseconds, the usual slip.
pub(crate) fn checked(seconds: i64) -> Result<i64> {
    if Timestamp::from_second(seconds).is_err() {
        return Err(Error::new(
            ErrorKind::Invalid,
            format!("{seconds} is not a time in Unix seconds between the years -9999 and 9999"),
        )
        .hint("divide it by 1000 if these are milliseconds"));
    }
    Ok(seconds)
}

/// A time of these Unix seconds as RFC 3339 has it, in UTC.
pub(crate) fn format_time(seconds: i64) -> String {
    // What is outside the years that have a name is a number.
    Timestamp::from_second(seconds).map_or_else(|_| format!("@{seconds}"), |time| time.to_string())
}

/// The local date and time without a zone, as the original's export states it: `2026-02-17T12:30:00`, with six
/// digits of a second where they are not zero.
pub(crate) fn local_iso(now_ms: i64) -> String {
    local_iso_in(now_ms, &TimeZone::system())
}

fn local_iso_in(now_ms: i64, zone: &TimeZone) -> String {
    let now = Timestamp::from_millisecond(now_ms).unwrap_or(Timestamp::UNIX_EPOCH);
    let local = zone.to_datetime(now);
    let whole = local.strftime("%Y-%m-%dT%H:%M:%S");
    match local.subsec_nanosecond() / 1000 {
        0 => whole.to_string(),
        micros => format!("{whole}.{micros:06}"),
    }
}

/// A number of Unix seconds. None: the text is something else.
fn parse_seconds(text: &str) -> Result<Option<i64>> {
    let (explicit, digits) = match text.strip_prefix('@') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let unsigned = digits.strip_prefix('-').unwrap_or(digits);
    if unsigned.is_empty() || !unsigned.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    if !explicit && looks_like_a_date(digits) {
        return Err(Error::new(ErrorKind::Invalid, format!("`{digits}` may be a date or Unix seconds"))
            .hint(format!("write @{digits} for Unix seconds, or a date as 2026-02-17")));
    }
    digits.parse().map(Some).map_err(|_| unknown(text))
}

/// `2026` and `20260217` would be minutes and months after 1970 as Unix seconds, which nobody means.
fn looks_like_a_date(digits: &str) -> bool {
    let in_range = |range: std::ops::Range<usize>, values: std::ops::RangeInclusive<u32>| {
        digits.get(range).and_then(|part| part.parse().ok()).is_some_and(|part| values.contains(&part))
    };
    match digits.len() {
        4 => in_range(0..4, 1900..=2999),
        8 => in_range(0..4, 1900..=2999) && in_range(4..6, 1..=12) && in_range(6..8, 1..=31),
        _ => false,
    }
}

/// The seconds of an age such as `5m`. None: the text is something else; `Some(None)`: it is one, but too large.
fn parse_age(text: &str) -> Option<Option<i64>> {
    let unit = match text.bytes().last()? {
        b'm' => 60,
        b'h' => 3600,
        b'd' => 86_400,
        b'w' => 7 * 86_400,
        _ => return None,
    };
    let digits = &text[..text.len() - 1];
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(digits.parse::<i64>().ok().and_then(|count| count.checked_mul(unit)))
}

fn floor_seconds(timestamp: Timestamp) -> i64 {
    timestamp.as_second() - i64::from(timestamp.subsec_nanosecond() < 0)
}

fn unknown(text: &str) -> Error {
    let shown: String = text.chars().take(40).flat_map(char::escape_debug).collect();
    Error::new(ErrorKind::Invalid, format!("`{shown}` is not a time")).hint(format!("write {FORMS}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOON: i64 = 1_771_329_600; // 2026-02-17T12:00:00Z

    fn berlin(text: &str) -> Result<i64> {
        let zone = TimeZone::get("Europe/Berlin").expect("a zone that every machine or the bundle knows");
        parse_time_in(text, NOON * 1000 + 999, &zone)
    }

    #[test]
    fn all_forms_are_read() {
        for (text, expected) in [
            ("2026-02-17T12:00:00Z", NOON),
            ("2026-02-17T13:00:00+01:00", NOON),
            ("2026-02-17 12:00Z", NOON),
            ("2026-02-17T07:00:00-05:00[America/New_York]", NOON),
            ("2026-02-17T07:00:00[America/New_York]", NOON),
            ("2026-02-17T12:00:00.999Z", NOON),
            ("1969-12-31T23:59:59.5Z", -1),
            ("2026-02-17T13:00:00", NOON),
            ("2026-02-17 13:00", NOON),
            ("2026-02-17", NOON - 13 * 3600),
            ("2026-03-29T02:30", 1_774_747_800),
            ("1771329600", NOON),
            ("@1771329600", NOON),
            ("@2026", 2026),
            ("0", 0),
            ("1000", 1000),
            ("-86400", -86_400),
            ("  3h ", NOON - 3 * 3600),
            ("5m", NOON - 300),
            ("2d", NOON - 2 * 86_400),
            ("1w", NOON - 7 * 86_400),
            ("0m", NOON),
        ] {
            assert_eq!(berlin(text).map_err(|error| error.to_string()), Ok(expected), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused_with_the_forms() {
        for text in [
            "",
            " ",
            "d",
            "5x",
            "1.5h",
            "-5m",
            "abc",
            "5 m",
            "5M",
            "@",
            "@x",
            "2026-13-01",
            "2026-02-30",
            "2026-02-17T25:00",
            "2026-02-17T12:00+99:00",
            "12:30",
            "10000-01-01",
            "99999999999999999999",
            "99999999999999999999d",
            "9223372036854775807w",
            "2026",
            "20260217",
            "1771329600000",
            "Ω",
            "日m",
            "2026-02-17T12:00[Nowhere/City]",
            "9999-12-31T23:59:59-05:00",
        ] {
            let error = berlin(text).expect_err(text);
            assert_eq!(error.kind(), ErrorKind::Invalid, "{text}");
            assert!(error.hint_text().is_some(), "{text}");
        }
        assert!(
            berlin("soon").expect_err("a word").hint_text().is_some_and(|hint| hint.contains("2026-02-17"))
        );
    }

    #[test]
    fn milliseconds_are_noticed() {
        let error = berlin("1771329600000").expect_err("milliseconds");
        assert!(error.hint_text().is_some_and(|hint| hint.contains("milliseconds")), "{error}");
    }

    #[test]
    fn a_file_cannot_hold_an_age() {
        assert!(parse_absolute("5m").is_err());
        assert_eq!(parse_absolute("2026-02-17T12:00:00Z").expect("absolute"), NOON);
    }

    #[test]
    fn the_time_of_an_export_is_local_and_without_a_zone() {
        let zone = TimeZone::get("Europe/Berlin").expect("a zone that every machine or the bundle knows");
        assert_eq!(local_iso_in(NOON * 1000, &zone), "2026-02-17T13:00:00");
        assert_eq!(local_iso_in(NOON * 1000 + 7, &zone), "2026-02-17T13:00:00.007000");
        assert_eq!(local_iso_in(i64::MAX, &TimeZone::UTC), "1970-01-01T00:00:00");
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,30}", now in any::<i64>()) {
            let _ = parse_time_in(&text, now, &TimeZone::UTC);
        }

        #[test]
        fn nothing_like_a_time_makes_it_panic(text in "[-+@0-9TtZz:. mhdw\\[\\]]{0,24}", now in any::<i64>()) {
            if let Ok(seconds) = parse_time_in(&text, now, &TimeZone::UTC) {
                prop_assert!(checked(seconds).is_ok());
            }
        }

        #[test]
        fn seconds_come_back(seconds in -377_705_023_201_i64..=253_402_207_200) {
            prop_assert_eq!(parse_absolute(&format!("@{seconds}")).ok(), Some(seconds));
        }
    }
}
