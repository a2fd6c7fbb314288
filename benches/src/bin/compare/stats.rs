//! Median and quartiles of a few samples, and what two sets of them say about each other.

/// Five numbers about the samples of one measure.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Summary {
    /// How many samples.
    pub count: usize,
    /// Smallest.
    pub min: f64,
    /// First quartile.
    pub low: f64,
    /// Median.
    pub median: f64,
    /// Third quartile.
    pub high: f64,
    /// Largest.
    pub max: f64,
}

impl Summary {
    /// `None` without samples, or when one is not a number.
    pub fn of(samples: &[f64]) -> Option<Summary> {
        let mut sorted = samples.to_vec();
        if sorted.iter().any(|x| !x.is_finite()) {
            return None;
        }
        sorted.sort_by(f64::total_cmp);
        Some(Summary {
            count: sorted.len(),
            min: *sorted.first()?,
            low: quantile(&sorted, 0.25)?,
            median: quantile(&sorted, 0.5)?,
            high: quantile(&sorted, 0.75)?,
            max: *sorted.last()?,
        })
    }

    /// Half the distance between the quartiles, as a share of the median.
    pub fn spread(&self) -> f64 {
        if self.median > 0.0 { (self.high - self.low) / 2.0 / self.median } else { 0.0 }
    }
}

/// The quantile of sorted samples, linear between neighbours (method 7 of Hyndman and Fan, the
/// default of R and NumPy).
pub fn quantile(sorted: &[f64], q: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let at = q.clamp(0.0, 1.0) * last as f64;
    let below = *sorted.get(at.floor() as usize)?;
    let above = *sorted.get(at.ceil() as usize)?;
    Some(below + (above - below) * at.fract())
}

/// The ratio of two medians; `None` when one is missing or the divisor is zero.
pub fn ratio(of: &[f64], to: &[f64]) -> Option<f64> {
    let (of, to) = (Summary::of(of)?, Summary::of(to)?);
    (to.median > 0.0).then(|| of.median / to.median)
}

/// The ratio of each sample to the other system's of the same repetition. Both were measured within
/// seconds of each other, so what drifts over a run cancels out.
pub fn paired(of: &[f64], to: &[f64]) -> Option<Summary> {
    let ratios: Vec<f64> =
        of.iter().zip(to).filter(|(_, to)| **to > 0.0).map(|(of, to)| of / to).collect();
    Summary::of(&ratios)
}

/// The geometric mean of positive numbers: what ratios are averaged by.
pub fn geometric_mean(numbers: &[f64]) -> Option<f64> {
    let logs: Vec<f64> = numbers.iter().filter(|x| **x > 0.0).map(|x| x.ln()).collect();
    (!logs.is_empty()).then(|| (logs.iter().sum::<f64>() / logs.len() as f64).exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles_of_few_samples() {
        let s = Summary::of(&[5.0, 1.0, 3.0, 2.0, 4.0]).unwrap();
        assert_eq!((s.count, s.min, s.low, s.median, s.high, s.max), (5, 1.0, 2.0, 3.0, 4.0, 5.0));
        let s = Summary::of(&[1.0, 2.0, 3.0, 4.0]).unwrap();
        assert_eq!((s.low, s.median, s.high), (1.75, 2.5, 3.25));
        let s = Summary::of(&[7.0]).unwrap();
        assert_eq!((s.low, s.median, s.high, s.spread()), (7.0, 7.0, 7.0, 0.0));
        assert_eq!(Summary::of(&[]), None);
        assert_eq!(Summary::of(&[1.0, f64::NAN]), None);
    }

    #[test]
    fn one_outlier_moves_neither_median_nor_spread_much() {
        let s = Summary::of(&[10.0, 11.0, 10.0, 9.0, 1000.0]).unwrap();
        assert_eq!(s.median, 10.0);
        assert!(s.spread() < 0.06, "{}", s.spread());
    }

    #[test]
    fn the_99th_percentile_is_near_the_top() {
        let sorted: Vec<f64> = (0..=1000).map(f64::from).collect();
        assert_eq!(quantile(&sorted, 0.99), Some(990.0));
        assert_eq!(quantile(&sorted, 2.0), Some(1000.0));
        assert_eq!(quantile(&[], 0.5), None);
    }

    #[test]
    fn ratios() {
        assert_eq!(ratio(&[1.0, 2.0, 3.0], &[4.0]), Some(0.5));
        assert_eq!(ratio(&[1.0], &[0.0]), None);
        assert_eq!(ratio(&[], &[1.0]), None);
        // Twice as slow in every repetition, though the machine got five times slower meanwhile.
        let p = paired(&[2.0, 4.0, 10.0], &[1.0, 2.0, 5.0]).unwrap();
        assert_eq!((p.low, p.median, p.high), (2.0, 2.0, 2.0));
        let mean = geometric_mean(&[0.5, 2.0, 4.0, 0.25]).unwrap();
        assert!((mean - 1.0).abs() < 1e-12);
        assert_eq!(geometric_mean(&[0.0]), None);
    }
}
