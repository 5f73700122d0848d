//! A packed weight whose parts lie on a GPU: what it is unpacked with there, without an allocation or a copy, so that it
//! can be captured.

use std::sync::Arc;

use super::granularity::Granularity;
use super::layout::one_amax;
use super::packed::{PackedWeight, Scales};
use crate::kernels::cuda::{DeviceBuffer, Gpu, GpuError};
use crate::kernels::fake_quant::Format;
use crate::kernels::fake_quant::cuda::{Resident, run_resident};
use crate::kernels::pack::Memory;
use crate::kernels::pack::cuda::{decode_resident, scales_there};
use crate::tensor::TensorView;

/// Numbers beside the parts.
pub(super) struct There {
    gpu: Arc<Gpu>,
    /// A float32 for each block; None: they are the part "scale".
    scales: Option<DeviceBuffer>,
    /// The amax of what fake-quantizes the unpacked values again.
    then_amax: Option<DeviceBuffer>,
}

impl There {
    /// Writes the values to `out`, in the order of the stream.
    pub fn unpack(&self, packed: &PackedWeight, out: &TensorView) {
        let memory = |i: usize| packed.parts[i].memory.address();
        let scales = self
            .scales
            .as_ref()
            .map_or_else(|| memory(1), DeviceBuffer::address);
        let (gpu, grid) = (&self.gpu, &packed.grid);
        decode_resident(gpu, memory(0), grid, packed.elements, scales, out);
        if let Some(amax) = &self.then_amax {
            let at = Resident {
                amax: amax.address(),
                ..Resident::default()
            };
            let tensor = Granularity::per_tensor(out.shape());
            run_resident(gpu, out, out, tensor.grid(), Format::E4m3, at);
        }
    }
}

impl PackedWeight {
    /// The same weight with its other parts beside the codes, which are on that GPU: in `memory`, one for each.
    pub(super) fn on_gpu(mut self, gpu: &Arc<Gpu>, memory: Vec<Memory>) -> Result<Self, GpuError> {
        let scales = match &self.scales {
            Scales::Divisors => None,
            _ => Some(scales_there(gpu, self.scaling())?),
        };
        let then_amax = self.then.as_deref().and_then(one_amax);
        let then_amax = then_amax.map(|amax| DeviceBuffer::holding(gpu, &[amax]));
        self.there = Some(There {
            gpu: Arc::clone(gpu),
            scales,
            then_amax: then_amax.transpose()?,
        });
        assert_eq!(memory.len() + 1, self.parts.len(), "memory for parts");
        for (part, mut there) in self.parts.iter_mut().skip(1).zip(memory) {
            there.write(part.memory.bytes())?;
            part.memory = there;
        }
        Ok(self)
    }
}
