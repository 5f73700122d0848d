//! The divergence of logits on the GPU. *Reducing*: terms are the CPU's, but for a logarithm that lies so near the middle
//! of two float32 that the last bits of its row's sum decide, which is then off by a unit in the last place; their sums are
//! float64 by a tree. The same bytes every run.

use std::sync::Arc;

use crate::kernels::cuda::{DeviceBuffer, Elements, Gpu, GpuError, launch};
use crate::tensor::TensorView;

/// Bytes of `RowShift`.
const SHIFT_BYTES: usize = 16;

/// Logits on a GPU, and what makes probabilities of them.
pub(crate) struct Distribution {
    gpu: Arc<Gpu>,
    logits: Elements,
    /// Of logits that the host writes over.
    _copy: Option<DeviceBuffer>,
    /// Of the rows, and behind them a flag: whether one of them holds NaN or Inf.
    shifts: DeviceBuffer,
    rows: usize,
    classes: usize,
}

impl Distribution {
    /// Of logits `[.., classes]`, which are copied if they are to be kept. Waits for nothing.
    pub fn new(gpu: &Arc<Gpu>, x: &TensorView, is_kept: bool) -> Result<Self, GpuError> {
        let classes = x.shape().dims().last().copied().unwrap_or(1).max(1);
        let rows = x.count() / classes;
        let copy = match is_kept {
            true => Some(DeviceBuffer::new(gpu, x.size_bytes())?),
            false => None,
        };
        if let Some(copy) = copy.as_ref().filter(|copy| !copy.is_empty()) {
            gpu.copy(x.address(), copy.address(), x.size_bytes());
        }
        let at = copy.as_ref().map_or(x.address(), DeviceBuffer::address);
        let found = Self {
            gpu: Arc::clone(gpu),
            logits: Elements::at(at, x.dtype()),
            _copy: copy,
            shifts: DeviceBuffer::zeroed(gpu, rows * SHIFT_BYTES + size_of::<u32>())?,
            rows,
            classes,
        };
        if rows > 0 {
            let blocks = gpu.blocks_for(rows as u64);
            // SAFETY: the kernel of that signature; the logits have the rows, and there is a shift for each and a flag.
            unsafe {
                launch!(gpu, "logit_shifts", (blocks, 1);
                    found.logits, rows as u64, classes as u64, found.shifts.address(), found.flaws());
            }
        }
        Ok(found)
    }

    fn flaws(&self) -> u64 {
        self.shifts.address() + (self.rows * SHIFT_BYTES) as u64
    }

    /// Whether a row holds NaN or Inf: waits for the stream.
    pub fn is_flawed(&self) -> Result<bool, GpuError> {
        let mut flaws = [0u32];
        self.gpu.read_from(self.flaws(), &mut flaws)?;
        Ok(flaws[0] != 0)
    }

    /// `Σ p (log p - log q)` with these as p, and with q of the same shape: waits for the stream.
    pub fn divergence(&self, q: &Self) -> Result<f64, GpuError> {
        assert!(
            self.rows == q.rows && self.classes == q.classes,
            "two alike"
        );
        let (gpu, rows) = (&self.gpu, self.rows as u64);
        let sums = DeviceBuffer::zeroed(gpu, (self.rows + 1) * size_of::<f64>())?;
        let total = sums.address() + rows * size_of::<f64>() as u64;
        if rows > 0 {
            let blocks = gpu.blocks_for(rows);
            // SAFETY: the kernels of these signatures; both have the rows and a shift for each, and the sums the room.
            unsafe {
                launch!(gpu, "divergence_rows", (blocks, 1);
                    self.logits, self.shifts.address(), q.logits, q.shifts.address(), rows, self.classes as u64,
                    sums.address());
                launch!(gpu, "sum_of_tiles", (1, 1); sums.address(), rows, total);
            }
        }
        let mut found = [0.0f64];
        gpu.read_from(total, &mut found)?;
        Ok(found[0])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::cuda::testing::{self, Host, OnGpu};
    use crate::kernels::divergence;
    use crate::tensor::DType;

    fn of_cpu(x: &[f32], classes: usize) -> Vec<f32> {
        let mut values = x.to_vec();
        divergence::log_softmax(&mut values, classes);
        values
    }

    #[test]
    fn divergences_are_those_of_the_cpu() {
        let Some(machine) = testing::machine() else {
            return;
        };
        let gpu = machine.gpu().expect("a GPU");
        for (rows, classes, of_p, of_q, scale) in [
            (0, 5, DType::F32, DType::F32, 1.0),
            (1, 1, DType::F32, DType::F32, 1.0),
            (7, 33, DType::F32, DType::BF16, 9.0),
            (40, 256, DType::F16, DType::F16, 30.0),
            (3, 1000, DType::BF16, DType::F32, 200.0),
            (2, 5000, DType::F32, DType::F16, 3.0),
        ] {
            let scaled = |dtype: DType, seed: u32, near: f32| {
                let first = Host::noise(DType::F32, &[rows, classes], 3).view().to_f32();
                let other = Host::noise(DType::F32, &[rows, classes], seed)
                    .view()
                    .to_f32();
                let both = first.iter().zip(&other);
                let values: Vec<f32> = both.map(|(a, b)| scale * (a + near * b)).collect();
                Host::of(dtype, &[rows, classes], &values)
            };
            let (mut p, mut q) = (scaled(of_p, 4, 0.0), scaled(of_q, 5, 0.1));
            let far = [&p.view(), &q.view()].map(|x| OnGpu::copy_of(&machine, x, 4));
            let kept = Distribution::new(gpu, &far[0].view(), true).expect("memory");
            let changed = Distribution::new(gpu, &far[1].view(), false).expect("memory");
            assert!(!kept.is_flawed().expect("a copy"));
            let near = [p.view(), q.view()].map(|x| of_cpu(&x.to_f32(), classes));
            let want = divergence::of(&near[0], &near[1]);
            let got = kept.divergence(&changed).expect("a sum");
            // No logarithm of these numbers lies near the middle of two: what differs is sums in float64, each of at most
            // as many roundings as there are terms.
            let pairs = near[0].iter().zip(&near[1]);
            let sizes = pairs.map(|(p, q)| f64::from(*p).exp() * f64::from(p - q).abs());
            let bound = 2.0 * classes as f64 * f64::EPSILON * sizes.sum::<f64>();
            assert!(
                (got - want).abs() <= bound,
                "{rows} x {classes}: {got:e} {want:e} within {bound:e}"
            );
            let again = kept.divergence(&changed).expect("a sum");
            assert_eq!(got.to_bits(), again.to_bits(), "the same bytes every run");
            let same = kept.divergence(&kept).expect("a sum");
            assert_eq!(same, 0.0, "nothing from itself");
        }
        testing::assert_no_failure(&machine);
    }

    #[test]
    fn masked_classes_take_no_part_and_what_is_no_number_is_told() {
        let Some(machine) = testing::machine() else {
            return;
        };
        let gpu = machine.gpu().expect("a GPU");
        let (none, all, nan) = (f32::NEG_INFINITY, f32::INFINITY, f32::NAN);
        for (values, is_flawed) in [
            ([1.0, none, 2.0, 1e38, -3e38, 0.0], false),
            ([-5.0, -800.0, -1e-40, 0.0, -0.0, none], false),
            ([1.0, 2.0, 3.0, nan, 2.0, 1.0], true),
            ([1.0, 2.0, 3.0, 1.0, all, 1.0], true),
            ([none, none, none, 1.0, 2.0, 3.0], true),
            ([nan, nan, nan, 1.0, 2.0, 3.0], true),
        ] {
            let mut p = Host::of(DType::F32, &[2, 3], &values);
            let mut q = Host::of(DType::F32, &[2, 3], &[3.0, 2.0, 1.0, 1e38, 0.0, 3e38]);
            let far = [&p.view(), &q.view()].map(|x| OnGpu::copy_of(&machine, x, 0));
            let [there, other] =
                [0, 1].map(|at| Distribution::new(gpu, &far[at].view(), false).expect("memory"));
            assert_eq!(there.is_flawed().expect("a copy"), is_flawed, "{values:?}");
            let near = [p.view(), q.view()].map(|x| of_cpu(&x.to_f32(), 3));
            for (got, want) in [
                (there.divergence(&other), divergence::of(&near[0], &near[1])),
                (other.divergence(&there), divergence::of(&near[1], &near[0])),
            ] {
                let got = got.expect("a sum");
                let is_same = got.is_nan() && want.is_nan()
                    || got == want
                    || (got - want).abs() <= 1e-14 * want.abs();
                assert!(is_same, "{values:?}: {got:e} {want:e}");
            }
        }
        testing::assert_no_failure(&machine);
    }
}
