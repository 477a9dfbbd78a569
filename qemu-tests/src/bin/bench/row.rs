//! A row of the table: a figure, what it is compared with, and its budget.

use crate::runs::Samples;
use serde::Serialize;
use std::fmt;

/// What a figure counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// Seconds.
    Seconds,
    /// 10⁶ bytes a second.
    MegabytesPerSecond,
    /// Seconds of processor time a GiB.
    SecondsPerGib,
    /// 10⁶ bytes.
    Megabytes,
    /// 2²⁰ bytes.
    Mebibytes,
    /// Things.
    Count,
}

impl Unit {
    fn name(self) -> &'static str {
        match self {
            Self::Seconds => "s",
            Self::MegabytesPerSecond => "MB/s",
            Self::SecondsPerGib => "s/GiB",
            Self::Megabytes => "MB",
            Self::Mebibytes => "MiB",
            Self::Count => "",
        }
    }
}

/// What a figure may be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[expect(clippy::enum_variant_names, reason = "At most and at least are what budgets say")]
pub enum Budget {
    /// At most so many times theirs.
    AtMostTimes(f64),
    /// At least so many times theirs.
    AtLeastTimes(f64),
    /// At most theirs and so much more.
    AtMostMore(f64),
    /// At most so much.
    AtMost(f64),
}

/// One figure.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The benchmark that gave it.
    pub name: &'static str,
    /// What it tells.
    pub what: String,
    /// Its unit.
    pub unit: Unit,
    /// What rootbeam does.
    pub ours: Samples,
    /// What it is compared with, and what that does.
    pub theirs: Option<(&'static str, Samples)>,
    /// What it may be.
    pub budget: Budget,
}

impl Row {
    /// Ours divided by theirs.
    pub fn ratio(&self) -> Option<f64> {
        self.theirs.as_ref().map(|(_, theirs)| self.ours.median() / theirs.median())
    }

    /// Whether the budget is met.
    pub fn met(&self) -> bool {
        let ours = self.ours.median();
        let theirs = self.theirs.as_ref().map_or(f64::NAN, |(_, theirs)| theirs.median());
        match self.budget {
            Budget::AtMostTimes(times) => ours <= times * theirs,
            Budget::AtLeastTimes(times) => ours >= times * theirs,
            Budget::AtMostMore(more) => ours <= theirs + more,
            Budget::AtMost(most) => ours <= most,
        }
    }
}

/// What stands above the rows.
pub const HEADINGS: &str = "what | ours (least–most) | theirs (least–most) | ratio | budget | met | runs";

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = self.unit.name();
        let side = |samples: &Samples| {
            let (low, high) = samples.range();
            match samples.count() {
                1 => format!("{:.3} {unit}", samples.median()),
                _ => format!("{:.3} {unit} ({low:.3}–{high:.3})", samples.median()),
            }
        };
        let theirs = self.theirs.as_ref();
        let theirs = theirs.map_or_else(|| "–".to_owned(), |(who, theirs)| format!("{who} {}", side(theirs)));
        let ratio = self.ratio().map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.3}"));
        let budget = match self.budget {
            Budget::AtMostTimes(times) if times.is_infinite() => "none".to_owned(),
            Budget::AtMostTimes(times) => format!("≤ {times} ×"),
            Budget::AtLeastTimes(times) => format!("≥ {times} ×"),
            Budget::AtMostMore(more) => format!("≤ theirs + {more} {unit}"),
            Budget::AtMost(most) => format!("≤ {most} {unit}"),
        };
        let met = if self.met() { "met" } else { "NOT MET" };
        let (name, what, ours, runs) = (self.name, &self.what, side(&self.ours), self.ours.count());
        write!(f, "{name}: {what} | {ours} | {theirs} | {ratio} | {} | {met} | {runs}", budget.trim_end())
    }
}

impl Serialize for Row {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Side<'a> {
            what: &'a str,
            median: f64,
            runs: &'a Samples,
        }
        #[derive(Serialize)]
        struct Whole<'a> {
            name: &'a str,
            what: &'a str,
            unit: Unit,
            ours: Side<'a>,
            theirs: Option<Side<'a>>,
            ratio: Option<f64>,
            budget: Budget,
            met: bool,
        }
        let side = |what, runs| Side { what, median: Samples::median(runs), runs };
        Whole {
            name: self.name,
            what: &self.what,
            unit: self.unit,
            ours: side("rootbeam", &self.ours),
            theirs: self.theirs.as_ref().map(|(who, runs)| side(who, runs)),
            ratio: self.ratio(),
            budget: self.budget,
            met: self.met(),
        }
        .serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(budget: Budget) -> Row {
        let mut ours = Samples::exact(2.0);
        ours.push(4.0);
        let theirs = Some(("curl", Samples::exact(4.0)));
        Row { name: "wire", what: "download".into(), unit: Unit::Seconds, ours, theirs, budget }
    }

    #[test]
    fn budgets_are_held_against_the_medians() {
        let cases = [
            (Budget::AtMostTimes(0.75), Budget::AtMostTimes(0.74)),
            (Budget::AtLeastTimes(0.75), Budget::AtLeastTimes(0.76)),
            (Budget::AtMostMore(-1.0), Budget::AtMostMore(-1.1)),
            (Budget::AtMost(3.0), Budget::AtMost(2.9)),
        ];
        for (met, missed) in cases {
            assert_eq!((row(met).met(), row(missed).met()), (true, false), "{met:?} {missed:?}");
        }
    }

    #[test]
    fn a_row_stands_beside_what_it_is_compared_with() {
        let line = row(Budget::AtMostTimes(0.6)).to_string();
        let expected = "wire: download | 3.000 s (2.000–4.000) | curl 4.000 s | 0.750 | ≤ 0.6 × | NOT MET | 2";
        assert_eq!(line, expected);
    }
}
