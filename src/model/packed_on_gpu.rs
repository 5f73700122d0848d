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
use crate::kernels::pack::cuda::{ScalesAt, decode_resident, scales_there};
use crate::tensor::TensorView;

/// Numbers beside the parts, which are read where they lie: a host may have written others there.
pub(super) struct There {
    gpu: Arc<Gpu>,
    /// A float32 for each block, where they are not in the parts: those of INT8 and FP8, which follow from the amax.
    scales: Option<DeviceBuffer>,
    /// The amax of what fake-quantizes the unpacked values again.
    then_amax: Option<DeviceBuffer>,
}

impl There {
    /// Writes the values to `out`, in the order of the stream.
    pub fn unpack(&self, packed: &PackedWeight, out: &TensorView) {
        let memory = |i: usize| packed.parts[i].memory.address();
        let scales = match (&packed.scales, &self.scales) {
            (Scales::Exponents, _) => ScalesAt::Exponents(memory(1)),
            (Scales::Nvfp4(unit), _) => ScalesAt::Nvfp4(memory(1), *unit),
            (Scales::Nf4, _) => ScalesAt::Nf4 {
                codes: memory(1),
                multipliers: memory(2),
                group: packed.parts[1].memory.len() * size_of::<f32>()
                    / packed.parts[2].memory.len(),
                zero: memory(3),
            },
            (_, Some(own)) => ScalesAt::Floats(own.address()),
            (_, None) => ScalesAt::Floats(memory(1)),
        };
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
            Scales::OfInt(..) | Scales::OfE4m3(_) => Some(scales_there(gpu, self.scaling())?),
            Scales::Divisors | Scales::Exponents | Scales::Nvfp4(_) | Scales::Nf4 => None,
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
