//! The score of a change on the GPU. *Reducing*: float32 products summed in the order of the inputs, squares in float64
//! by a tree that the sizes decide: the same bytes every run.

use std::sync::Arc;

use super::Sizes;
use crate::kernels::cuda::{DeviceBuffer, Gpu, GpuError, by_dtype, launch};
use crate::tensor::TensorView;

/// Rows and columns of a tile, `kSide` of the kernel.
const SIDE: usize = 64;

/// `ProductSizes` of the kernel.
#[repr(C)]
#[derive(Clone, Copy)]
struct ProductSizes {
    tokens: u64,
    inputs: u64,
    outputs: u64,
}

impl From<Sizes> for ProductSizes {
    fn from(sizes: Sizes) -> Self {
        Self {
            tokens: sizes.tokens as u64,
            inputs: sizes.inputs as u64,
            outputs: sizes.outputs as u64,
        }
    }
}

fn tiles(sizes: Sizes) -> usize {
    sizes.tokens.div_ceil(SIDE) * sizes.outputs.div_ceil(SIDE)
}

/// Room for [`squared`] of products of these sizes.
pub(crate) struct Workspace {
    /// Of tiles, and behind them of everything.
    sums: DeviceBuffer,
    tiles: usize,
}

impl Workspace {
    /// For products of these sizes.
    pub fn new(gpu: &Arc<Gpu>, sizes: Sizes) -> Result<Self, GpuError> {
        let tiles = tiles(sizes);
        let sums = DeviceBuffer::new(gpu, (tiles + 1) * size_of::<f64>())?;
        Ok(Self { sums, tiles })
    }
}

fn assert_fit(x: &TensorView, w: &TensorView, sizes: Sizes) {
    assert_eq!(x.count(), sizes.tokens * sizes.inputs, "x");
    assert_eq!(w.count(), sizes.outputs * sizes.inputs, "w");
    assert_eq!(x.dtype(), w.dtype(), "two of one dtype");
}

/// `y = x wᵀ` in float32 at an address, which has room for `[tokens, outputs]`.
pub(crate) fn product(gpu: &Gpu, x: &TensorView, w: &TensorView, sizes: Sizes, y: u64) {
    assert_fit(x, w, sizes);
    if tiles(sizes) == 0 {
        return;
    }
    // SAFETY: the kernel of that signature; the operands have the elements (asserted), and y the room (contract).
    unsafe {
        launch!(gpu, by_dtype!("product", x), (tiles(sizes) as u32, 1);
            x.address(), w.address(), ProductSizes::from(sizes), y);
    }
}

/// `Σ (g ∘ (x wᵀ - y))²`, with y as [`product`] left it: waits for the stream.
pub(crate) fn squared(
    gpu: &Gpu,
    [x, w, g]: [&TensorView; 3],
    sizes: Sizes,
    y: u64,
    workspace: &Workspace,
) -> Result<f64, GpuError> {
    assert_fit(x, w, sizes);
    assert_eq!(g.count(), sizes.tokens * sizes.outputs, "g");
    assert_eq!(g.dtype(), x.dtype(), "three of one dtype");
    assert_eq!(workspace.tiles, tiles(sizes), "room of another size");
    if workspace.tiles == 0 {
        return Ok(0.0);
    }
    let of_tiles = workspace.sums.address();
    let sum = of_tiles + (workspace.tiles * size_of::<f64>()) as u64;
    gpu.fill(sum, 0, size_of::<f64>());
    // SAFETY: the kernels of those signatures; the operands have the elements (asserted), and the sums the room.
    unsafe {
        launch!(gpu, by_dtype!("squared_change", x), (workspace.tiles as u32, 1);
            x.address(), w.address(), ProductSizes::from(sizes), y, g.address(), of_tiles);
        launch!(gpu, "sum_of_tiles", (1, 1); of_tiles, workspace.tiles as u64, sum);
    }
    let mut found = [0.0f64];
    gpu.read_from(sum, &mut found)?;
    Ok(found[0])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::cuda::testing::{self, OnGpu};
    use crate::kernels::perturbation;
    use crate::tensor::DType;

    fn noise(count: usize, seed: usize) -> Vec<f32> {
        let number = |i: usize| ((i * 37 + seed * 101) as f32 * 0.7311).sin();
        (0..count).map(number).collect()
    }

    #[test]
    fn scores_are_those_of_the_cpu() {
        let Some(machine) = testing::machine() else {
            return;
        };
        let gpu = machine.gpu().expect("a GPU");
        for (tokens, inputs, outputs) in [
            (1, 1, 1),
            (5, 33, 7),
            (64, 64, 64),
            (70, 130, 129),
            (3, 0, 4),
        ] {
            let sizes = Sizes {
                tokens,
                inputs,
                outputs,
            };
            let [mut x, mut w, mut changed, mut g] = [
                noise(tokens * inputs, 1),
                noise(outputs * inputs, 2),
                noise(outputs * inputs, 3),
                noise(tokens * outputs, 4),
            ];
            let mut y = vec![0.0; tokens * outputs];
            perturbation::product(&machine, &x, &w, sizes, &mut y);
            let want = perturbation::squared(&machine, &x, &changed, sizes, &y, &g);
            let there = |values: &mut Vec<f32>, extents: &[usize]| {
                let view = TensorView::over(values, extents).expect("valid");
                OnGpu::copy_of(&machine, &view, 4)
            };
            let (x, w) = (
                there(&mut x, &[tokens, inputs]),
                there(&mut w, &[outputs, inputs]),
            );
            let changed = there(&mut changed, &[outputs, inputs]);
            let g = there(&mut g, &[tokens, outputs]);
            assert_eq!(x.view().dtype(), DType::F32);
            let of_y = there(&mut vec![7.0; tokens * outputs], &[tokens, outputs]);
            product(gpu, &x.view(), &w.view(), sizes, of_y.view().address());
            for (got, want) in of_y.values().iter().zip(&y) {
                assert!(
                    (got - want).abs() <= 1e-4 * (1.0 + want.abs()),
                    "{got} {want}"
                );
            }
            let workspace = Workspace::new(gpu, sizes).expect("memory");
            let score = || {
                let operands = [&x.view(), &changed.view(), &g.view()];
                squared(gpu, operands, sizes, of_y.view().address(), &workspace).expect("a score")
            };
            let got = score();
            assert!((got - want).abs() <= 1e-5 * want, "{sizes:?}: {got} {want}");
            assert_eq!(got.to_bits(), score().to_bits(), "the same bytes every run");
            testing::assert_no_failure(&machine);
        }
    }
}
