//! Alternating runs and their medians.

use anyhow::Result;
use rootbeam_qemu_tests::qemu::Emulator;
use serde::Serialize;

/// What the runs of one side gave.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Samples(Vec<f64>);

impl Samples {
    /// A figure that is the same at every run.
    pub fn exact(value: f64) -> Self {
        Self(vec![value])
    }

    /// With one more figure.
    pub fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The middle one, or the mean of the middle two.
    pub fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let at = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
        let middle = sorted.len() / 2;
        if sorted.len() % 2 == 1 { at(middle) } else { (at(middle.saturating_sub(1)) + at(middle)) / 2.0 }
    }

    /// The least and the greatest.
    pub fn range(&self) -> (f64, f64) {
        let (low, high) = (f64::min, f64::max);
        (self.0.iter().copied().fold(f64::NAN, low), self.0.iter().copied().fold(f64::NAN, high))
    }
}

/// `N` figures a run of each side. The sides take turns in going first, so that neither always finds the machine as
/// the other left it.
pub fn alternate<const N: usize>(
    runs: usize,
    mut ours: impl FnMut() -> Result<[f64; N]>,
    mut theirs: impl FnMut() -> Result<[f64; N]>,
) -> Result<[(Samples, Samples); N]> {
    let mut figures = [(); N].map(|()| (Samples::default(), Samples::default()));
    for run in 0..runs {
        let (mine, other) = if run % 2 == 0 {
            let mine = ours()?;
            (mine, theirs()?)
        } else {
            let other = theirs()?;
            (ours()?, other)
        };
        for (index, (left, right)) in figures.iter_mut().enumerate() {
            left.push(mine.get(index).copied().unwrap_or(f64::NAN));
            right.push(other.get(index).copied().unwrap_or(f64::NAN));
        }
    }
    Ok(figures)
}

/// What the figures were taken on.
pub fn conditions() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let (info, load) = (read("/proc/cpuinfo"), read("/proc/loadavg"));
    let model = info.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
    let load = load.split(' ').next().unwrap_or_default();
    let model = model.trim_start_matches([' ', '\t', ':']);
    let qemu = Emulator::get().map_or_else(|error| format!("none: {error:#}"), |emulator| emulator.version.clone());
    format!("{processors} processors ({model}), Linux {kernel}, QEMU {qemu}, load {load} at the start")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        let samples = |values: &[f64]| Samples(values.to_vec());
        assert_eq!(samples(&[9.0, 1.0, 3.0]).median(), 3.0);
        assert_eq!(samples(&[9.0, 1.0, 3.0, 4.0]).median(), 3.5);
        assert_eq!(samples(&[9.0, 1.0, 3.0]).range(), (1.0, 9.0));
        assert!(samples(&[]).median().is_nan());
    }

    #[test]
    fn the_sides_take_turns_in_going_first() {
        let order = std::cell::RefCell::new(String::new());
        let side = |name: char, value: f64| {
            let order = &order;
            move || {
                order.borrow_mut().push(name);
                Ok([value])
            }
        };
        let [(ours, theirs)] = alternate(3, side('o', 1.0), side('t', 2.0)).unwrap();
        assert_eq!(*order.borrow(), "ottoot");
        assert_eq!((ours, theirs), (Samples(vec![1.0; 3]), Samples(vec![2.0; 3])));
    }
}
