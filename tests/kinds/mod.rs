//! A model of layers of many kinds whose formats are searched, in host memory or on a GPU: the same numbers in both.
#![allow(dead_code, reason = "no test file uses all of it")]

use std::sync::{Arc, Mutex, OnceLock};

use cudarc::driver::sys;
use mq::auto_quantize::auto_quantize;
use mq::auto_quantize::host::Host;
use mq::auto_quantize::score::Method;
use mq::auto_quantize::search::Search;
use mq::auto_quantize::settings::{Settings, read_constraints, read_formats};
use mq::error::{Error, Result};
use mq::kernels::cuda::Gpu;
use mq::model::{
    Context, ContextSettings, Convolution, Layer, LayerForward, LayerKind, LayerSpec, Model,
};
use mq::tensor::{DType, Device, TensorView};

use crate::on_gpu::{self, OnGpu, Place};
use crate::owned::Owned;

const F32: DType = DType::F32;
const F16: DType = DType::F16;
const BF16: DType = DType::BF16;

/// A layer, what enters it and the types of input, weight and gradient.
#[derive(Clone)]
pub struct Kind {
    pub name: &'static str,
    pub kind: LayerKind,
    pub x: Vec<usize>,
    pub weight: Vec<usize>,
    pub g: Vec<usize>,
    pub moves: Convolution,
    pub types: [DType; 3],
    /// The host computes it.
    pub is_hosts: bool,
}

fn linear(name: &'static str, [tokens, inputs, outputs]: [usize; 3], types: [DType; 3]) -> Kind {
    Kind {
        name,
        kind: LayerKind::Linear,
        x: vec![2, tokens, inputs],
        weight: vec![outputs, inputs],
        g: vec![2, tokens, outputs],
        moves: Convolution::default(),
        types,
        is_hosts: false,
    }
}

/// Linear layers, all of one type and mixed.
pub fn linears() -> Vec<Kind> {
    vec![
        linear("plain", [9, 48, 33], [F32; 3]),
        linear("half", [5, 64, 70], [BF16; 3]),
        linear("master_weight", [33, 32, 40], [BF16, F32, BF16]),
        linear("float_gradient", [7, 80, 17], [F16, F16, F32]),
        linear("float_input", [6, 16, 65], [F32, BF16, F16]),
    ]
}

fn conv(
    name: &'static str,
    [x, weight, g]: [&[usize]; 3],
    [stride, padding, dilation]: [[usize; 3]; 3],
    types: [DType; 3],
) -> Kind {
    Kind {
        name,
        kind: LayerKind::Conv {
            spatial: weight.len() - 2,
        },
        x: x.to_vec(),
        weight: weight.to_vec(),
        g: g.to_vec(),
        moves: Convolution {
            stride,
            padding,
            dilation,
        },
        types,
        is_hosts: false,
    }
}

/// Convolutions of one to three axes, with groups, strides, padding and dilation.
pub fn convolutions() -> Vec<Kind> {
    let one = [1; 3];
    vec![
        conv(
            "conv1d",
            [&[2, 6, 20], &[9, 6, 3], &[2, 9, 10]],
            [[2, 1, 1], [1, 0, 0], one],
            [F32; 3],
        ),
        conv(
            "conv2d",
            [&[2, 8, 9, 11], &[6, 4, 3, 3], &[2, 6, 9, 6]],
            [[1, 2, 1], [1, 1, 0], one],
            [BF16; 3],
        ),
        conv(
            "depthwise",
            [&[3, 5, 8, 8], &[5, 1, 3, 3], &[3, 5, 8, 8]],
            [one, [2, 2, 0], [2, 2, 1]],
            [F16, F32, F16],
        ),
        conv(
            "single",
            [&[4, 30, 5], &[66, 4, 1, 1], &[66, 30, 5]],
            [one, [0; 3], one],
            [F32, F32, BF16],
        ),
        conv(
            "conv3d",
            [&[1, 3, 4, 6, 5], &[4, 3, 2, 3, 2], &[1, 4, 3, 2, 6]],
            [[1, 2, 1], [0, 0, 1], [1, 1, 1]],
            [BF16, BF16, F32],
        ),
    ]
}

/// Layers that the host computes, one of them a linear one.
pub fn hosts() -> Vec<Kind> {
    let of = |name, kind, weight: &[usize], types| Kind {
        name,
        kind,
        x: vec![3, 70, 24],
        weight: weight.to_vec(),
        g: vec![3, 70, 24],
        moves: Convolution::default(),
        types,
        is_hosts: true,
    };
    vec![
        of("scale", LayerKind::Generic, &[24], [F32; 3]),
        of("gate", LayerKind::Generic, &[24], [BF16, F32, F16]),
        of("table", LayerKind::Linear, &[24, 24], [F16; 3]),
    ]
}

/// Numbers between -1 and 1 without any pattern that a format would like.
pub fn noise(dtype: DType, shape: &[usize], seed: usize) -> Owned {
    let mut owned = Owned::zeros(DType::F32, shape);
    for (i, value) in owned.bytes_mut().chunks_exact_mut(4).enumerate() {
        let number = ((i * 37 + seed * 101) as f32 * 0.7311).sin();
        value.copy_from_slice(&number.to_ne_bytes());
    }
    owned.cast(dtype)
}

/// A weight, where it lives.
enum Weight {
    Host(Owned),
    Gpu(OnGpu),
}

/// The model.
pub struct Kinds {
    pub place: Place,
    pub model: Model,
    pub layers: Vec<(Arc<Layer>, Kind)>,
    weights: Vec<Weight>,
}

impl Kinds {
    /// In host memory.
    pub fn here(kinds: &[Kind]) -> Self {
        let context = Context::new(1, Box::new(|_, _| {})).expect("a thread");
        Self::new(Place::Host(Arc::new(context)), kinds)
    }

    /// On a GPU.
    pub fn there(gpu: &Arc<Gpu>, kinds: &[Kind]) -> Self {
        Self::there_apart(gpu, gpu, kinds)
    }

    /// The same, where the host's tensors are not of the library's memory.
    pub fn there_apart(hosts: &Arc<Gpu>, gpu: &Arc<Gpu>, kinds: &[Kind]) -> Self {
        let context = on_gpu::context(gpu);
        Self::new(Place::Gpu(Arc::clone(hosts), context), kinds)
    }

    /// The same, where the library may keep so many bytes of activations.
    pub fn there_within(gpu: &Arc<Gpu>, kinds: &[Kind], memory_limit_bytes: u64) -> Self {
        let settings = ContextSettings {
            threads: 1,
            memory_limit_bytes,
            log: Box::new(|_, _| {}),
            progress: None,
            gpu: Some(Arc::clone(gpu)),
        };
        let context = Arc::new(Context::with(settings).expect("one thread"));
        Self::new(Place::Gpu(Arc::clone(gpu), context), kinds)
    }

    /// Every layer is called a second time in each step, with another input.
    pub fn used_twice(mut self) -> Self {
        self.layers.extend_from_within(..);
        self
    }

    fn new(place: Place, kinds: &[Kind]) -> Self {
        let mut all = Self {
            model: Model::new(Arc::clone(place.context())),
            place,
            layers: Vec::new(),
            weights: Vec::new(),
        };
        for (seed, kind) in kinds.iter().enumerate() {
            let values = noise(kind.types[1], &kind.weight, seed + 40);
            let mut weight = match &all.place {
                Place::Host(_) => Weight::Host(values),
                Place::Gpu(gpu, _) => Weight::Gpu(OnGpu::copy_of(gpu, &values)),
            };
            let view = match &mut weight {
                Weight::Host(values) => values.view_mut(),
                Weight::Gpu(there) => there.view(),
            };
            let forward: Option<Arc<dyn LayerForward>> = match kind.is_hosts {
                true => Some(Arc::new(Times)),
                false => None,
            };
            let spec = LayerSpec {
                weight: Some(view),
                convolution: kind.moves,
                forward,
                ..LayerSpec::new(kind.name, kind.kind)
            };
            let layer = all.model.add_layer(spec).expect(kind.name);
            all.layers.push((layer, kind.clone()));
            all.weights.push(weight);
        }
        all
    }

    /// A search over as many batches as the settings ask for.
    pub fn search(&mut self, settings: Settings) -> Result<Search> {
        let mut host = self.passes();
        auto_quantize(&mut self.model, settings, &mut host, None)
    }

    /// The same, with a number at the second element of a layer's gradient.
    pub fn search_spoiled(
        &mut self,
        settings: Settings,
        layer: usize,
        value: f32,
    ) -> Result<Search> {
        let mut host = self.passes();
        host.spoil = Some((layer, value));
        auto_quantize(&mut self.model, settings, &mut host, None)
    }

    fn passes(&self) -> Passes {
        Passes {
            place: match &self.place {
                Place::Host(context) => Place::Host(Arc::clone(context)),
                Place::Gpu(gpu, context) => Place::Gpu(Arc::clone(gpu), Arc::clone(context)),
            },
            layers: self.layers.clone(),
            spoil: None,
            apart: None,
            probe: None,
            is_probed: false,
            logits: None,
        }
    }

    /// The same, with the gradient of a layer in host memory.
    pub fn search_apart(&mut self, settings: Settings, layer: usize) -> Result<Search> {
        let mut host = self.passes();
        host.apart = Some(layer);
        auto_quantize(&mut self.model, settings, &mut host, None)
    }

    /// The same, with what `probe` reads around every tap of the passes that have gradients.
    pub fn search_probed(&mut self, settings: Settings, probe: Arc<Probe>) -> Result<Search> {
        let mut host = self.passes();
        host.probe = Some(probe);
        auto_quantize(&mut self.model, settings, &mut host, None)
    }

    /// What every quantizer holds.
    pub fn states(&self) -> Vec<String> {
        let slots = self.model.slots().iter();
        slots.map(|slot| format!("{:?}", slot.state())).collect()
    }
}

/// A search of two formats, one with quantized inputs; `bits` is the budget.
pub fn settings(method: Method, formats: &str, bits: f64) -> Settings {
    Settings {
        method,
        constraints: read_constraints(Some(&format!(r#"{{"effective_bits": {bits}}}"#)))
            .expect("constraints"),
        recipes: read_formats(Some(formats)).expect("formats"),
        num_calib_steps: 2,
        num_score_steps: 2,
        ..Settings::new().expect("defaults")
    }
}

/// INT8, and INT4 that leaves inputs as they are.
pub const FORMATS: &str = r#"["INT8_DEFAULT_CFG", {"quant_cfg": {
    "*weight_quantizer": {"num_bits": 4, "axis": 0}, "*input_quantizer": {"enable": false},
    "default": {"enable": false}}, "algorithm": "max"}]"#;

/// Those that multiply inputs, and divide weights.
pub const BALANCED: &str = r#"["INT8_SMOOTHQUANT_CFG", {"quant_cfg": {
    "*weight_quantizer": {"num_bits": 4, "block_sizes": {"-1": 16, "type": "static"}},
    "*input_quantizer": {"num_bits": [4, 3], "type": "dynamic"}, "default": {"enable": false}},
    "algorithm": {"method": "awq_lite", "alpha_step": 0.5}}]"#;

/// Both searches choose the same; their scores differ by `bound` of each at most.
pub fn assert_alike(got: &Search, want: &Search, bound: f64, what: &str) {
    let (got, want) = (got.to_json(), want.to_json());
    assert_eq!(got["best"]["recipe"], want["best"]["recipe"], "{what}");
    let stats = want["candidate_stats"].as_object().expect("stats");
    let mut compared = 0;
    for (group, stats) in stats {
        let scores = stats["scores"].as_array().expect("scores");
        for (at, want) in scores.iter().enumerate() {
            let want = want.as_f64().expect("a score");
            let got = got["candidate_stats"][group]["scores"][at].as_f64();
            let got = got.expect("a score");
            assert!(
                (got - want).abs() <= bound * want.abs(),
                "{what} {group} {at}: {got:e} {want:e}"
            );
            compared += usize::from(want > 0.0);
        }
    }
    assert!(compared >= 2 * stats.len(), "{what}: scores of nothing");
}

/// Counters of the driver: how far they moved inside of taps, by step.
pub struct Probe {
    pub read: Box<dyn Fn() -> Vec<i64> + Send + Sync>,
    pub moved: Mutex<Vec<Vec<i64>>>,
}

impl Probe {
    fn around(&self, step: u64, tap: impl FnOnce() -> Result<()>) -> Result<()> {
        let before = (self.read)();
        tap()?;
        let after = (self.read)();
        let mut moved = self.moved.lock().expect("nobody panicked");
        let step = step as usize;
        if moved.len() <= step {
            moved.resize(step + 1, vec![0; before.len()]);
        }
        for (moved, (before, after)) in moved[step].iter_mut().zip(before.iter().zip(after)) {
            *moved += after - before;
        }
        Ok(())
    }
}

/// Calls every layer once in a step.
struct Passes {
    place: Place,
    layers: Vec<(Arc<Layer>, Kind)>,
    spoil: Option<(usize, f32)>,
    apart: Option<usize>,
    probe: Option<Arc<Probe>>,
    is_probed: bool,
    logits: Option<(Owned, Option<OnGpu>)>,
}

impl Passes {
    fn tap(&self, step: u64, tap: impl FnOnce() -> Result<()>) -> Result<()> {
        match self.probe.as_ref().filter(|_| self.is_probed) {
            Some(probe) => probe.around(step, tap),
            None => tap(),
        }
    }
}

impl Host for Passes {
    fn data(&mut self, _: u64) -> Result<bool> {
        Ok(true)
    }

    /// The logits are sums of what the layers make of input and weight.
    fn forward(&mut self, step: u64) -> Result<()> {
        let mut logits = vec![0.0f32; 3 * CLASSES];
        for (at, (layer, kind)) in self.layers.iter().enumerate() {
            let mut x = noise(kind.types[0], &kind.x, 7 + at + 5 * step as usize);
            let mut weight = Owned::zeros(kind.types[1], &kind.weight);
            let place = &self.place;
            place.with(&mut x, |x| self.tap(step, || layer.input(x, Some(x))))?;
            self.place
                .with(&mut weight, |weight| layer.weight_into(weight))?;
            let (x, weight) = (x.view().to_f32(), weight.view().to_f32());
            for (i, (x, weight)) in x.iter().zip(weight.iter().cycle()).enumerate() {
                logits[i % (3 * CLASSES)] += x * weight;
            }
        }
        let mut shown = Owned::zeros(F32, &[3, CLASSES]);
        for (place, value) in shown.bytes_mut().chunks_exact_mut(4).zip(logits) {
            place.copy_from_slice(&value.to_ne_bytes());
        }
        let there = match &self.place {
            Place::Host(_) => None,
            Place::Gpu(gpu, _) => Some(OnGpu::copy_of(gpu, &shown)),
        };
        self.logits = Some((shown, there));
        Ok(())
    }

    fn forward_backward(&mut self, step: u64) -> Result<f64> {
        self.is_probed = true;
        self.forward(step)?;
        for (at, (layer, kind)) in self.layers.iter().enumerate().rev() {
            let mut g = noise(kind.types[2], &kind.g, 3 + at + 11 * step as usize);
            if let Some((_, value)) = self.spoil.filter(|(layer, _)| *layer == at) {
                let mut one = Owned::zeros(F32, &[1]);
                one.bytes_mut().copy_from_slice(&value.to_ne_bytes());
                let mut one = one.cast(kind.types[2]);
                let size = kind.types[2].size();
                g.bytes_mut()[size..2 * size].copy_from_slice(one.bytes_mut());
            }
            match self.apart == Some(at) {
                true => layer.gradient(g.view())?,
                false => {
                    let place = &self.place;
                    place.with(&mut g, |g| self.tap(step, || layer.gradient(g)))?;
                }
            }
        }
        Ok(1.0)
    }

    fn check_backward(&self) -> Result<()> {
        Ok(())
    }

    fn logits(&mut self, _: u64) -> Result<TensorView> {
        match &self.logits {
            Some((_, Some(there))) => Ok(there.view()),
            Some((here, None)) => Ok(here.view()),
            None => Err(Error::Internal("no forward ran".into())),
        }
    }

    fn check_logits(&self) -> Result<()> {
        Ok(())
    }
}

/// Classes of the logits.
const CLASSES: usize = 700;

/// A layer of the host's: `y[t, i] = tanh(x[t, i] * w[i])`, of the last axis.
struct Times;

impl LayerForward for Times {
    fn forward(&self, x: &TensorView, weight: Option<&TensorView>, y: &TensorView) -> Result<()> {
        let weight = fetch(weight.expect("a weight"));
        let columns = x.shape().dims().last().copied().expect("an axis");
        let mut values = Owned::zeros(F32, y.shape().dims());
        let out = values.bytes_mut().chunks_exact_mut(4);
        for ((at, x), out) in fetch(x).iter().enumerate().zip(out) {
            let value = (x * weight[at % columns]).tanh();
            out.copy_from_slice(&value.to_ne_bytes());
        }
        put(&mut values.cast(y.dtype()), y);
        Ok(())
    }
}

/// Makes the device's primary context the calling thread's, as a host has one that works on it.
fn set_current() {
    static CONTEXT: OnceLock<usize> = OnceLock::new();
    let context = *CONTEXT.get_or_init(|| {
        let (mut device, mut context) = (0, std::ptr::null_mut());
        // SAFETY: places for the handles; the driver is there, for a GPU was opened.
        unsafe {
            ok(sys::cuDeviceGet(&mut device, 0));
            ok(sys::cuDevicePrimaryCtxRetain(&mut context, device));
        }
        context as usize
    });
    // SAFETY: a live context, which is never given back.
    unsafe { ok(sys::cuCtxSetCurrent(context as sys::CUcontext)) };
}

fn ok(result: sys::CUresult) {
    assert_eq!(result, sys::CUresult::CUDA_SUCCESS);
}

/// The values of a tensor anywhere.
fn fetch(x: &TensorView) -> Vec<f32> {
    if x.device() == Device::Cpu {
        return x.to_f32();
    }
    set_current();
    let mut here = Owned::zeros(x.dtype(), x.shape().dims());
    let bytes = here.bytes_mut();
    // SAFETY: device memory of that size, and room for it; the copy waits for the default stream.
    unsafe {
        ok(sys::cuMemcpyDtoH_v2(
            bytes.as_mut_ptr().cast(),
            x.address(),
            bytes.len(),
        ));
    }
    here.view().to_f32()
}
/// Writes a tensor to one like it anywhere.
fn put(from: &mut Owned, to: &TensorView) {
    let bytes = from.bytes_mut();
    match to.device() {
        // SAFETY: memory of that size, apart.
        Device::Cpu => unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), to.data(), bytes.len());
        },
        Device::Cuda(_) => {
            set_current();
            // SAFETY: device memory of that size; on the default stream.
            unsafe {
                let from = bytes.as_ptr().cast();
                ok(sys::cuMemcpyHtoD_v2(to.address(), from, bytes.len()));
            }
        }
    }
}
