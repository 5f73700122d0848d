//! AWQ of weights and activations in device memory: the factors and amax values that a model in host memory gets, for
//! every format, odd sizes and dtypes; the model as it was when memory runs out.

mod on_gpu;
mod owned;
mod scarce;
mod stack;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::SeqCst};

use mq::calibrate;
use mq::config::QuantizeConfig;
use mq::error::{Error, Result};
use mq::kernels::cuda::Gpu;
use mq::model::{Layer, Mode, Model, SlotState};
use mq::tensor::{DType, TensorView};
use on_gpu::OnGpu;
use owned::Owned;
use scarce::{PLENTY, Scarce};
use stack::{FP8, INT8, INT8_ROWS, NVFP4, Part, Stack, config, context};

const INT4: &str = r#"{"num_bits": 4, "block_sizes": {"-1": 16}}"#;
const FP8_BLOCKS: &str = r#"{"num_bits": [4, 3], "block_sizes": {"-1": 24}}"#;
/// 4-bit integers in blocks, whose values are FP8 after that.
const W4A8: &str =
    r#"[{"num_bits": 4, "block_sizes": {"-1": 16}}, {"num_bits": [4, 3], "axis": null}]"#;

/// Where a tensor of a model on a GPU lies.
enum Place {
    Near(Owned),
    Far(OnGpu),
}

impl Place {
    fn new(gpu: &Arc<Gpu>, x: &Owned, is_far: bool) -> Self {
        match is_far {
            true => Self::Far(OnGpu::copy_of(gpu, x)),
            false => Self::Near(x.clone()),
        }
    }

    fn view(&self) -> TensorView {
        match self {
            Self::Near(x) => x.view(),
            Self::Far(x) => x.view(),
        }
    }

    fn bits(&self) -> Vec<u32> {
        match self {
            Self::Near(x) => on_gpu::bits(x),
            Self::Far(x) => x.bits(),
        }
    }
}

/// A model of a context with a GPU. Whatever is in its memory outlives it.
struct There {
    model: Model,
    layers: Vec<Arc<Layer>>,
    weights: Vec<Place>,
    batches: Vec<Vec<Place>>,
}

impl There {
    /// With the tensors of `parts`: which weights and which activations are on the GPU.
    fn new(gpu: &Arc<Gpu>, parts: &[Part], far_weights: bool, far_inputs: bool) -> Self {
        let mut model = Model::new(on_gpu::context(gpu));
        let weights: Vec<Place> = parts
            .iter()
            .map(|part| Place::new(gpu, &part.weight, far_weights))
            .collect();
        let layers = parts.iter().zip(&weights).map(|(part, weight)| {
            let mut spec = part.spec.clone();
            spec.weight = Some(weight.view());
            model.add_layer(spec).expect("a new layer")
        });
        let layers = layers.collect();
        let batches = parts.iter().map(|part| {
            let batches = part.batches.iter();
            batches.map(|x| Place::new(gpu, x, far_inputs)).collect()
        });
        Self {
            layers,
            batches: batches.collect(),
            model,
            weights,
        }
    }

    fn quantize(&mut self, config: &QuantizeConfig) -> Result<()> {
        let (layers, batches) = (&self.layers, &self.batches);
        let mut forward = || {
            for (layer, batches) in layers.iter().zip(batches) {
                for x in batches {
                    layer.input(x.view(), None)?;
                }
            }
            Ok(())
        };
        calibrate::quantize(&mut self.model, config, Some(&mut forward))
    }

    fn states(&self) -> Vec<Arc<SlotState>> {
        stack::states(&self.model)
    }
}

/// The numbers of a state.
fn numbers(state: &SlotState) -> String {
    let one = |q: &Arc<mq::model::Quantizer>| {
        format!(
            "{} {:?} {:?} {:?}",
            q.enabled, q.amax, q.pre_quant_scale, q.channel_amax
        )
    };
    let members: Vec<String> = state.members().iter().map(one).collect();
    members.join("; ")
}

/// The same factors and amax values, to the last bit, for the choices are clear; and errors up to those of sums.
fn assert_alike(got: &[Arc<SlotState>], want: &[Arc<SlotState>], what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        assert_eq!(numbers(got), numbers(want), "{what}: slot {i}");
        for (got, want) in got.members().iter().zip(want.members()) {
            let error = |q: &mq::model::Quantizer| q.record.as_ref().and_then(|r| r.error);
            // Of activations it is measured in host memory alone.
            if let (Some(got), Some(want)) = (error(got), error(want)) {
                for (got, want) in [(got.before, want.before), (got.after, want.after)] {
                    assert!(
                        (got - want).abs() <= 1e-4 * want,
                        "{what}: {got:e}, {want:e}"
                    );
                }
            }
        }
    }
}

/// Layers of odd sizes: a single output, blocks that are no divisor of the inputs, and such that are longer.
fn odd(dtype: DType) -> Vec<Part> {
    let sizes = [[1, 40], [24, 70], [7, 10], [66, 16], [3, 150]];
    let parts = (0..).zip(sizes).map(|(i, size)| {
        let name = format!("layer{i}");
        Part::linear(&name, size, None).cast(dtype)
    });
    parts.collect()
}

fn in_host_memory(parts: Vec<Part>, config: &QuantizeConfig) -> Stack {
    let mut near = Stack::new(context(1, 0).0, parts);
    near.quantize(config).expect("in host memory");
    near
}

const DTYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

#[test]
fn clipped_blocks_are_those_of_host_memory() {
    let Some(gpu) = on_gpu::gpu(std::ptr::null_mut(), None) else {
        return;
    };
    for dtype in DTYPES {
        for (weight, algorithm) in [
            (INT4, r#""awq_clip""#),
            (INT4, r#""awq_full""#),
            (FP8_BLOCKS, r#""awq_full""#),
            (W4A8, r#""awq_clip""#),
            (
                r#"{"num_bits": 3, "block_sizes": {"-1": 128}}"#,
                r#"{"method": "awq_full", "max_tokens_per_batch": 3, "min_clip_ratio": 0.3}"#,
            ),
            // What is scaled first is clipped under the factors that are there.
            (INT4, r#"["awq_lite", "awq_clip"]"#),
        ] {
            let what = format!("{dtype} {weight} {algorithm}");
            let config = config(weight, INT8, algorithm);
            let near = in_host_memory(odd(dtype), &config);
            let mut far = There::new(&gpu, &odd(dtype), true, true);
            let weights: Vec<_> = far.weights.iter().map(Place::bits).collect();
            far.quantize(&config).expect(&what);
            assert_alike(&far.states(), &near.states(), &what);
            let after: Vec<_> = far.weights.iter().map(Place::bits).collect();
            assert_eq!(after, weights, "{what}: the host's weights");
            if dtype == DType::F32 {
                let mut again = There::new(&gpu, &odd(dtype), true, true);
                again.quantize(&config).expect(&what);
                stack::assert_same(&again.states(), &far.states(), &what);
            }
        }
    }
}

#[test]
fn every_form_of_candidates_is_rounded_there() {
    let Some(gpu) = on_gpu::gpu(std::ptr::null_mut(), None) else {
        return;
    };
    let mx = r#"{"num_bits": [4, 3], "block_sizes": {"-1": 32, "type": "dynamic", "scale_bits": [8, 0]}}"#;
    let constant = r#"{"num_bits": [4, 3], "use_constant_amax": true}"#;
    let columns = r#"{"num_bits": 8, "axis": 1}"#;
    let square = r#"{"num_bits": 4, "block_sizes": {"-1": 16, "-2": 8}}"#;
    let dynamic = r#"{"num_bits": 4, "axis": 0, "type": "dynamic"}"#;
    for (i, (weight, algorithm)) in [
        // One amax for the tensor, clipped as a whole.
        (NVFP4, "awq_full"),
        (NVFP4, "awq_clip"),
        (INT8, "awq_full"),
        (INT8_ROWS, "awq_full"),
        (FP8, "awq_lite"),
        (columns, "awq_lite"),
        (square, "awq_full"),
        (dynamic, "awq_full"),
        (mx, "awq_full"),
        (constant, "awq_lite"),
        (W4A8, "awq_full"),
    ]
    .into_iter()
    .enumerate()
    {
        let dtype = DTYPES[i % 3];
        let what = format!("{dtype} {weight} {algorithm}");
        let config = config(weight, FP8, &format!("{algorithm:?}"));
        let near = in_host_memory(odd(dtype), &config);
        let mut far = There::new(&gpu, &odd(dtype), true, true);
        far.quantize(&config).expect(&what);
        assert_alike(&far.states(), &near.states(), &what);
    }
}

#[test]
fn weights_and_activations_may_lie_apart() {
    let Some(gpu) = on_gpu::gpu(std::ptr::null_mut(), None) else {
        return;
    };
    for weight in [INT4, NVFP4] {
        let config = config(weight, INT8, r#""awq_full""#);
        let near = in_host_memory(odd(DType::F32), &config);
        for (far_weights, far_inputs) in [(true, false), (false, true)] {
            let what = format!("{weight}: weights on the GPU: {far_weights}");
            let mut apart = There::new(&gpu, &odd(DType::F32), far_weights, far_inputs);
            apart.quantize(&config).expect(&what);
            assert_alike(&apart.states(), &near.states(), &what);
        }
    }
}

#[test]
fn negative_weights_under_unsigned_are_refused_with_the_name() {
    let Some(gpu) = on_gpu::gpu(std::ptr::null_mut(), None) else {
        return;
    };
    let unsigned = r#"{"num_bits": 4, "unsigned": true, "block_sizes": {"-1": 16}}"#;
    for algorithm in [r#""awq_clip""#, r#""awq_lite""#] {
        let config = config(unsigned, INT8, algorithm);
        let mut near = Stack::new(context(1, 0).0, odd(DType::F32));
        let mut far = There::new(&gpu, &odd(DType::F32), true, true);
        let before = far.states();
        let want = near.quantize(&config).expect_err("negative");
        let error = far.quantize(&config).expect_err("negative");
        assert!(matches!(error, Error::Numeric(_)), "{error}");
        assert_eq!(error.to_string(), want.to_string());
        stack::assert_same(&far.states(), &before, "as it was");
    }
}

#[test]
fn no_host_memory_is_planned_for_what_the_gpu_does() {
    let Some(gpu) = on_gpu::gpu(std::ptr::null_mut(), None) else {
        return;
    };
    for weight in [INT4, NVFP4] {
        let config = config(weight, INT8, r#""awq_full""#);
        let parts = || vec![Part::linear("l", [256, 64], None)];
        let planned = |model: &Model| {
            let plan = calibrate::plan_quantize(model, &config).expect("a plan");
            let bytes = plan["passes"][0]["workspace_bytes"].as_u64();
            bytes.expect("a number")
        };
        let near = planned(&Stack::new(on_gpu::context(&gpu), parts()).model);
        let far = planned(&There::new(&gpu, &parts(), true, true).model);
        assert!(far < near, "{weight}: {far} bytes, in host memory {near}");
    }
}

/// How often memory is asked for when a model of one layer is quantized.
fn allocations(pool: &Arc<Gpu>, size: [usize; 2], config: &QuantizeConfig) -> i64 {
    let (memory, left) = Scarce::new(pool, &Arc::new(AtomicI64::new(0)));
    let gpu = on_gpu::gpu(std::ptr::null_mut(), Some(memory)).expect("as before");
    let mut there = There::new(&gpu, &[Part::linear("l", size, None)], true, true);
    left.store(PLENTY, SeqCst);
    there.quantize(config).expect("quantized");
    PLENTY - left.load(SeqCst)
}

#[test]
fn candidates_and_rows_ask_for_no_memory() {
    let Some(pool) = on_gpu::gpu(std::ptr::null_mut(), None) else {
        return;
    };
    for weight in [INT4, INT8, INT8_ROWS, NVFP4, W4A8] {
        let few = r#"{"method": "awq_full", "alpha_step": 0.5, "shrink_step": 0.5}"#;
        let many = r#"{"method": "awq_full", "alpha_step": 0.05, "shrink_step": 0.02}"#;
        let few = config(weight, INT8, few);
        let many = config(weight, INT8, many);
        let least = allocations(&pool, [2, 40], &few);
        assert_eq!(allocations(&pool, [2, 40], &many), least, "{weight}");
        assert_eq!(allocations(&pool, [70, 40], &many), least, "{weight}: rows");
    }
}

#[test]
fn when_device_memory_runs_out_the_model_is_as_it_was() {
    let Some(pool) = on_gpu::gpu(std::ptr::null_mut(), None) else {
        return;
    };
    let live = Arc::new(AtomicI64::new(0));
    for (weight, algorithm) in [
        (INT4, r#""awq_clip""#),
        (INT4, r#""awq_full""#),
        (NVFP4, r#""awq_full""#),
    ] {
        let config = config(weight, INT8, algorithm);
        let parts = || {
            vec![
                Part::linear("a", [9, 40], None),
                Part::linear("b", [4, 20], None),
            ]
        };
        let (memory, left) = Scarce::new(&pool, &live);
        let gpu = on_gpu::gpu(std::ptr::null_mut(), Some(memory)).expect("as before");
        let mut there = There::new(&gpu, &parts(), true, true);
        let before = there.states();
        let mut refused = 0;
        for allowed in (0..).step_by(2) {
            left.store(allowed, SeqCst);
            let outcome = there.quantize(&config);
            left.store(PLENTY, SeqCst);
            let Err(error) = outcome else {
                break;
            };
            refused += 1;
            assert!(matches!(error, Error::OutOfMemory(_)), "{allowed}: {error}");
            stack::assert_same(&there.states(), &before, "as it was");
            assert_eq!(there.model.mode(), Mode::Registered, "{allowed}");
        }
        assert!(refused > 10, "{refused}");
        let near = in_host_memory(parts(), &config);
        assert_alike(&there.states(), &near.states(), "with memory");
        drop((there, gpu));
        assert_eq!(live.load(SeqCst), 0, "everything was given back");
    }
}
