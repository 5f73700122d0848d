//! The score of a change on the GPU. *Reducing*: float32 products summed in the order of the inputs, squares in float64
//! by a tree that the sizes decide: the same bytes every run. [`max_rel_err`] bounds a product.

use crate::kernels::cuda::{Elements, Gpu, TILE, by_dtype, launch};
use crate::kernels::gemm::UNIT_ROUNDOFF;
use crate::tensor::TensorView;

use super::Sizes;

/// Rows and columns of a tile, `kSide` of the kernel.
const SIDE: usize = 64;

/// Bound of the error of an element of a product over so many inputs, times that of `|x| |w|ᵀ`: each product goes through
/// the roundings of the sums from there on, its own among them. (1 + u)^n - 1 is below `n u` by less than a thousandth for
/// n < 16000; the factor covers it.
///
/// A score differs by what that makes of its terms: with E = Σ (g ∘ δ)², where δ bounds the errors of both products and of
/// the difference, by `2 √(score E) + E` at most, and by the roundings of its sums in float64.
#[cfg_attr(
    not(test),
    allow(dead_code, reason = "the bound that tests hold it to")
)]
pub(crate) fn max_rel_err(inputs: usize) -> f64 {
    inputs as f64 * UNIT_ROUNDOFF * 1.001
}

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

/// Where products of one size have their operands, and the gradient of what they are: `ProductPlaces` of the kernel.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct Places {
    /// Elements from one row of x to the next.
    pub stride: u64,
    /// Elements from one product's part to the next one's, of x.
    pub x: u64,
    /// Of w.
    pub w: u64,
    /// Of y.
    pub y: u64,
    /// The row of the whole output that row 0 of x is for.
    pub first: u64,
    /// The gradient at column c of row t lies at `t / places * image + t % places * place + c * channel`; the columns of
    /// all products are counted.
    pub places: u64,
    /// See `places`.
    pub image: u64,
    /// See `places`.
    pub place: u64,
    /// See `places`.
    pub channel: u64,
}

impl Places {
    /// Of one product of tensors as they are.
    fn plain(sizes: Sizes) -> Self {
        Self {
            stride: sizes.inputs as u64,
            x: 0,
            w: 0,
            y: 0,
            first: 0,
            places: 1,
            image: sizes.outputs as u64,
            place: 0,
            channel: 1,
        }
    }
}

fn tiles(sizes: Sizes) -> usize {
    sizes.tokens.div_ceil(SIDE) * sizes.outputs.div_ceil(SIDE)
}

/// Bytes of the sums of tiles that [`add_squared`] works with, for so many products.
pub(crate) fn sums_bytes(sizes: Sizes, products: usize) -> usize {
    products * tiles(sizes) * size_of::<f64>()
}

/// Bytes of those of [`add_squared_difference`], for so many elements.
pub(crate) fn difference_bytes(count: usize) -> usize {
    count.div_ceil(TILE) * size_of::<f64>()
}

/// Where sums of squares go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sum {
    /// Room for those of tiles.
    pub of_tiles: u64,
    /// A float64 that they are added to, in a fixed order.
    pub total: u64,
}

impl Sum {
    fn add_up(&self, gpu: &Gpu, tiles: usize) {
        // SAFETY: the kernel of that signature, and as many sums as were written.
        unsafe {
            launch!(gpu, "sum_of_tiles", (1, 1); self.of_tiles, tiles as u64, self.total);
        }
    }
}

fn assert_fit(x: &TensorView, w: &TensorView, sizes: Sizes) {
    assert_eq!(x.count(), sizes.tokens * sizes.inputs, "x");
    assert_eq!(w.count(), sizes.outputs * sizes.inputs, "w");
}

/// `y = x wᵀ` in float32 at an address, which has room for `[tokens, outputs]`.
pub(crate) fn product(gpu: &Gpu, [x, w]: [&TensorView; 2], sizes: Sizes, y: u64) {
    assert_fit(x, w, sizes);
    if x.dtype() != w.dtype() {
        return products(
            gpu,
            [x.into(), w.into()],
            sizes,
            (1, Places::plain(sizes)),
            y,
        );
    }
    if tiles(sizes) == 0 {
        return;
    }
    // SAFETY: the kernel of that signature; the operands have the elements (asserted), and y the room (contract).
    unsafe {
        launch!(gpu, by_dtype!("product", x), (tiles(sizes) as u32, 1);
            x.address(), w.address(), ProductSizes::from(sizes), y);
    }
}

/// Adds `Σ (g ∘ (x wᵀ - y))²`, with y as [`product`] left it. Puts work on the stream, and waits for nothing.
pub(crate) fn add_squared(gpu: &Gpu, [x, w, g]: [&TensorView; 3], sizes: Sizes, y: u64, sum: Sum) {
    assert_fit(x, w, sizes);
    assert_eq!(g.count(), sizes.tokens * sizes.outputs, "g");
    if x.dtype() != w.dtype() || g.dtype() != x.dtype() {
        let operands = [x.into(), w.into(), g.into()];
        return add_all_squared(gpu, operands, sizes, (1, Places::plain(sizes)), y, sum);
    }
    if tiles(sizes) == 0 {
        return;
    }
    // SAFETY: the kernel of that signature; the operands have the elements (asserted), and the sums the room (contract).
    unsafe {
        launch!(gpu, by_dtype!("squared_change", x), (tiles(sizes) as u32, 1);
            x.address(), w.address(), ProductSizes::from(sizes), y, g.address(), sum.of_tiles);
    }
    sum.add_up(gpu, tiles(sizes));
}

/// [`product`] for so many products of one size, which the operands hold at these places.
pub(crate) fn products(
    gpu: &Gpu,
    [x, w]: [Elements; 2],
    sizes: Sizes,
    (count, places): (usize, Places),
    y: u64,
) {
    let tiles = tiles(sizes);
    if tiles * count == 0 {
        return;
    }
    // SAFETY: the kernel of that signature; the operands hold the products, and y has the room (contract).
    unsafe {
        launch!(gpu, "product_placed", ((tiles * count) as u32, 1);
            x, w, ProductSizes::from(sizes), places, tiles as u64, y);
    }
}

/// [`add_squared`] for so many products of one size, which the operands hold at these places.
pub(crate) fn add_all_squared(
    gpu: &Gpu,
    [x, w, g]: [Elements; 3],
    sizes: Sizes,
    (count, places): (usize, Places),
    y: u64,
    sum: Sum,
) {
    let tiles = tiles(sizes);
    if tiles * count == 0 {
        return;
    }
    // SAFETY: the kernel of that signature; the operands hold the products, and the sums have the room (contract).
    unsafe {
        launch!(gpu, "squared_change_placed", ((tiles * count) as u32, 1);
            x, w, ProductSizes::from(sizes), places, tiles as u64, y, g, sum.of_tiles);
    }
    sum.add_up(gpu, tiles * count);
}

/// Adds `Σ (g ∘ (changed - y))²` of three of as many elements. Puts work on the stream, and waits for nothing.
pub(crate) fn add_squared_difference(gpu: &Gpu, [changed, y, g]: [&TensorView; 3], sum: Sum) {
    let count = g.count();
    assert!(
        changed.count() == count && y.count() == count,
        "three alike"
    );
    let tiles = count.div_ceil(TILE);
    if tiles == 0 {
        return;
    }
    let [changed, y, g] = [changed, y, g].map(Elements::from);
    // SAFETY: the kernel of that signature; all have the elements (asserted), and the sums the room (contract).
    unsafe {
        launch!(gpu, "squared_difference", (tiles as u32, 1); changed, y, g, count as u64, sum.of_tiles);
    }
    sum.add_up(gpu, tiles);
}
