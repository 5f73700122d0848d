//! The definition of a Gram matrix, in float64.

/// Adds `rowsᵀ rows` to `gram`, both triangles; `rows` is `[count, n]`, `gram` `[n, n]`.
#[cfg(test)]
pub(super) fn accumulate(rows: &[f32], n: usize, gram: &mut [f64]) {
    for row in rows.chunks_exact(n.max(1)) {
        for (i, left) in row.iter().enumerate() {
            for (j, right) in row.iter().enumerate() {
                gram[i * n + j] += f64::from(*left) * f64::from(*right);
            }
        }
    }
}
