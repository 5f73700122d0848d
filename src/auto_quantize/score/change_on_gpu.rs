//! What a format changes in the output of a layer whose tensors lie on a GPU: everything stays there, and nothing is
//! waited for. Memory to work in only grows.

use std::sync::Arc;

use super::change::check_one_place;
use super::products::Products;
use super::tally::Tally;
use super::work::Work;
use crate::error::Result;
use crate::kernels::Machine;
use crate::kernels::cuda::{Elements, Gpu};
use crate::kernels::perturbation::Sizes;
use crate::kernels::perturbation::cuda::{self as perturbation, Places, Sum};
use crate::kernels::unfold::{self, Patches};
use crate::model::{Layer, LayerForward};
use crate::tensor::{DType, TensorView};

/// Bytes of the patches that are unfolded at a time, where a few rows of them are not more.
const PATCH_BYTES: usize = 32 << 20;

/// Rows of a product's tile.
const TILE_ROWS: usize = 64;

/// A layer, its shadows, and what it reads.
pub(super) struct OnGpu<'a> {
    machine: &'a Machine,
    gpu: &'a Arc<Gpu>,
    candidates: &'a [Arc<Layer>],
    x: &'a TensorView,
    weight: &'a TensorView,
    g: &'a TensorView,
}

impl<'a> OnGpu<'a> {
    /// Errors when not all of the tensors lie on the GPU. `x` does.
    pub fn new(
        machine: &'a Machine,
        gpu: &'a Arc<Gpu>,
        layer: &Layer,
        candidates: &'a [Arc<Layer>],
        [x, weight, g]: [&'a TensorView; 3],
    ) -> Result<Self> {
        check_one_place(layer, [x, weight, g])?;
        Ok(Self {
            machine,
            gpu,
            candidates,
            x,
            weight,
            g,
        })
    }

    /// Adds the scores of the candidates.
    pub fn add_scores(
        &self,
        products: &Products,
        work: &mut Work,
        tally: &mut Tally,
    ) -> Result<()> {
        if self.x.count() == 0 || self.g.count() == 0 {
            return Ok(());
        }
        let (sizes, gpu) = (products.sizes, self.gpu);
        let elements = products.groups * sizes.tokens * sizes.outputs;
        let y = work.product.on_gpu(gpu, elements * size_of::<f32>())?;
        let changed = work.x.like(self.machine, self.x)?;
        let rounded = work.weight.like(self.machine, self.weight)?;
        let convolution = match products.patches() {
            None => None,
            Some(patches) => Some(Convolution::new(self, products, patches, work)?),
        };
        let of_tiles = match &convolution {
            None => perturbation::sums_bytes(sizes, 1),
            Some(convolution) => convolution.sums_bytes(),
        };
        let of_tiles = work.sums.on_gpu(gpu, of_tiles)?;
        let first = tally.enter(gpu, self.g)?;
        match &convolution {
            None => perturbation::product(gpu, [self.x, self.weight], sizes, y),
            Some(convolution) => convolution.product(self.x, self.weight, y),
        }
        for (total, candidate) in totals(first).zip(self.candidates) {
            candidate.input(*self.x, Some(changed))?;
            candidate.weight_into(rounded)?;
            let sum = Sum { of_tiles, total };
            match &convolution {
                None => perturbation::add_squared(gpu, [&changed, &rounded, self.g], sizes, y, sum),
                Some(convolution) => convolution.add_squared([&changed, &rounded, self.g], y, sum),
            }
        }
        Ok(gpu.take_failure()?)
    }

    /// The same of a layer that the host computes, on the stream.
    pub fn add_by_host(
        &self,
        forward: &dyn LayerForward,
        work: &mut Work,
        tally: &mut Tally,
    ) -> Result<()> {
        let (machine, gpu) = (self.machine, self.gpu);
        let y = work.y.like(machine, self.g)?;
        let changed_y = work.changed.like(machine, self.g)?;
        let changed = work.x.like(machine, self.x)?;
        let rounded = work.weight.like(machine, self.weight)?;
        let of_tiles = perturbation::difference_bytes(self.g.count());
        let of_tiles = work.sums.on_gpu(gpu, of_tiles)?;
        let first = tally.enter(gpu, self.g)?;
        forward.forward(self.x, Some(self.weight), &y)?;
        for (total, candidate) in totals(first).zip(self.candidates) {
            candidate.input(*self.x, Some(changed))?;
            candidate.weight_into(rounded)?;
            forward.forward(&changed, Some(&rounded), &changed_y)?;
            let sum = Sum { of_tiles, total };
            perturbation::add_squared_difference(gpu, [&changed_y, &y, self.g], sum);
        }
        Ok(gpu.take_failure()?)
    }
}

/// Where the sums of the recipes lie, one after the other.
fn totals(first: u64) -> impl Iterator<Item = u64> {
    (first..).step_by(size_of::<f64>())
}

/// How many rows of so many bytes are unfolded at a time.
fn rows_at_a_time(row: usize, all: usize) -> usize {
    let whole_tiles = PATCH_BYTES / row.max(1) / TILE_ROWS * TILE_ROWS;
    whole_tiles.max(TILE_ROWS).min(all)
}

/// A convolution: its patches are unfolded some rows at a time, and every group of channels is a product of them. How many
/// rows depends on its sizes alone, and so do the sums.
struct Convolution<'a> {
    gpu: &'a Gpu,
    products: &'a Products,
    patches: &'a Patches,
    /// Rows at a time.
    rows: usize,
    unfolded: u64,
}

impl<'a> Convolution<'a> {
    fn new(
        of: &'a OnGpu,
        products: &'a Products,
        patches: &'a Patches,
        work: &mut Work,
    ) -> Result<Self> {
        let row = patches.patch(patches.channels) * size_of::<f32>();
        let rows = rows_at_a_time(row, products.sizes.tokens);
        Ok(Self {
            gpu: of.gpu,
            products,
            patches,
            rows,
            unfolded: work.patches.on_gpu(of.gpu, rows * row)?,
        })
    }

    fn sums_bytes(&self) -> usize {
        let sizes = Sizes {
            tokens: self.rows,
            ..self.products.sizes
        };
        perturbation::sums_bytes(sizes, self.products.groups)
    }

    /// Calls `work` with every piece of the patches of x: how many rows, and where everything of the products lies.
    fn for_each_piece(&self, x: &TensorView, mut work: impl FnMut(Elements, Sizes, Places)) {
        let (sizes, patches) = (self.products.sizes, self.patches);
        let area: usize = patches.output.iter().product();
        let [width, outputs, area] =
            [patches.patch(patches.channels), sizes.outputs, area].map(|number| number as u64);
        for first in (0..sizes.tokens).step_by(self.rows) {
            let count = self.rows.min(sizes.tokens - first);
            unfold::cuda::rows(self.gpu, x, patches, first, count, self.unfolded);
            let places = Places {
                stride: width,
                x: sizes.inputs as u64,
                w: sizes.inputs as u64 * outputs,
                y: sizes.tokens as u64 * outputs,
                first: first as u64,
                places: area,
                image: self.products.groups as u64 * outputs * area,
                place: 1,
                channel: area,
            };
            let sizes = Sizes {
                tokens: count,
                ..sizes
            };
            work(Elements::at(self.unfolded, DType::F32), sizes, places);
        }
    }

    /// The output for an input and a weight, group after group.
    fn product(&self, x: &TensorView, weight: &TensorView, y: u64) {
        self.for_each_piece(x, |rows, sizes, places| {
            let operands = [rows, weight.into()];
            perturbation::products(self.gpu, operands, sizes, (self.products.groups, places), y);
        });
    }

    fn add_squared(&self, [x, weight, g]: [&TensorView; 3], y: u64, sum: Sum) {
        self.for_each_piece(x, |rows, sizes, places| {
            let operands = [rows, weight.into(), g.into()];
            let batch = (self.products.groups, places);
            perturbation::add_all_squared(self.gpu, operands, sizes, batch, y, sum);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::cuda::DeviceBuffer;
    use crate::kernels::cuda::testing::{self, Host, OnGpu};
    use crate::model::{Context, Convolution as Moves, LayerKind, LayerSpec, Model};

    #[test]
    fn whole_tiles_of_rows_fit_the_memory_and_one_tile_is_always_taken() {
        assert_eq!(rows_at_a_time(4096, 1_000_000), 8192);
        assert_eq!(rows_at_a_time(4096 + 4, 1_000_000), 8192 - 64);
        assert_eq!(rows_at_a_time(1 << 30, 1_000_000), 64);
        assert_eq!(rows_at_a_time(1 << 30, 7), 7);
        assert_eq!(rows_at_a_time(0, 100), 100);
    }

    /// An output is summed over one row alone: where the pieces end cannot show. The tiles are the same ones.
    #[test]
    fn pieces_give_the_output_and_the_score_of_the_whole() {
        let Some(machine) = testing::machine() else {
            return;
        };
        let gpu = machine.gpu().expect("a GPU");
        let there = |shape: &[usize], seed| {
            OnGpu::copy_of(&machine, &Host::noise(DType::F32, shape, seed).view(), 0)
        };
        let (x, other) = (there(&[3, 4, 11, 9], 1), there(&[3, 4, 11, 9], 2));
        let (weight, g) = (there(&[6, 2, 3, 2], 3), there(&[3, 6, 9, 8], 4));
        let context = Context::new(1, Box::new(|_, _| {})).expect("a thread");
        let mut model = Model::new(Arc::new(context));
        let mut host_weight = Host::noise(DType::F32, &[6, 2, 3, 2], 3);
        let layer = model.add_layer(LayerSpec {
            weight: Some(host_weight.view()),
            convolution: Moves::default(),
            ..LayerSpec::new("conv", LayerKind::Conv { spatial: 2 })
        });
        let layer = layer.expect("a layer");
        let products = Products::of(&layer, &x.view(), &g.view()).expect("it fits");
        let products = products.expect("products");
        let patches = products.patches().expect("a convolution");
        let tokens = products.sizes.tokens;
        assert_eq!((tokens, products.groups), (216, 2));
        let computed = |rows: usize| {
            let width = patches.patch(patches.channels) * size_of::<f32>();
            let unfolded = DeviceBuffer::new(gpu, rows * width).expect("memory");
            let convolution = Convolution {
                gpu,
                products: &products,
                patches,
                rows,
                unfolded: unfolded.address(),
            };
            let mut y = vec![0.0f32; tokens * 6];
            let output = DeviceBuffer::new(gpu, size_of_val(&y[..])).expect("memory");
            convolution.product(&x.view(), &weight.view(), output.address());
            output.read(&mut y).expect("a copy");
            let of_tiles = DeviceBuffer::new(gpu, convolution.sums_bytes()).expect("memory");
            let total = DeviceBuffer::holding(gpu, &[0.0f64]).expect("memory");
            let sum = Sum {
                of_tiles: of_tiles.address(),
                total: total.address(),
            };
            let operands = [&other.view(), &weight.view(), &g.view()];
            convolution.add_squared(operands, output.address(), sum);
            let mut score = [0.0f64];
            total.read(&mut score).expect("a copy");
            (y, score[0])
        };
        let (y, score) = computed(tokens);
        assert!(score > 1.0, "{score}");
        for rows in [64, 128] {
            let (of_pieces, sum_of_pieces) = computed(rows);
            testing::assert_same(&of_pieces, &y, &rows);
            assert!((sum_of_pieces - score).abs() <= 1e-12 * score);
        }
        testing::assert_no_failure(&machine);
    }
}
