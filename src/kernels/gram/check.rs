//! Proves that the tiles agree with the definition, and with each other bit for bit.

use proptest::prelude::*;

use super::*;
use crate::kernels::Isa;

/// `len` values between -1 and 1 that repeat for no length in use.
pub(super) fn noise(len: usize, seed: u32) -> Vec<f32> {
    let mut state = seed | 1;
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / 8_388_608.0 - 1.0
    };
    (0..len).map(next).collect()
}

fn machine(threads: usize) -> Machine {
    Machine::new(threads, Isa::scalar()).expect("threads")
}

pub(super) fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

/// The Gram matrix of the definition and of magnitudes.
fn defined(rows: &[f32], n: usize) -> (Vec<f64>, Vec<f64>) {
    let (mut gram, mut magnitudes) = (vec![0.0; n * n], vec![0.0; n * n]);
    scalar::accumulate(rows, n, &mut gram);
    let absolute: Vec<f32> = rows.iter().map(|x| x.abs()).collect();
    scalar::accumulate(&absolute, n, &mut magnitudes);
    (gram, magnitudes)
}

pub(super) fn assert_upper_is_right(rows: &[f32], n: usize, before: f32, gram: &[f32]) {
    let bound = max_rel_err(rows.len() / n.max(1));
    assert_upper_is_within(bound, rows, n, before, gram);
}

pub(super) fn assert_upper_is_within(
    bound: f64,
    rows: &[f32],
    n: usize,
    before: f32,
    gram: &[f32],
) {
    let (want, magnitudes) = defined(rows, n);
    for i in 0..n {
        for j in i..n {
            let got = f64::from(gram[i * n + j]);
            let error = (got - want[i * n + j] - f64::from(before)).abs();
            let limit = bound * (magnitudes[i * n + j] + f64::from(before.abs()));
            assert!(
                error <= limit,
                "({i}, {j}) of {n}: {got}, {error} > {limit}"
            );
        }
    }
}

#[test]
fn the_upper_triangle_is_that_of_the_definition_for_any_number_of_threads() {
    let (one, three) = (machine(1), machine(3));
    for n in [1, 2, 15, 17, 63, 64, 65, 129, 255, 256, 257, 321] {
        for count in [0, 1, 7, 255, 256, 257, 300, 2100] {
            if n > 256 && count > 7 && count != 300 || n > 17 && count > 300 {
                continue; // slow, and tested at smaller n
            }
            let rows = noise(count * n, n as u32);
            let mut gram = vec![0.5; n * n];
            accumulate(&one, &rows, n, &mut gram);
            assert_upper_is_right(&rows, n, 0.5, &gram);
            let mut again = vec![0.5; n * n];
            accumulate(&three, &rows, n, &mut again);
            assert_eq!(bits(&gram), bits(&again), "{n} {count}");
        }
    }
}

#[test]
fn nothing_is_no_work() {
    accumulate(&machine(1), &[], 0, &mut []);
    mirror(&machine(1), 0, &mut []);
    accumulate_blocks(&machine(1), &[], 0, 16, &mut []);
    let mut out = vec![7.0; 32];
    accumulate_blocks(&machine(1), &[], 8, 4, &mut out);
    assert_eq!(out, [7.0; 32]);
}

#[test]
fn below_the_diagonal_only_squares_near_it_are_written() {
    let n = 600;
    let rows = noise(3 * n, 1);
    let mut gram = vec![9.0; n * n];
    accumulate(&machine(2), &rows, n, &mut gram);
    let far = |i: usize, j: usize| j < i / 64 * 64;
    for i in 0..n {
        for j in (0..i).filter(|j| far(i, *j)) {
            assert_eq!(gram[i * n + j], 9.0, "({i}, {j})");
        }
    }
}

#[test]
fn the_mirror_is_exact() {
    for n in [1, 31, 32, 33, 100, 257] {
        let before = noise(n * n, 5);
        let mut gram = before.clone();
        mirror(&machine(3), n, &mut gram);
        for i in 0..n {
            for j in 0..n {
                let from = before[i.min(j) * n + i.max(j)];
                assert_eq!(gram[i * n + j].to_bits(), from.to_bits(), "({i}, {j})");
            }
        }
    }
}

#[test]
fn blocks_are_the_diagonal_of_the_whole_bit_for_bit() {
    for (n, block, count) in [
        (128, 128, 300),
        (300, 128, 257),
        (70, 16, 33),
        (5, 7, 3),
        (257, 1, 2),
        (520, 260, 40),
        (260, 260, 1300),
        (20, 20, 2100),
    ] {
        let rows = noise(count * n, 77);
        let mut whole = vec![0.0; n * n];
        accumulate(&machine(1), &rows, n, &mut whole);
        mirror(&machine(1), n, &mut whole);
        for threads in [1, 3] {
            let mut out = vec![-0.0f32; n.div_ceil(block) * block * block];
            accumulate_blocks(&machine(threads), &rows, n, block, &mut out);
            for (at, got) in out.iter().enumerate() {
                let (k, i, j) = (at / (block * block), at / block % block, at % block);
                let (i, j) = (k * block + i, k * block + j);
                let want = if i < n && j < n {
                    whole[i * n + j]
                } else {
                    -0.0
                };
                assert_eq!(
                    got.to_bits(),
                    want.to_bits(),
                    "({i}, {j}) of {n} by {block}"
                );
            }
        }
    }
}

#[test]
fn not_a_number_stays_in_its_row_and_column() {
    let (n, bad) = (70, 3);
    let mut rows = noise(9 * n, 3);
    rows[4 * n + bad] = f32::NAN;
    let mut gram = vec![0.0; n * n];
    accumulate(&machine(1), &rows, n, &mut gram);
    for i in 0..n {
        for j in i..n {
            assert_eq!(gram[i * n + j].is_nan(), i == bad || j == bad, "({i}, {j})");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn calls_add_up(n in 1usize..140, first in 0usize..40, second in 0usize..300, seed: u32) {
        let rows = noise((first + second) * n, seed);
        let mut gram = vec![0.0; n * n];
        accumulate(&machine(1), &rows[..first * n], n, &mut gram);
        accumulate(&machine(1), &rows[first * n..], n, &mut gram);
        let (want, magnitudes) = defined(&rows, n);
        let bound = max_rel_err(first) + max_rel_err(second);
        for i in 0..n {
            for j in i..n {
                let error = (f64::from(gram[i * n + j]) - want[i * n + j]).abs();
                prop_assert!(error <= bound * magnitudes[i * n + j], "({}, {})", i, j);
            }
        }
    }
}
