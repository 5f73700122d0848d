//! The amax that leaves a given share of the values unclipped.

use super::Bins;

/// The left edge of the first bin up to which `percentile` of the values lie, as in the reference; but the
/// right one of the first bin, whose left edge is 0 and no scale.
///
/// Shares are summed one after the other in float64, as the reference does: rounding may decide for 100 %.
pub(super) fn amax(bins: &Bins, percentile: f64) -> Option<f32> {
    let total: u64 = bins.counts.iter().sum();
    let mut share = 0.0;
    let reached = bins.counts.iter().position(|count| {
        share += *count as f64 / total as f64;
        share >= percentile / 100.0
    });
    // When the sum stays a rounding below 1, nothing is clipped.
    let bin = reached.unwrap_or(bins.counts.len());
    bins.edges.get(bin.max(1)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_left_edge_of_the_bin_is_taken() {
        let edges = [0.0, 1.0, 2.0, 3.0, 4.0];
        let bins = Bins::new(&[50, 25, 15, 10], &edges).expect("valid");
        let of = |percentile| amax(&bins, percentile).expect("has data");
        assert_eq!(
            [of(75.0), of(75.1), of(90.1), of(100.0)],
            [1.0, 2.0, 3.0, 3.0]
        );
        assert_eq!([of(0.0), of(50.0)], [1.0, 1.0]);
    }
}
