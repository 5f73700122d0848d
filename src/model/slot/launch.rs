//! One quantizer on the GPU: kernels on the stream, and nothing else once there is room for what they work out.

use std::sync::Arc;

use super::resident::Member;
use super::{Slot, quantization};
use crate::error::{Error, Result};
use crate::kernels::Grid;
use crate::kernels::absmax::cuda as maxima;
use crate::kernels::bias::cuda::{self as biases, SpreadAt, shift_resident};
use crate::kernels::cuda::{DeviceBuffer, Gpu};
use crate::kernels::fake_quant::Format;
use crate::kernels::fake_quant::cuda::{Resident as Addresses, needs_scratch, run_resident};
use crate::kernels::pack::nf4_cuda::{self as nf4, Nf4At};
use crate::model::bias;
use crate::model::granularity::Granularity;
use crate::model::quantizer::{Kind, Quantizer};
use crate::tensor::TensorView;

const FLOAT: usize = size_of::<f32>();

/// The numbers of a quantizer, where flaws are noted, and where memory goes that was outgrown.
pub(super) struct Places<'a> {
    gpu: &'a Arc<Gpu>,
    member: &'a mut Member,
    flaws: u64,
    retired: &'a mut Vec<Arc<DeviceBuffer>>,
}

impl<'a> Places<'a> {
    pub fn new(
        gpu: &'a Arc<Gpu>,
        member: &'a mut Member,
        flaws: u64,
        retired: &'a mut Vec<Arc<DeviceBuffer>>,
    ) -> Self {
        Self {
            gpu,
            member,
            flaws,
            retired,
        }
    }

    /// Room for amax values and what follows from them: what there is, or more.
    fn room(&mut self, bytes: usize) -> Result<u64> {
        grown(self.gpu, &mut self.member.scratch, bytes, self.retired)
    }

    /// Room for a bias.
    fn room_for_bias(&mut self, bytes: usize) -> Result<u64> {
        grown(self.gpu, &mut self.member.own_bias, bytes, self.retired)
    }

    /// Where there is an amax for each block of `x`: those that were given, or in `room`, which has a float32 for each,
    /// one constant again and again or the blocks' own.
    fn amax_of_blocks(&self, q: &Quantizer, x: &TensorView, grid: &Grid, room: u64) -> u64 {
        let (gpu, given, count) = (self.gpu, self.member.amax.address(), grid.num_blocks());
        match given {
            0 => {
                gpu.fill(room, 0, count * FLOAT);
                maxima::raise(gpu, x, grid, room);
                maxima::check_amax(gpu, room, count, self.flaws);
                room
            }
            constant if quantization::is_constant(q) => {
                maxima::repeat(gpu, constant, room, count);
                room
            }
            given => given,
        }
    }

    /// Bytes that `amax_of_blocks` wants.
    fn bytes_of_amax(&self, q: &Quantizer, grid: &Grid) -> usize {
        match self.member.amax.is_empty() || quantization::is_constant(q) {
            true => grid.num_blocks() * FLOAT,
            false => 0,
        }
    }
}

fn grown(
    gpu: &Arc<Gpu>,
    buffer: &mut Arc<DeviceBuffer>,
    bytes: usize,
    retired: &mut Vec<Arc<DeviceBuffer>>,
) -> Result<u64> {
    if buffer.len() < bytes {
        let larger = Arc::new(DeviceBuffer::new(gpu, bytes)?);
        retired.push(std::mem::replace(buffer, larger));
    }
    Ok(buffer.address())
}

impl Slot {
    /// Takes the bias off, if there is one, quantizes, and adds it again.
    pub(super) fn launch_affine(
        &self,
        quantizer: &Quantizer,
        places: &mut Places<'_>,
        x: &TensorView,
        out: &TensorView,
    ) -> Result<()> {
        let gpu = places.gpu;
        let Some((bias, value)) = quantizer.applied_bias() else {
            return self.launch(quantizer, places, x, out);
        };
        let (blocks, at) = match value {
            Some(value) => (
                quantization::bias_blocks(bias, value, &self.name, x)?,
                places.member.bias.address(),
            ),
            None => {
                let blocks = bias::granularity(bias, x.shape())
                    .map_err(|text| Error::State(format!("`{}`: {text}", self.name)))?;
                let work = biases::workspace_bytes(blocks.grid());
                let room = places.room_for_bias(work + blocks.grid().num_blocks() * FLOAT)?;
                let at = SpreadAt {
                    spread: 0,
                    batches: 0.0,
                    bias: room + work as u64,
                    center: bias::center(bias),
                    workspace: room,
                };
                biases::find(gpu, x, blocks.grid(), at);
                (blocks, at.bias)
            }
        };
        shift_resident(gpu, x, out, blocks.grid(), at, -1.0);
        self.launch(quantizer, places, out, out)?;
        shift_resident(gpu, out, out, blocks.grid(), at, 1.0);
        Ok(())
    }

    pub(super) fn launch(
        &self,
        quantizer: &Quantizer,
        places: &mut Places<'_>,
        x: &TensorView,
        out: &TensorView,
    ) -> Result<()> {
        let gpu = places.gpu;
        if quantizer.attributes.unsigned {
            maxima::find_flaws(gpu, x, maxima::NEGATIVE, places.flaws);
        }
        let found = quantization::amax_values(quantizer).map(<[f32]>::len);
        let fitting = quantization::fits_shape(quantizer, &self.name, x, found)?;
        let mut at = Addresses {
            flaws: places.flaws,
            ..Addresses::default()
        };
        let per_tensor = Granularity::per_tensor(x.shape());
        let (format, blocks) = match quantizer.kind() {
            Some(Kind::Amax(format)) => {
                at.amax = places.member.amax.address();
                let blocks = match quantization::is_constant(quantizer) {
                    true => per_tensor,
                    false => fitting,
                };
                (format, blocks)
            }
            // MX has a definition for everything: nothing is a flaw.
            Some(Kind::Mx(format)) => {
                at.flaws = 0;
                (Format::Mx(format), fitting)
            }
            Some(Kind::Nvfp4Dynamic) => {
                at.tensor_amax = places.member.tensor_amax.address();
                if found.is_none() {
                    at.tensor_amax = places.room(FLOAT)?;
                    gpu.fill(at.tensor_amax, 0, FLOAT);
                    maxima::raise(gpu, x, per_tensor.grid(), at.tensor_amax);
                    maxima::check_amax(gpu, at.tensor_amax, 1, at.flaws);
                }
                (Format::Nvfp4 { global_scale: 0.0 }, fitting)
            }
            Some(Kind::Nvfp4Static { largest_scale }) => {
                let (grid, count) = (fitting.grid(), fitting.grid().num_blocks());
                at.tensor_amax = places.member.tensor_amax.address();
                let own = if at.tensor_amax == 0 { FLOAT } else { 0 };
                let room = places.room(own + places.bytes_of_amax(quantizer, grid))?;
                at.amax = places.amax_of_blocks(quantizer, x, grid, room + own as u64);
                if at.tensor_amax == 0 {
                    at.tensor_amax = room;
                    gpu.fill(room, 0, FLOAT);
                    maxima::raise_to_largest(gpu, at.amax, count, room);
                }
                at.largest_scale = largest_scale;
                (Format::Nvfp4Static { scale_amax: 0.0 }, fitting)
            }
            Some(Kind::Nf4 { group }) => {
                self.launch_nf4(quantizer, places, (x, out), fitting.grid(), group)?;
                return Ok(());
            }
            None => {
                return Err(Error::Unsupported(format!(
                    "`{}`: {}",
                    self.name, quantizer.attributes.num_bits
                )));
            }
        };
        let grid = blocks.grid();
        if at.amax == 0 && needs_scratch(grid, format) {
            at.scratch = places.room(grid.num_blocks() * FLOAT)?;
            gpu.fill(at.scratch, 0, grid.num_blocks() * FLOAT);
        }
        run_resident(gpu, x, out, grid, format, at);
        Ok(())
    }

    fn launch_nf4(
        &self,
        quantizer: &Quantizer,
        places: &mut Places<'_>,
        (x, out): (&TensorView, &TensorView),
        grid: &Grid,
        group: usize,
    ) -> Result<()> {
        // The sums first, for they are float64.
        let (sums, scales) = (
            nf4::sums_bytes(grid.num_blocks()),
            grid.num_blocks() * FLOAT,
        );
        let room = places.room(sums + scales + places.bytes_of_amax(quantizer, grid))?;
        let of_amax = room + (sums + scales) as u64;
        let at = Nf4At {
            amax: places.amax_of_blocks(quantizer, x, grid, of_amax),
            scales: room + sums as u64,
            sums: room,
        };
        nf4::run_resident(places.gpu, x, out, grid, group, at);
        Ok(())
    }
}
