//! Points in time as image configurations write them: RFC 3339.

/// Days from 0000-03-01 to 1970-01-01 in the proleptic Gregorian calendar.
const DAYS_TO_1970: i64 = 719_468;
/// Days in 400 years.
const DAYS_PER_ERA: i64 = 146_097;

/// Seconds since 1970 of `2024-01-31T12:34:56.789Z` or with an offset like `+01:00`.
pub fn parse(text: &str) -> Option<i64> {
    let number = |range: std::ops::Range<usize>| -> Option<i64> {
        let digits = text.get(range)?;
        if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        digits.parse().ok()
    };
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    let separators = [4, 7, 10, 13, 16].map(|at| text.as_bytes().get(at).copied());
    let [Some(b'-'), Some(b'-'), Some(b'T' | b't' | b' '), Some(b':'), Some(b':')] = separators
    else {
        return None;
    };
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let rest = text.get(19..)?;
    let zone = match rest.strip_prefix('.') {
        Some(fraction) => fraction.trim_start_matches(|c: char| c.is_ascii_digit()),
        None => rest,
    };
    let offset = match zone.as_bytes() {
        b"Z" | b"z" => 0,
        [sign @ (b'+' | b'-'), _, _, b':', _, _] => {
            let start = text.len() - 5;
            let seconds = number(start..start + 2)? * 3600 + number(start + 3..start + 5)? * 60;
            if *sign == b'-' { -seconds } else { seconds }
        }
        _ => return None,
    };
    // Years start in March, so that the leap day is the last one.
    let shifted = year - i64::from(month <= 2);
    let era = shifted.div_euclid(400);
    let year_of_era = shifted.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let days = era * DAYS_PER_ERA + day_of_era - DAYS_TO_1970;
    Some(days * 86_400 + hour * 3600 + minute * 60 + second - offset)
}

/// Nanoseconds since 1970 of the same.
pub fn nanoseconds(text: &str) -> Option<i128> {
    let seconds = parse(text)?;
    let fraction = text.get(19..)?.strip_prefix('.').unwrap_or_default();
    let digits = fraction.bytes().take_while(u8::is_ascii_digit).take(9);
    let (part, count) = digits.fold((0_i128, 0), |(part, count), digit| {
        (part * 10 + i128::from(digit - b'0'), count + 1)
    });
    Some(i128::from(seconds) * 1_000_000_000 + part * 10_i128.pow(9 - count))
}

/// `seconds` since 1970 as `2024-01-31T12:34:56Z`.
pub fn to_second(seconds: i64) -> String {
    let text = format(seconds, 0);
    text.split_once('.').map_or_else(String::new, |(text, _)| format!("{text}Z"))
}

/// `seconds` since 1970 as `2024-01-31 12:34:56 +0000 UTC`.
pub fn in_words(seconds: i64) -> String {
    let text = format(seconds, 0);
    let (date, _) = text.split_once('.').unwrap_or((&text, ""));
    format!("{} +0000 UTC", date.replace('T', " "))
}

/// `seconds` and `nanoseconds` since 1970, as RFC 3339 in UTC.
pub fn format(seconds: i64, nanoseconds: u32) -> String {
    let days = seconds.div_euclid(86_400) + DAYS_TO_1970;
    let second_of_day = seconds.rem_euclid(86_400);
    let era = days.div_euclid(DAYS_PER_ERA);
    let day_of_era = days.rem_euclid(DAYS_PER_ERA);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = (shifted_month + 2) % 12 + 1;
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) =
        (second_of_day / 3600, second_of_day / 60 % 60, second_of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanoseconds:09}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_read_and_write() {
        let cases = [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T23:59:59Z", 951_868_799),
            ("2024-01-31T12:34:56.789Z", 1_706_704_496),
            ("2024-01-31T13:34:56.789+01:00", 1_706_704_496),
            ("1969-12-31T23:59:59-00:00", -1),
            ("0001-01-01T00:00:00Z", -62_135_596_800),
        ];
        for (text, seconds) in cases {
            assert_eq!(parse(text), Some(seconds), "{text}");
            assert_eq!(parse(&format(seconds, 5)), Some(seconds), "{text}");
        }
        assert_eq!(nanoseconds("1970-01-01T00:00:01.5Z"), Some(1_500_000_000));
        assert_eq!(nanoseconds("1970-01-01T01:00:00.000000001+01:00"), Some(1));
        assert_eq!(to_second(951_868_799), "2000-02-29T23:59:59Z");
        assert_eq!(in_words(951_868_799), "2000-02-29 23:59:59 +0000 UTC");
        assert_eq!(format(951_868_799, 1), "2000-02-29T23:59:59.000000001Z");
        for text in ["", "2024", "2024-01-31", "2024-13-01T00:00:00Z", "2024-01-31T12:34:56", "é"]
        {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
