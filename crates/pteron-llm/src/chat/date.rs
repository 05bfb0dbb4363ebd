//! A date for `strftime_now`, passed in.

use std::fmt::Write as _;

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// A point of time in the proleptic Gregorian calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DateTime {
    year: i64,
    month: u32,
    day: u32,
    second_of_day: u32,
    days: i64,
}

impl DateTime {
    /// The time so many seconds after 1970-01-01T00:00:00. Add the offset of a time zone for local time.
    pub fn from_unix_seconds(seconds: i64) -> Self {
        let days = seconds.div_euclid(86_400);
        // Years start on 1 March and eras last 400 years (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms").
        let shifted = days + 719_468;
        let era = shifted.div_euclid(146_097);
        let day_of_era = shifted.rem_euclid(146_097);
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let day = (day_of_year - (153 * month_from_march + 2) / 5 + 1) as u32;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 } as u32;
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        Self { year, month, day, second_of_day: seconds.rem_euclid(86_400) as u32, days }
    }

    /// `2026-11-26T18:00:00Z`.
    pub fn iso8601(&self) -> String {
        let (hours, minutes, seconds) =
            (self.second_of_day / 3600, self.second_of_day / 60 % 60, self.second_of_day % 60);
        format!("{:04}-{:02}-{:02}T{hours:02}:{minutes:02}:{seconds:02}Z", self.year, self.month, self.day)
    }

    /// Formats as C's `strftime` in the C locale; `%-d` and the like drop the leading zero. An unknown directive is an
    /// error.
    pub(super) fn strftime(&self, format: &str) -> Result<String, String> {
        let mut out = String::new();
        let mut chars = format.chars();
        while let Some(c) = chars.next() {
            if c != '%' {
                out.push(c);
                continue;
            }
            let mut directive = chars.next();
            let plain = directive == Some('-');
            if plain {
                directive = chars.next();
            }
            let Some(directive) = directive else {
                return Err(format!("incomplete directive in date format {format:?}"));
            };
            self.directive(directive, plain, &mut out)
                .ok_or_else(|| format!("unknown directive %{directive} in date format {format:?}"))?;
        }
        Ok(out)
    }

    fn directive(&self, directive: char, plain: bool, out: &mut String) -> Option<()> {
        let month = MONTHS.get(self.month as usize - 1)?;
        let weekday = (self.days + 4).rem_euclid(7);
        let day_name = DAYS.get(weekday as usize)?;
        let (hour, minute, second) = (self.second_of_day / 3600, self.second_of_day / 60 % 60, self.second_of_day % 60);
        let hour12 = (hour + 11) % 12 + 1;
        let mut number =
            |value: i64, width: usize| if plain { write!(out, "{value}") } else { write!(out, "{value:0width$}") }.ok();
        match directive {
            'Y' => number(self.year, 4),
            'y' => number(self.year.rem_euclid(100), 2),
            'm' => number(self.month.into(), 2),
            'd' => number(self.day.into(), 2),
            'H' => number(hour.into(), 2),
            'I' => number(hour12.into(), 2),
            'M' => number(minute.into(), 2),
            'S' => number(second.into(), 2),
            'w' => number(weekday, 1),
            'j' => number(self.day_of_year(), 3),
            'e' => write!(out, "{:>2}", self.day).ok(),
            'B' => write!(out, "{month}").ok(),
            'b' | 'h' => write!(out, "{}", &month[..3]).ok(),
            'A' => write!(out, "{day_name}").ok(),
            'a' => write!(out, "{}", &day_name[..3]).ok(),
            'p' => write!(out, "{}", if hour < 12 { "AM" } else { "PM" }).ok(),
            'F' => write!(out, "{:04}-{:02}-{:02}", self.year, self.month, self.day).ok(),
            'D' => write!(out, "{:02}/{:02}/{:02}", self.month, self.day, self.year.rem_euclid(100)).ok(),
            'T' => write!(out, "{hour:02}:{minute:02}:{second:02}").ok(),
            'R' => write!(out, "{hour:02}:{minute:02}").ok(),
            'n' => writeln!(out).ok(),
            't' => write!(out, "\t").ok(),
            '%' => write!(out, "%").ok(),
            _ => None,
        }
    }

    fn day_of_year(&self) -> i64 {
        let leap = self.year % 4 == 0 && (self.year % 100 != 0 || self.year % 400 == 0);
        let before = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
        let days: i64 = before.get(self.month as usize - 1).copied().unwrap_or(0);
        days + i64::from(leap && self.month > 2) + i64::from(self.day)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_like_c() {
        // Python: datetime.fromtimestamp(t, timezone.utc).strftime(...)
        for (seconds, format, expected) in [
            (0, "%d %b %Y", "01 Jan 1970"),
            (1_709_210_096, "%A, %-d %B %y, %H:%M:%S (%j)", "Thursday, 29 February 24, 12:34:56 (060)"),
            (1_735_689_599, "%a %e %I:%M %p %F %w", "Tue 31 11:59 PM 2024-12-31 2"),
            (-1, "%Y-%m-%d %T", "1969-12-31 23:59:59"),
            (951_782_400, "%D %R%%", "02/29/00 00:00%"),
        ] {
            assert_eq!(DateTime::from_unix_seconds(seconds).strftime(format).unwrap(), expected);
        }
        assert_eq!(DateTime::from_unix_seconds(1_700_000_000).iso8601(), "2023-11-14T22:13:20Z");
        let now = DateTime::from_unix_seconds(0);
        assert!(now.strftime("%Q").unwrap_err().contains("%Q"));
        assert!(now.strftime("%").is_err());
    }
}
