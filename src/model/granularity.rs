//! From attributes and a tensor's shape to the grid of amax values.

use crate::config::{Attributes, Axis, BlockSizes, QuantType};
use crate::kernels::Grid;
use crate::tensor::{MAX_RANK, Shape};

/// How a tensor of one shape is cut into blocks that share an amax.
#[derive(Debug, Clone, Copy)]
pub struct Granularity {
    grid: Grid,
    amax_shape: AmaxShape,
}

/// At most two extents for each dimension; no allocation.
#[derive(Debug, Clone, Copy)]
struct AmaxShape {
    extents: [usize; 2 * MAX_RANK],
    rank: usize,
}

impl AmaxShape {
    fn new() -> Self {
        Self {
            extents: [0; 2 * MAX_RANK],
            rank: 0,
        }
    }

    fn push(&mut self, extent: usize) {
        self.extents[self.rank] = extent;
        self.rank += 1;
    }
}

impl Granularity {
    /// The granularity that `attributes` give a tensor of `shape`. The error text names neither layer
    /// nor quantizer; the caller does.
    pub fn new(attributes: &Attributes, shape: &Shape) -> Result<Self, String> {
        match &attributes.block_sizes {
            Some(blocks) if blocks.blocks.iter().any(|(_, size)| size.is_some()) => {
                Self::blocked(blocks, shape)
            }
            Some(blocks) => {
                // Every listed axis is one whole block: the others keep their own amax.
                let reduced = axes(blocks.blocks.iter().map(|(axis, _)| *axis), shape)?;
                Ok(Self::kept(shape, |dim| !reduced[dim]))
            }
            None => match &attributes.axis {
                None => Ok(Self::kept(shape, |_| false)),
                Some(axis) => {
                    let named = match axis {
                        Axis::One(axis) => axes(std::iter::once(*axis), shape)?,
                        Axis::Many(many) => axes(many.iter().copied(), shape)?,
                    };
                    // Naming every dimension reduces over all of them, as in the reference.
                    let all = (0..shape.dims().len()).all(|dim| named[dim]);
                    Ok(Self::kept(shape, |dim| named[dim] && !all))
                }
            },
        }
    }

    /// One value for every index of the axes that are not named.
    pub fn reducing(axis: &Axis, shape: &Shape) -> Result<Self, String> {
        let reduced = axes(axis.dims().iter().copied(), shape)?;
        Ok(Self::kept(shape, |dim| !reduced[dim]))
    }

    /// One amax for a whole tensor.
    pub fn per_tensor(shape: &Shape) -> Self {
        Self::kept(shape, |_| false)
    }

    fn kept(shape: &Shape, keep: impl Fn(usize) -> bool) -> Self {
        let dims = shape.dims();
        let mut blocks = [1; MAX_RANK];
        let mut amax_shape = AmaxShape::new();
        for (dim, &n) in dims.iter().enumerate() {
            blocks[dim] = if keep(dim) { 1 } else { n };
            amax_shape.push(if keep(dim) { n } else { 1 });
        }
        Self {
            grid: Grid::new(shape, &blocks[..dims.len()]),
            amax_shape,
        }
    }

    fn blocked(sizes: &BlockSizes, shape: &Shape) -> Result<Self, String> {
        let dims = shape.dims();
        let mut blocks = [1; MAX_RANK];
        let listed = axes(sizes.blocks.iter().map(|(axis, _)| *axis), shape)?;
        for &(axis, size) in &sizes.blocks {
            let dim = dimension(axis, dims.len())?;
            // Mixed None and sizes are refused by the configuration.
            blocks[dim] = size.map_or(dims[dim], |b| usize::try_from(b).unwrap_or(usize::MAX));
        }
        let mut amax_shape = AmaxShape::new();
        let only_last = sizes.blocks.len() == 1 && listed[dims.len() - 1];
        if sizes.quant_type == QuantType::Dynamic && !only_last {
            return Err(format!(
                "dynamic blocks lie along the last axis, not along axis {} of a tensor of shape {shape:?}",
                sizes.blocks[0].0
            ));
        }
        if only_last {
            let (last, leading) = (dims.len() - 1, dims[..dims.len() - 1].iter());
            amax_shape.push(leading.product::<usize>() * dims[last].div_ceil(blocks[last]));
            amax_shape.push(1);
        } else {
            for (dim, &n) in dims.iter().enumerate() {
                amax_shape.push(n.div_ceil(blocks[dim]));
                if listed[dim] {
                    amax_shape.push(1);
                }
            }
        }
        Ok(Self {
            grid: Grid::new(shape, &blocks[..dims.len()]),
            amax_shape,
        })
    }

    /// The grid for kernels.
    pub fn grid(&self) -> &Grid {
        &self.grid
    }

    /// Shape of the amax, before a single value is made a scalar.
    pub fn amax_shape(&self) -> &[usize] {
        &self.amax_shape.extents[..self.amax_shape.rank]
    }
}

fn axes(listed: impl Iterator<Item = i64>, shape: &Shape) -> Result<[bool; MAX_RANK], String> {
    let mut named = [false; MAX_RANK];
    for axis in listed {
        let dim = dimension(axis, shape.dims().len())?;
        if named[dim] {
            return Err(format!(
                "axis {axis} is named twice for a tensor of shape {shape:?}"
            ));
        }
        named[dim] = true;
    }
    Ok(named)
}

fn dimension(axis: i64, rank: usize) -> Result<usize, String> {
    let dim = if axis < 0 { axis + rank as i64 } else { axis };
    match usize::try_from(dim) {
        Ok(dim) if dim < rank => Ok(dim),
        _ => Err(format!(
            "axis {axis} is out of range for a tensor of rank {rank}"
        )),
    }
}
