//! Gram matrices on the GPU.

use crate::kernels::cuda::{DeviceBuffer, Gpu, launch};
use crate::kernels::gemm::UNIT_ROUNDOFF;

/// Bound of an entry's error after one call with `count` rows that cuBLAS made, as [`super::max_rel_err`] is that of mq's
/// tiles. cuBLAS does not say in which order it adds: whatever it is, a product goes through at most one rounding of its
/// own and `count` additions, and the sum through the one to what was there. In its pedantic mode those are roundings of
/// float32.
pub fn max_rel_err_by_cublas(count: usize) -> f64 {
    (count + 2) as f64 * UNIT_ROUNDOFF * 1.001
}

/// Multiplications of one call of [`accumulate`].
fn multiplications(count: usize, n: usize) -> u64 {
    (count * n) as u64 * (n as u64 + 1) / 2
}

/// Finds out what makes products of this size, so that [`accumulate`] need not: may allocate.
pub(crate) fn prepare(gpu: &Gpu, count: usize, n: usize) {
    gpu.prepare_cublas(multiplications(count, n));
}

/// Adds `rowsᵀ rows` to the upper triangle of the matrix at `gram`; `rows` is `[count, n]` and `gram` `[n, n]`, both of
/// float32. Below the diagonal it stays as it was. Puts work on the stream, and waits for nothing.
///
/// *Reducing*: by mq's tiles within [`super::max_rel_err`], and the same bits on every GPU; by cuBLAS, which has large
/// products where it was found by [`prepare`], within [`max_rel_err_by_cublas`], and the same bits in every run.
pub(crate) fn accumulate(gpu: &Gpu, rows: u64, count: usize, n: usize, gram: u64) {
    let is_done =
        gpu.takes_cublas(multiplications(count, n)) && gpu.square_by_cublas(rows, [count, n], gram);
    if !is_done {
        run(gpu, rows, [count, n, n], false, gram);
    }
}

/// The same, prepared, for whole buffers: `gram` has `[n, n]` floats and `rows` `[count, n]`.
pub fn accumulate_buffer(rows: &DeviceBuffer, n: usize, gram: &DeviceBuffer) {
    let row = n * size_of::<f32>();
    assert!(n > 0 && gram.len() == n * row, "gram");
    assert!(rows.len().is_multiple_of(row), "rows of {n}");
    let count = rows.len() / row;
    prepare(rows.gpu(), count, n);
    accumulate(rows.gpu(), rows.address(), count, n, gram.address());
}

/// As [`super::accumulate_blocks`], with everything in device memory.
pub(crate) fn accumulate_blocks(
    gpu: &Gpu,
    rows: u64,
    count: usize,
    n: usize,
    block: usize,
    out: u64,
) {
    assert!(block > 0, "blocks without columns");
    run(gpu, rows, [count, n, block], true, out);
}

fn run(gpu: &Gpu, rows: u64, [count, n, block]: [usize; 3], is_mirrored: bool, out: u64) {
    if count == 0 || n == 0 {
        return;
    }
    let blocks = n.div_ceil(block);
    // Those below the diagonal end at once.
    let tiles = |side: usize| blocks * block.div_ceil(side).pow(2);
    // Large tiles read less, but there must be work for all multiprocessors.
    let (name, tiles) = match is_plenty(gpu, tiles(128)) && block > 64 {
        true => ("gram_128", tiles(128)),
        false => ("gram_64", tiles(64)),
    };
    let [count, n, block] = [count, n, block].map(|number| number as u64);
    // SAFETY: the kernel of that signature; the caller has so many rows, and room for the blocks.
    unsafe {
        launch!(gpu, name, (tiles as u32, 1); rows, count, n, block, u32::from(is_mirrored), out);
    }
}

/// Whether so many tiles, half of them empty, keep a GPU busy: two for each multiprocessor.
fn is_plenty(gpu: &Gpu, tiles: usize) -> bool {
    tiles as u64 / 2 >= u64::from(gpu.blocks_for(u64::MAX)) / 16
}

#[cfg(test)]
mod tests {
    use crate::kernels::cuda::{DeviceBuffer, launch, testing};
    use crate::kernels::gram::{self, check};
    use crate::kernels::{Isa, Machine};

    /// Both kernels, so that small matrices test them.
    const KERNELS: [(&str, usize); 2] = [("gram_64", 64), ("gram_128", 128)];

    /// Adds to `out` in device memory by a kernel, or by the one that is chosen for the size.
    fn by(
        machine: &Machine,
        kernel: Option<(&'static str, usize)>,
        rows: &[f32],
        [n, block]: [usize; 2],
        is_mirrored: bool,
        out: &mut [f32],
    ) {
        let gpu = machine.gpu().expect("a GPU");
        let count = rows.len() / n;
        let there = DeviceBuffer::new(gpu, size_of_val(rows)).expect("memory");
        there.write(rows).expect("a copy");
        let result = DeviceBuffer::new(gpu, size_of_val(out)).expect("memory");
        result.write(out).expect("a copy");
        match kernel {
            None if is_mirrored => {
                super::accumulate_blocks(gpu, there.address(), count, n, block, result.address())
            }
            None => super::accumulate(gpu, there.address(), count, n, result.address()),
            Some((name, side)) => {
                let tiles = n.div_ceil(block) * block.div_ceil(side).pow(2);
                // SAFETY: as `run` does it.
                unsafe {
                    launch!(gpu, name, (tiles as u32, 1);
                        there.address(), count as u64, n as u64, block as u64, u32::from(is_mirrored),
                        result.address());
                }
            }
        }
        result.read(out).expect("a copy");
        testing::assert_no_failure(machine);
    }

    #[test]
    fn the_upper_triangle_is_that_of_the_definition_whatever_the_tiles() {
        let Some(machine) = testing::machine() else {
            return;
        };
        for n in [1, 2, 15, 63, 64, 65, 129, 200] {
            for count in [0, 1, 7, 16, 255, 257, 520] {
                if n > 64 && ![1, 257].contains(&count) {
                    continue; // slow in an emulator, and tested at smaller n
                }
                let rows = check::noise(count * n, n as u32);
                let mut chosen = vec![0.5; n * n];
                by(&machine, None, &rows, [n, n], false, &mut chosen);
                check::assert_upper_is_right(&rows, n, 0.5, &chosen);
                for i in 0..n {
                    assert!(chosen[i * n..][..i].iter().all(|below| *below == 0.5));
                }
                for kernel in KERNELS {
                    let mut again = vec![0.5; n * n];
                    by(&machine, Some(kernel), &rows, [n, n], false, &mut again);
                    assert_eq!(check::bits(&again), check::bits(&chosen), "{kernel:?} {n}");
                }
            }
        }
    }

    #[test]
    fn blocks_are_the_diagonal_of_the_whole_bit_for_bit() {
        let Some(machine) = testing::machine() else {
            return;
        };
        for (n, block, count) in [
            (128, 128, 30),
            (300, 128, 17),
            (70, 16, 33),
            (5, 7, 3),
            (130, 1, 2),
            (20, 20, 2100),
        ] {
            let rows = check::noise(count * n, 77);
            let mut whole = vec![0.0; n * n];
            by(&machine, None, &rows, [n, n], false, &mut whole);
            gram::mirror(
                &Machine::new(1, Isa::scalar()).expect("a thread"),
                n,
                &mut whole,
            );
            for kernel in KERNELS.map(Some).into_iter().chain([None]) {
                let mut out = vec![-0.0f32; n.div_ceil(block) * block * block];
                by(&machine, kernel, &rows, [n, block], true, &mut out);
                for (at, got) in out.iter().enumerate() {
                    let (k, i, j) = (at / (block * block), at / block % block, at % block);
                    let (i, j) = (k * block + i, k * block + j);
                    let is_there = i < n && j < n;
                    let want = if is_there { whole[i * n + j] } else { -0.0 };
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
    fn cublas_makes_the_upper_triangle_and_leaves_the_rest() {
        let (Some(machine), Some(with)) = (testing::machine(), testing::machine_with_cublas())
        else {
            return;
        };
        for (n, count) in [(1, 1), (2, 3), (17, 255), (64, 300), (65, 40), (200, 33)] {
            let rows = check::noise(count * n, n as u32);
            let mut gram = vec![0.5; n * n];
            by(&with, None, &rows, [n, n], false, &mut gram);
            let bound = super::max_rel_err_by_cublas(count);
            check::assert_upper_is_within(bound, &rows, n, 0.5, &gram);
            for i in 0..n {
                assert!(gram[i * n..][..i].iter().all(|below| *below == 0.5));
            }
            let mut again = vec![0.5; n * n];
            by(&with, None, &rows, [n, n], false, &mut again);
            assert_eq!(check::bits(&again), check::bits(&gram), "every run");
            let mut tiled = vec![0.5; n * n];
            by(&machine, None, &rows, [n, n], false, &mut tiled);
            // The one beside the emulator adds in another order, which shows that it was asked.
            let is_other = check::bits(&tiled) != check::bits(&gram);
            let is_real = !testing::is_emulator(with.gpu().expect("a GPU"));
            assert!(is_other || is_real || count < 256, "{n} {count}");
        }
        // Blocks are not its work.
        let rows = check::noise(300 * 70, 3);
        let blocks = |machine: &Machine| {
            let mut out = vec![0.0; 5 * 16 * 16];
            by(machine, None, &rows, [70, 16], true, &mut out);
            check::bits(&out)
        };
        assert_eq!(blocks(&with), blocks(&machine));
    }

    #[test]
    fn only_large_products_are_for_cublas() {
        // One stage of a layer that is worth it, and those that are not.
        let large = |count, n| super::multiplications(count, n) >= 1 << 31;
        assert!(large(512, 4096) && large(512, 14336));
        assert!(!large(512, 2048) && !large(200, 4096) && !large(0, 1 << 20));
        let Some(machine) = testing::machine() else {
            return;
        };
        let gpu = machine.gpu().expect("a GPU");
        super::prepare(gpu, 512, 2048);
        assert_eq!(gpu.take_notice(), None, "nothing is loaded for small ones");
    }

    /// What the bound of the error rests on: a sum that is smaller than half a unit of the whole survives within a chunk
    /// only.
    #[test]
    fn sums_are_taken_in_chunks() {
        let Some(machine) = testing::machine() else {
            return;
        };
        // The square of it is half a unit of 1.
        let mut rows = vec![2f32.powi(-12); 512];
        rows[0] = 1.0;
        for kernel in KERNELS {
            let mut gram = [0.0];
            by(&machine, Some(kernel), &rows, [1, 1], false, &mut gram);
            assert_eq!(gram, [1.0 + 256.0 * 2f32.powi(-24)], "{kernel:?}");
        }
    }

    #[test]
    fn not_a_number_stays_in_its_row_and_column() {
        let Some(machine) = testing::machine() else {
            return;
        };
        let (n, bad) = (70, 3);
        let mut rows = check::noise(9 * n, 3);
        rows[4 * n + bad] = f32::NAN;
        for kernel in KERNELS {
            let mut gram = vec![0.0; n * n];
            by(&machine, Some(kernel), &rows, [n, n], false, &mut gram);
            for i in 0..n {
                for j in i..n {
                    assert_eq!(gram[i * n + j].is_nan(), i == bad || j == bad, "({i}, {j})");
                }
            }
        }
    }
}
