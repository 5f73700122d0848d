/* mq: post-training quantization inside your engine. SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Conventions: every function that can fail returns mq_status, and mq_last_error_message() explains
 * it. Outputs are written only on success, but for bulk data. Strings are NUL-terminated UTF-8.
 * NULL is refused unless the text allows it. Handles may be destroyed in any order. */

#ifndef MQ_H
#define MQ_H

/* Generated from src/ffi by `cargo xtask header`; do not edit. */

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32) && !defined(MQ_STATIC)
#  define MQ_API __declspec(dllimport)
#else
#  define MQ_API
#endif

#define MQ_VERSION_MAJOR 0
#define MQ_VERSION_MINOR 1
#define MQ_VERSION_PATCH 0
#define MQ_VERSION (MQ_VERSION_MAJOR << 16 | MQ_VERSION_MINOR << 8 | MQ_VERSION_PATCH)

/**
 * Version of the ABI that this header describes: one more whenever a program would have to be compiled again, and then
 * the SONAME changes too. Functions, enumerators and fields at the end of a struct with `struct_size` may come without.
 */
#define MQ_ABI_VERSION 1

/**
 * Most dimensions a tensor may have.
 */
#define MQ_MAX_RANK 8

/**
 * Host memory (DLPack's kDLCPU).
 */
#define MQ_DEVICE_CPU 1

/**
 * Memory of a CUDA device (DLPack's kDLCUDA).
 */
#define MQ_DEVICE_CUDA 2

/**
 * IEEE floating point (DLPack's kDLFloat): `bits` 32 or 16.
 */
#define MQ_DTYPE_FLOAT 2

/**
 * bfloat16 (DLPack's kDLBfloat): `bits` 16.
 */
#define MQ_DTYPE_BFLOAT 4

/**
 * mq_layer_desc.norm_flags: the norm multiplies with `1 + gain`, as Gemma's do.
 */
#define MQ_NORM_ADDS_ONE 1

/**
 * The scales stay as calibrated, see mq_requantize_into().
 */
#define MQ_SCALES_KEEP 0

/**
 * The scales follow from the largest magnitudes of the new weight, see mq_requantize_into().
 */
#define MQ_SCALES_REFRESH 1

/**
 * A wildcard or filter that selects nothing is no error.
 */
#define MQ_ALLOW_NO_MATCH 1

/**
 * mq_set_quantizer_attributes(): attributes that are not given go back to their defaults.
 */
#define MQ_REPLACE_ATTRIBUTES 2

/**
 * mq_fold_weight(): the weight quantizers keep their amax.
 */
#define MQ_FOLD_KEEP_ATTRIBUTES 1

/**
 * One line for each quantizer, as the reference prints it.
 */
#define MQ_SUMMARY_TEXT 0

/**
 * A JSON object with everything about layers and quantizers.
 */
#define MQ_SUMMARY_JSON 1

/**
 * mq_auto_quantize_options.flags: tell of every choice through the log, as the reference does.
 */
#define MQ_AUTO_QUANTIZE_VERBOSE 1

/**
 * mq_auto_quantize_options.flags: every layer that is not disabled gets one of the formats, even where `null` is
 * listed; without it a layer may always stay unquantized.
 */
#define MQ_AUTO_QUANTIZE_ALL_LAYERS 2

/**
 * mq_auto_quantize_solve(): only tell; the model stays as it is.
 */
#define MQ_SOLVE_DRY_RUN 1

/**
 * Signed integers (DLPack's kDLInt): `bits` 8. Only parts of packed weights have it.
 */
#define MQ_DTYPE_INT 0

/**
 * Unsigned integers (DLPack's kDLUInt): `bits` 8; pairs of 4-bit codes, or exponents plus 127. Only
 * parts of packed weights have it.
 */
#define MQ_DTYPE_UINT 1

/**
 * FP8 E4M3 (DLPack's kDLFloat8_e4m3fn): `bits` 8. Only parts of packed weights have it.
 */
#define MQ_DTYPE_FLOAT8_E4M3FN 10

/**
 * `cublas` of mq_context_options: what this version takes for the best, which is MQ_CUBLAS_IF_FOUND and may change.
 */
#define MQ_CUBLAS_DEFAULT 0

/**
 * No product is made by cuBLAS: they are the same bytes on every GPU and machine.
 */
#define MQ_CUBLAS_NEVER 1

/**
 * Large products are made by cuBLAS where it can be loaded and works. The log says which library that is, or why it is
 * none. Products are the same bytes in every run with one version of cuBLAS on one model of GPU.
 */
#define MQ_CUBLAS_IF_FOUND 2

/**
 * Outcome of a call. Everything but `MQ_OK` comes with a text: mq_last_error_message().
 *
 * Numbers are never reused or changed.
 */
enum mq_status
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /**
     * The call did what its documentation says.
     */
    MQ_OK = 0,
    /**
     * An argument is NULL, out of range, or a tensor of the wrong dtype, rank, shape, strides or device.
     */
    MQ_ERR_INVALID_ARGUMENT = 1,
    /**
     * A configuration, preset, attribute set or algorithm is not valid. The text quotes the
     * offending key or value, its JSON path and the nearest valid one.
     */
    MQ_ERR_CONFIG = 2,
    /**
     * Valid, but not built into this version. The text names it.
     */
    MQ_ERR_UNSUPPORTED = 3,
    /**
     * A name or wildcard matches nothing.
     */
    MQ_ERR_NOT_FOUND = 4,
    /**
     * The name is taken.
     */
    MQ_ERR_ALREADY_EXISTS = 5,
    /**
     * The call does not fit the state of the model, such as mq_calibrate() before mq_quantize().
     */
    MQ_ERR_STATE = 6,
    /**
     * NaN, Inf or negative values where they cannot be quantized. The text names the layer.
     */
    MQ_ERR_NUMERIC = 7,
    /**
     * Another call holds the model.
     */
    MQ_ERR_BUSY = 8,
    /**
     * A callback returned non-zero; the model is as it was before the call.
     */
    MQ_ERR_CALLBACK = 9,
    /**
     * Threads, or memory for a whole tensor, could not be had, or the memory limit of the context is too
     * low for a calibration (the text says how much it needs). (When a smaller allocation of mq's own fails,
     * the process ends, as it does in Rust programs.)
     */
    MQ_ERR_OUT_OF_MEMORY = 10,
    /**
     * A bug in mq. The model refuses further work with `MQ_ERR_POISONED`.
     */
    MQ_ERR_INTERNAL = 11,
    /**
     * The model met MQ_ERR_INTERNAL before; only destroying it is possible.
     */
    MQ_ERR_POISONED = 12,
    /**
     * The host called mq_cancel(); the model is as it was before the call.
     */
    MQ_ERR_CANCELLED = 13,
    /**
     * CUDA: no driver, no device, a driver that is too old, or an error of the driver. Tensors in host memory still
     * work on a context without a CUDA device.
     */
    MQ_ERR_CUDA = 14,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum mq_status mq_status;
#else
typedef int32_t mq_status;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * What a layer computes; decides its quantizers and the axis of its weight.
 *
 * Every kind with a weight has `input_quantizer` (8 bit per tensor, enabled), `output_quantizer`
 * (8 bit per tensor, disabled) and `weight_quantizer` (8 bit, one amax per index of axis 0).
 */
enum mq_layer_kind
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /**
     * Weight `[out, in]`; class "nn.Linear".
     */
    MQ_LAYER_LINEAR = 1,
    /**
     * Weight `[out, in / groups, k]`; class "nn.Conv1d".
     */
    MQ_LAYER_CONV1D = 2,
    /**
     * Weight `[out, in / groups, kh, kw]`; class "nn.Conv2d".
     */
    MQ_LAYER_CONV2D = 3,
    /**
     * Weight `[out, in / groups, kd, kh, kw]`; class "nn.Conv3d".
     */
    MQ_LAYER_CONV3D = 4,
    /**
     * Weight `[in, out / groups, k]` (axis 0 is the input); class "nn.ConvTranspose1d".
     */
    MQ_LAYER_CONV_TRANSPOSE1D = 5,
    /**
     * Weight `[in, out / groups, kh, kw]`; class "nn.ConvTranspose2d".
     */
    MQ_LAYER_CONV_TRANSPOSE2D = 6,
    /**
     * Weight `[in, out / groups, kd, kh, kw]`; class "nn.ConvTranspose3d".
     */
    MQ_LAYER_CONV_TRANSPOSE3D = 7,
    /**
     * Weight `[rows, dim]`, quantized per tensor by default; its input (indices) is never
     * quantized; class "nn.Embedding".
     */
    MQ_LAYER_EMBEDDING = 8,
    /**
     * Anything else: norms, pooling, activations. A weight is optional; without one there is no
     * `weight_quantizer`. The class name is yours.
     */
    MQ_LAYER_GENERIC = 9,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum mq_layer_kind mq_layer_kind;
#else
typedef int32_t mq_layer_kind;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * How serious a log line is.
 */
enum mq_log_level
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /**
     * Something the user should know about and may want to change.
     */
    MQ_LOG_WARNING = 1,
    /**
     * What the library did.
     */
    MQ_LOG_INFO = 2,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum mq_log_level mq_log_level;
#else
typedef int32_t mq_log_level;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * Threads, instruction set, GPU and log of the library; models are created on one.
 *
 * Ownership: created by mq_context_create(), freed by mq_context_destroy(). Models keep what they
 * need of it: it may be destroyed before them.
 * Threads: may be shared by any number of models and threads.
 */
typedef struct mq_context mq_context;

/**
 * A registered layer.
 *
 * Ownership: belongs to its model, dies with it.
 * Threads: mq_layer_input(), mq_layer_output() and mq_layer_weight() may be called from any
 * thread, also inside a callback of a verb; they lock nothing but the layer.
 */
typedef struct mq_layer mq_layer;

/**
 * The host's model as mq knows it: names, borrowed tensors and quantizers.
 *
 * Ownership: created by mq_model_create(), freed by mq_model_destroy(). Owns its mq_layer and
 * mq_quantizer handles, which die with it. Tensors are borrowed: the host keeps them alive, and
 * does not move them, until mq_model_destroy() returns; but for weights that mq_compress() packed.
 * Threads: one registration or verb at a time, a second one answers MQ_ERR_BUSY; taps of its
 * layers may run on any thread at any time, but not while or after the model is destroyed.
 *
 * Registration: mq_model_add_layer(), mq_model_add_quantizer(). Look-up: mq_model_find_layer(),
 * mq_model_find_quantizer(), mq_model_quantizer_count(), mq_model_quantizer_at().
 * Verbs: mq_quantize(), mq_calibrate(), mq_fold_weight(), mq_enable_quantizer(),
 * mq_disable_quantizer(), mq_set_quantizer_attributes(), mq_postprocess_amax(), mq_reset_amax(),
 * mq_fold_pre_quant_scale(), mq_compress(), mq_plan(), mq_check(), mq_print_quant_summary(), mq_auto_quantize(),
 * mq_auto_quantize_solve(), mq_auto_quantize_state(), mq_auto_quantize_config(). From any thread: mq_cancel().
 */
typedef struct mq_model mq_model;

/**
 * A quantizer: one of a layer's, one of the host's own, or a member of a sequential quantizer.
 *
 * Ownership: belongs to its model, dies with it.
 * Threads: mq_quantizer_forward() may be called from any thread, as the taps of mq_layer; the
 * other functions hold the model and answer MQ_ERR_BUSY during a verb.
 */
typedef struct mq_quantizer mq_quantizer;

/**
 * Receives the log lines of a context. Ownership as in mq_forward_fn, but `release` runs when
 * the context and all its models are destroyed.
 * Threads: called on the thread of the mq call that has something to say; when the host calls mq
 * from several threads, so is this.
 */
typedef struct mq_log_fn {
    /**
     * Handed back unchanged as the first argument.
     */
    void *user_data;
    /**
     * `level` is an mq_log_level; `text` is one line of UTF-8, valid during the call. NULL: no log.
     */
    void (*log)(void *user_data, int32_t level, const char *text);
    /**
     * Frees `user_data`; NULL when there is nothing to free.
     */
    void (*release)(void *user_data);
} mq_log_fn;

/**
 * How far a verb has come.
 */
typedef struct mq_progress {
    /**
     * "observe": a pass of the host's forward begins or ends; "solve": a layer or quantizer is solved; "score": a step
     * of mq_auto_quantize() (a layer, for the methods gram and fisher) is scored.
     */
    const char *phase;
    /**
     * The layer or quantizer that was just solved; empty for none.
     */
    const char *layer;
    /**
     * Steps done of this phase, of the algorithm that is running.
     */
    uint64_t done;
    /**
     * Steps of this phase.
     */
    uint64_t total;
} mq_progress;

/**
 * Receives the progress of the verbs of a context's models. Ownership as in mq_log_fn.
 * Threads: called on the thread of the verb. It must not throw or unwind, and verbs on the same model
 * answer MQ_ERR_BUSY.
 */
typedef struct mq_progress_fn {
    /**
     * Handed back unchanged as the first argument.
     */
    void *user_data;
    /**
     * `progress` is valid during the call. Returns 0 to go on; any other value stops the verb, which
     * answers MQ_ERR_CALLBACK with the model as it was. NULL: no progress.
     */
    int32_t (*progress)(void *user_data, const struct mq_progress *progress);
    /**
     * Frees `user_data`; NULL when there is nothing to free.
     */
    void (*release)(void *user_data);
} mq_progress_fn;

/**
 * Where a tensor lives; the layout of DLPack's DLDevice.
 */
typedef struct mq_device {
    /**
     * `MQ_DEVICE_CPU`, or `MQ_DEVICE_CUDA` on a context with that device. Others are answered with
     * MQ_ERR_UNSUPPORTED.
     */
    int32_t device_type;
    /**
     * Index of the device; 0 for the CPU.
     */
    int32_t device_id;
} mq_device;

/**
 * Gives mq device memory, in place of cuMemAllocAsync().
 *
 * Threads: called from any thread, several at once, while the CUDA context of the mq_context is current. Must not
 * throw, nor call mq. Ownership: as mq_log_fn.
 */
typedef struct mq_device_memory_fn {
    /**
     * Handed back unchanged as the first argument.
     */
    void *user_data;
    /**
     * Returns `bytes` bytes of device memory, aligned to 256, which work put on `stream` (a CUstream) from now on
     * may use; NULL when there is none.
     */
    void *(*allocate)(void *user_data, size_t bytes, void *stream);
    /**
     * Takes them back; work that is on `stream` now still uses them.
     */
    void (*free)(void *user_data, void *memory, size_t bytes, void *stream);
    /**
     * Frees `user_data`; NULL when there is nothing to free.
     */
    void (*release)(void *user_data);
} mq_device_memory_fn;

/**
 * How a context works. Call mq_context_options_init() before setting fields.
 */
typedef struct mq_context_options {
    /**
     * sizeof(mq_context_options) in the caller's header. Set by mq_context_options_init().
     */
    uint32_t struct_size;
    /**
     * Threads that share the work; 0 (default): one for each CPU, 1: the calling thread alone. At most
     * 1024.
     */
    uint32_t num_threads;
    /**
     * Receives warnings and notes; default: none. Its user data is released with the last of the
     * context and its models, or at once when mq_context_create() fails (but not when `struct_size` is
     * too small to hold it).
     */
    struct mq_log_fn log;
    /**
     * Most bytes that the statistics and the work memory of a calibration may take, in host and device memory
     * together, beside the host's own memory and the scales it results in; 0 (default): no limit. Where one pass
     * of the forward would need more, there are several (see mq_plan()); the results are the same.
     */
    uint64_t memory_limit_bytes;
    /**
     * Receives the progress of verbs; default: none. Released as `log`.
     */
    struct mq_progress_fn progress;
    /**
     * Where tensors may live beside host memory: `MQ_DEVICE_CUDA` and the index of a device. Default: `MQ_DEVICE_CPU`,
     * host memory alone. Every tensor says itself where it is, and that decides where its work is done: nothing is
     * copied from one side to the other unasked.
     */
    struct mq_device device;
    /**
     * The CUcontext to work in, borrowed until the context and all its models are gone. NULL (default): that of
     * `cuda_stream`; else the calling thread's current one if it is of that device; else the device's primary one,
     * which the CUDA runtime uses. Whatever is current in a call is current again after it.
     */
    void *cuda_context;
    /**
     * The CUstream (cudaStream_t) that work is put on, borrowed as `cuda_context`; NULL (default): the default
     * stream. See mq_context_set_cuda_stream().
     */
    void *cuda_stream;
    /**
     * Gives device memory for scales, statistics and work memory; default: the driver's pool (cuMemAllocAsync()).
     * Released as `log`.
     */
    struct mq_device_memory_fn device_memory;
    /**
     * Whether cuBLAS, which is looked for at run time, may make large products in device memory (Gram matrices and the
     * errors under them, as AWQ and the search by `gram` need them): `MQ_CUBLAS_DEFAULT`, `MQ_CUBLAS_NEVER` or
     * `MQ_CUBLAS_IF_FOUND`. A context that has used it holds device memory for it, 32 MiB from `device_memory`
     * and what cuBLAS takes by itself, and waits for the device when the last of it and its models is destroyed.
     */
    uint32_t cublas;
    /**
     * Must be 0.
     */
    uint32_t reserved;
} mq_context_options;

/**
 * Element type; the layout of DLPack's DLDataType.
 */
typedef struct mq_dtype {
    /**
     * `MQ_DTYPE_FLOAT` or `MQ_DTYPE_BFLOAT`.
     */
    uint8_t code;
    /**
     * Bits per element.
     */
    uint8_t bits;
    /**
     * Must be 1.
     */
    uint16_t lanes;
} mq_dtype;

/**
 * A tensor of the host, borrowed; exactly the memory layout of DLPack's DLTensor, so
 * `(const mq_tensor *)&dl_tensor` is right by construction.
 *
 * Elements are float32, float16 or bfloat16, row-major and contiguous, aligned to their size. Rank 0 to
 * `MQ_MAX_RANK`; a tensor without elements may have `data == NULL`.
 */
typedef struct mq_tensor {
    /**
     * First byte of the storage; the elements begin `byte_offset` bytes later.
     */
    void *data;
    /**
     * Where `data` lives.
     */
    struct mq_device device;
    /**
     * Number of dimensions.
     */
    int32_t ndim;
    /**
     * Element type.
     */
    struct mq_dtype dtype;
    /**
     * `ndim` extents, in elements. May be NULL when `ndim` is 0.
     */
    const int64_t *shape;
    /**
     * `ndim` strides in elements, or NULL for row-major. Anything but row-major is refused.
     */
    const int64_t *strides;
    /**
     * Offset of the first element from `data`, in bytes.
     */
    uint64_t byte_offset;
} mq_tensor;

/**
 * Computes the output of a layer for an input and a weight that mq gives. Ownership of `user_data` and unwinding as in
 * mq_forward_fn, but `release` runs when the model is destroyed (or mq_model_add_layer() fails).
 * Threads: called on the thread that calls mq_layer_grad(), one call at a time; it must not call mq_layer_grad() itself
 * (MQ_ERR_STATE).
 */
typedef struct mq_layer_forward_fn {
    /**
     * Handed back unchanged as the first argument.
     */
    void *user_data;
    /**
     * Writes the layer's output to `y`, which has the shape and dtype of the gradient that mq_layer_grad() was
     * called with; `x` is of the shape and dtype the layer's input had, `weight` of those of its weight. A bias may be
     * added or left out. All three are valid during the call; x and weight are only read. Of a layer in device memory
     * they are device memory: computed on the context's stream, in order, without waiting for it. They stay valid for
     * what is put on that stream during the call; a host that computes on another one makes it wait for the context's
     * stream first, and the context's stream for it before it returns. Returns 0 to go on; any other value stops the
     * verb, which answers MQ_ERR_CALLBACK.
     */
    int32_t (*forward)(void *user_data,
                       const struct mq_tensor *x,
                       const struct mq_tensor *weight,
                       const struct mq_tensor *y);
    /**
     * Frees `user_data`; NULL when there is nothing to free.
     */
    void (*release)(void *user_data);
} mq_layer_forward_fn;

/**
 * One layer to register. Call mq_layer_desc_init() before setting fields. Strings and tensor
 * structs are copied; the elements the tensors point to are borrowed for the life of the model.
 */
typedef struct mq_layer_desc {
    /**
     * sizeof(mq_layer_desc) in the caller's header. Set by mq_layer_desc_init().
     */
    uint32_t struct_size;
    /**
     * An mq_layer_kind. Default MQ_LAYER_LINEAR.
     */
    int32_t kind;
    /**
     * Dotted name, such as "model.layers.0.self_attn.q_proj"; unique in the model, required.
     */
    const char *name;
    /**
     * Class that a configuration may select by ("nn.Linear"); NULL means that of the kind.
     */
    const char *class_name;
    /**
     * The weight, of the rank its kind asks for. mq_fold_weight() writes to it. Required but for
     * MQ_LAYER_GENERIC.
     */
    const struct mq_tensor *weight;
    /**
     * The bias, or NULL. Any float dtype, rank 1.
     */
    const struct mq_tensor *bias;
    /**
     * Layers of one name are fused by the runtime (q/k/v, gate/up) and must share their global
     * scale; NULL: not fused.
     */
    const char *fused_group;
    /**
     * Layers of one name read the same activation; NULL: nobody shares this layer's input. In a calibration
     * the tap of whichever comes first stands for all of them, also for one that is not tapped.
     */
    const char *shared_input_group;
    /**
     * Layers of one name are the same projection of the experts of one block: peers, each of which sees part
     * of the tokens; NULL: no expert. They get one scale for their input, and stand in for one that no
     * token reached.
     */
    const char *expert_group;
    /**
     * The gain, `[in]`, of the norm whose output the layer reads, for mq_fold_pre_quant_scale(), which
     * writes to it; any float dtype. NULL: none. Layers that name the same memory read the same output,
     * and everybody who reads it must be registered.
     */
    const struct mq_tensor *norm_gain;
    /**
     * The norm's bias, `[in]`, which is written to likewise; NULL: none.
     */
    const struct mq_tensor *norm_bias;
    /**
     * Name of the linear layer whose rows can take over what this layer's input is multiplied with: the
     * input is that layer's output, or a product of it with something, channel by channel. NULL: none.
     */
    const char *producer;
    /**
     * 0 or MQ_NORM_ADDS_ONE.
     */
    uint32_t norm_flags;
    /**
     * Must be zero.
     */
    uint32_t reserved;
    /**
     * Computes the layer, for mq_auto_quantize(), where mq cannot: MQ_LAYER_CONV_TRANSPOSE*, MQ_LAYER_GENERIC, and
     * convolutions that do not pad with zeros. NULL: mq computes it, or does not search a format for it.
     */
    const struct mq_layer_forward_fn *forward;
    /**
     * Of a convolution, for mq_auto_quantize(): elements from one place of the kernel to the next, by spatial axis;
     * 0 means 1.
     */
    uint32_t conv_stride[3];
    /**
     * Zeros before the first and after the last element of each spatial axis.
     */
    uint32_t conv_padding[3];
    /**
     * Elements from one of the kernel's to the next, by spatial axis; 0 means 1.
     */
    uint32_t conv_dilation[3];
    /**
     * Must be zero.
     */
    uint32_t reserved2;
} mq_layer_desc;

/**
 * Runs the host's model once over its whole calibration set, calling the taps.
 *
 * Ownership: passing this struct to an mq call hands `user_data` to mq, also when the call
 * fails; mq calls `release(user_data)` exactly once, before that call returns.
 * Threads: `forward` runs on the thread that made the call, and may call taps from any thread.
 * It must not throw or unwind. Registrations and verbs on the same model answer MQ_ERR_BUSY.
 */
typedef struct mq_forward_fn {
    /**
     * Handed back unchanged as the first argument.
     */
    void *user_data;
    /**
     * Returns 0 to go on; any other value stops the verb, which answers MQ_ERR_CALLBACK.
     */
    int32_t (*forward)(void *user_data);
    /**
     * Frees `user_data`; NULL when there is nothing to free.
     */
    void (*release)(void *user_data);
} mq_forward_fn;

/**
 * Chooses quantizers by name. Ownership, threads and unwinding as in mq_forward_fn.
 */
typedef struct mq_filter_fn {
    /**
     * Handed back unchanged as the first argument.
     */
    void *user_data;
    /**
     * Sets `*selected` (0 on entry) to non-zero to choose the quantizer of that dotted name.
     * Returns 0 to go on; any other value stops the verb, which answers MQ_ERR_CALLBACK.
     */
    int32_t (*filter)(void *user_data, const char *name, int32_t *selected);
    /**
     * Frees `user_data`; NULL when there is nothing to free.
     */
    void (*release)(void *user_data);
} mq_filter_fn;

/**
 * Replaces the amax of a quantizer. Ownership, threads and unwinding as in mq_forward_fn.
 */
typedef struct mq_amax_fn {
    /**
     * Handed back unchanged as the first argument.
     */
    void *user_data;
    /**
     * Changes the `count` values of `amax` (row-major, units of the tensor) in place.
     * They must end finite and not negative. Returns 0 to go on, any other value stops the verb.
     */
    int32_t (*process)(void *user_data, const char *name, float *amax, size_t count);
    /**
     * Frees `user_data`; NULL when there is nothing to free.
     */
    void (*release)(void *user_data);
} mq_amax_fn;

/**
 * How the calibrations of a model work, beside their algorithm. Call mq_calibration_options_init() before
 * setting fields. Strings are copied.
 */
typedef struct mq_calibration_options {
    /**
     * sizeof(mq_calibration_options) in the caller's header. Set by mq_calibration_options_init().
     */
    uint32_t struct_size;
    /**
     * Must be zero.
     */
    uint32_t reserved;
    /**
     * A calibration fails with MQ_ERR_STATE when fewer tokens than this pass an enabled quantizer of
     * activations; the text names those. 0 (default): none is refused, and those that no token reached
     * are filled: from the other experts of their `expert_group`, else from the layers of their
     * `shared_input_group` or `fused_group`, else they stay without an amax and quantize dynamically.
     */
    uint64_t min_tokens;
    /**
     * Path of a file that keeps what a calibration has finished: one that was killed, cancelled or failed
     * goes on from there when the same verb is called on the same model again. It is removed when the verb
     * succeeds. NULL (default): none.
     */
    const char *resume_file;
} mq_calibration_options;

/**
 * What mq_check() found, in numbers. Set `struct_size` to sizeof(mq_check_report) before the call.
 */
typedef struct mq_check_report {
    /**
     * sizeof(mq_check_report) in the caller's header.
     */
    uint32_t struct_size;
    /**
     * Problems that make scales wrong: not finite, not positive, or different within a group that is computed
     * as one; names that lead nowhere.
     */
    uint32_t errors;
    /**
     * Problems that do not: quantizers that no token reached, a group of one, an amax of zero.
     */
    uint32_t warnings;
    /**
     * Quantizers of the model; a sequential one counts once.
     */
    uint32_t quantizers;
    /**
     * Those that are enabled.
     */
    uint32_t enabled;
    /**
     * Enabled quantizers of activations that no token reached in their calibration.
     */
    uint32_t unseen;
    /**
     * The fewest tokens that an enabled quantizer of activations saw; UINT64_MAX when none was calibrated.
     */
    uint64_t fewest_tokens;
} mq_check_report;

/**
 * What mq_auto_quantize() is to do. Call mq_auto_quantize_options_init() before setting fields. Strings are only read
 * during the call.
 */
typedef struct mq_auto_quantize_options {
    /**
     * sizeof(mq_auto_quantize_options) in the caller's header. Set by mq_auto_quantize_options_init().
     */
    uint32_t struct_size;
    /**
     * MQ_AUTO_QUANTIZE_* or 0 (default).
     */
    uint32_t flags;
    /**
     * JSON: {"effective_bits": 4.8} (bits of a weight's element on average, where 16 is unquantized), or
     * {"max_cost": x} in the unit of the costs; optionally "cost_model" ("weight", or "active_moe": elements of
     * experts count `active_moe_expert_ratio`) and "cost" ({"active_moe_expert_ratio": 0.25,
     * "excluded_module_name_patterns": ["*lm_head*"]}: groups all of whose layers match cost nothing).
     * NULL (default): {"effective_bits": 4.8}.
     */
    const char *constraints;
    /**
     * JSON list of formats: names of presets, configuration objects as mq_quantize() takes them, or null (no
     * quantization). Their patterns see bare names: "*weight_quantizer" reaches every searched layer, "*lm_head*"
     * none. NULL (default): ["NVFP4_AWQ_LITE_CFG", "FP8_DEFAULT_CFG"].
     */
    const char *quantization_formats;
    /**
     * JSON: a pattern, or a list of them, of names of layers that stay unquantized (and count with 16 bits), and
     * with them the layers of their groups. NULL (default): none.
     */
    const char *disabled_layers;
    /**
     * JSON list of regular expressions whose first captured group is the key of a group of layers that get one
     * format; they go behind the default rules (q/k/v, gate/up, experts). {"prepend": [...]} puts them before, and
     * {"replace": [...]} in the place of, the default ones. The first that matches the beginning of a layer's name
     * counts; classes (`\d`, `\w`) are ASCII's. Layers of one `fused_group` or `expert_group` always get one format. NULL
     * (default): the default rules.
     */
    const char *grouping_rules;
    /**
     * How sensitive the loss is to a format: "gradient" (default; the reference's); "gram" (the squares of what changes
     * in the outputs, expected from second moments; no backward pass) and "fisher" (the same, each output weighed with
     * the mean square of its gradient; no layer is computed again), of linear layers; or "kl_div" (no backward
     * pass, but a forward for every format of every group).
     */
    const char *method;
    /**
     * Path of a file that keeps what the formats were calibrated to, and the scores after every step: a search that
     * was killed, cancelled or failed goes on from there, and one that was finished is solved for other constraints
     * without data. It stays when the verb succeeds. NULL (default): none.
     */
    const char *checkpoint;
    /**
     * Batches that the formats are calibrated on; those with AWQ take a quarter, as in the reference. Default 512.
     */
    uint64_t num_calib_steps;
    /**
     * Batches that they are scored on. Default 128.
     */
    uint64_t num_score_steps;
} mq_auto_quantize_options;

/**
 * The host's side of mq_auto_quantize(). Ownership, threads and unwinding as in mq_forward_fn. Every callback returns
 * 0 to go on; any other value stops the verb, which answers MQ_ERR_CALLBACK. `step` counts batches from 0, and
 * begins with 0 again for every pass; the steps of a pass may be run more than once.
 */
typedef struct mq_auto_quantize_fn {
    /**
     * Handed back unchanged as the first argument.
     */
    void *user_data;
    /**
     * Makes batch `step` the current one; sets `*available` (1 on entry) to 0 when there is no such batch, which is
     * an error (ask for fewer steps). Called before every forward_step and forward_backward_step. NULL: every batch
     * is there.
     */
    int32_t (*data)(void *user_data, uint64_t step, int32_t *available);
    /**
     * Runs the model over the current batch, calling mq_layer_input().
     */
    int32_t (*forward_step)(void *user_data, uint64_t step);
    /**
     * Sets `*loss` to the loss of the forward_step before; with `backward`.
     */
    int32_t (*loss)(void *user_data, uint64_t step, double *loss);
    /**
     * Runs back from that loss, calling mq_layer_grad() with its gradient at the output of every layer.
     */
    int32_t (*backward)(void *user_data, uint64_t step);
    /**
     * All three at once, in place of `loss` and `backward`.
     */
    int32_t (*forward_backward_step)(void *user_data, uint64_t step, double *loss);
    /**
     * Fills `*logits` (zeros on entry) with the logits `[.., classes]` of the forward_step before, for the method
     * "kl_div"; the memory and `shape` stay valid until the next callback. In host memory or on the context's device,
     * always in the same place; there they are read in the order of its stream.
     */
    int32_t (*logits)(void *user_data, uint64_t step, struct mq_tensor *logits);
    /**
     * Frees `user_data`; NULL when there is nothing to free.
     */
    void (*release)(void *user_data);
} mq_auto_quantize_fn;

/**
 * What a layer costs under a format, in any unit: latency, bytes, energy. Ownership, threads and unwinding as in
 * mq_forward_fn.
 */
typedef struct mq_layer_cost_fn {
    /**
     * Handed back unchanged as the first argument.
     */
    void *user_data;
    /**
     * Sets `*cost` (0 on entry), finite and not negative, for the layer of that name with so many elements of weight
     * under the format of that name (a preset's, `CUSTOM_<position>`, or `NONE`). Returns 0 to go on; any other
     * value stops the verb, which answers MQ_ERR_CALLBACK.
     */
    int32_t (*cost)(void *user_data,
                    const char *layer,
                    const char *format,
                    uint64_t elements,
                    double *cost);
    /**
     * Frees `user_data`; NULL when there is nothing to free.
     */
    void (*release)(void *user_data);
} mq_layer_cost_fn;

/**
 * Gives memory for packed weights. Ownership of `user_data`, threads and unwinding as in
 * mq_forward_fn. The memory itself stays the host's: it keeps it until mq_model_destroy() returns
 * and writes nothing to it. When mq_compress() fails, mq has no use for what it was given, once what is on the
 * context's CUDA stream is done.
 */
typedef struct mq_buffer_fn {
    /**
     * Handed back unchanged as the first argument.
     */
    void *user_data;
    /**
     * Sets `*memory` (NULL on entry) to `size_bytes` bytes (never 0), aligned to 4, for a part
     * ("weight", "scale", "double_scale", "scale_zeros") of the layer of that name: host memory, or, of a layer whose
     * weight is in device memory, memory of that device which the context's CUDA stream may use. Returns 0 to go
     * on; any other value stops the verb, which answers MQ_ERR_CALLBACK. NULL memory is
     * MQ_ERR_OUT_OF_MEMORY.
     */
    int32_t (*allocate)(void *user_data,
                        const char *layer,
                        const char *part,
                        size_t size_bytes,
                        void **memory);
    /**
     * Frees `user_data`; NULL when there is nothing to free.
     */
    void (*release)(void *user_data);
} mq_buffer_fn;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * One line of text about the last call that failed on the calling thread.
 *
 * @return NUL-terminated UTF-8, never NULL, empty when nothing failed yet. Valid until the next
 *         failing mq call on this thread or the end of the thread.
 *
 * Successful calls leave the text alone. Threads: each has its own text.
 */
MQ_API const char *mq_last_error_message(void);

/**
 * Version of the library: `major << 16 | minor << 8 | patch`. Equals `MQ_VERSION` of its header.
 */
MQ_API uint32_t mq_version(void);

/**
 * Version of the ABI of the library; a program works with it when this equals the `MQ_ABI_VERSION` it was compiled
 * with. For callers that load the library by path: the loader compares the SONAME by itself.
 */
MQ_API
uint32_t mq_abi_version(void);

/**
 * Name of a status, such as "MQ_ERR_CONFIG"; "unknown status" for a number that is none. Never NULL.
 */
MQ_API
const char *mq_status_name(int32_t status);

/**
 * Fills `options` with the defaults, never writing past `struct_size` bytes.
 *
 * @param[out] options      Struct to fill.
 * @param[in]  struct_size  sizeof(mq_context_options) in the caller's header.
 * @return MQ_OK; MQ_ERR_INVALID_ARGUMENT when `options` is NULL or `struct_size` too small.
 */
MQ_API mq_status mq_context_options_init(struct mq_context_options *options, uint32_t struct_size);

/**
 * Creates a context.
 *
 * @param[in]  options  How it works; NULL means the defaults.
 * @param[out] context  The context, to be freed by mq_context_destroy(). Untouched on failure.
 * @return MQ_OK; MQ_ERR_INVALID_ARGUMENT when `context` is NULL or an option is out of range;
 *         MQ_ERR_OUT_OF_MEMORY when the threads cannot be started; MQ_ERR_CUDA when a CUDA device is asked for and there
 *         is no driver, no such device, or the driver or device is too old (the text says which), or
 *         MQ_ERR_UNSUPPORTED when the library was built without CUDA.
 *
 * The environment variable MQ_ISA (`scalar`, `avx2`, `avx512`) lowers the instruction set that is
 * used; results do not change, bit for bit.
 */
MQ_API
mq_status mq_context_create(const struct mq_context_options *options,
                            struct mq_context **context);

/**
 * Frees a context; NULL is allowed. Models created on it go on working.
 */
MQ_API void mq_context_destroy(struct mq_context *context);

/**
 * Fills `desc` with the defaults, never writing past `struct_size` bytes.
 *
 * @param[out] desc         Struct to fill.
 * @param[in]  struct_size  sizeof(mq_layer_desc) in the caller's header.
 * @return MQ_OK; MQ_ERR_INVALID_ARGUMENT when `desc` is NULL or `struct_size` too small.
 */
MQ_API mq_status mq_layer_desc_init(struct mq_layer_desc *desc, uint32_t struct_size);

/**
 * Creates an empty model.
 *
 * @param[in]  context  Context whose threads and log the model uses.
 * @param[out] model    The model, to be freed by mq_model_destroy(). Untouched on failure.
 * @return MQ_OK; MQ_ERR_INVALID_ARGUMENT when an argument is NULL.
 */
MQ_API mq_status mq_model_create(const struct mq_context *context, struct mq_model **model);

/**
 * Frees a model and its layer and quantizer handles. The host's tensors are left as they are.
 *
 * @return MQ_OK, also for NULL; MQ_ERR_BUSY, and nothing happens, when a verb is running (a
 *         callback of the model tries to destroy it).
 */
MQ_API mq_status mq_model_destroy(struct mq_model *model);

/**
 * Registers a layer and creates its quantizers, named `<layer>.input_quantizer`,
 * `<layer>.output_quantizer` and `<layer>.weight_quantizer`.
 *
 * @param[in]  model  Model that has not been quantized yet.
 * @param[in]  desc   The layer.
 * @param[out] layer  Its handle, for the taps; owned by the model. May be NULL. Untouched on failure.
 * @return MQ_OK; MQ_ERR_INVALID_ARGUMENT for a NULL, a bad name, kind, or weight of the wrong rank
 *         or dtype; MQ_ERR_ALREADY_EXISTS when the name is taken; MQ_ERR_STATE after mq_quantize();
 *         MQ_ERR_BUSY.
 */
MQ_API
mq_status mq_model_add_layer(struct mq_model *model,
                             const struct mq_layer_desc *desc,
                             struct mq_layer **layer);

/**
 * Registers a quantizer of the host's own, such as "model.layers.0.self_attn.k_bmm_quantizer".
 *
 * It begins with 8 bits per tensor, enabled.
 *
 * @param[in]  model       Model that has not been quantized yet.
 * @param[in]  name        Its whole dotted name.
 * @param[in]  class_name  Class of the module it sits in, for class scopes; NULL: none.
 * @param[out] quantizer   Its handle, owned by the model. May be NULL. Untouched on failure.
 * @return as mq_model_add_layer().
 */
MQ_API
mq_status mq_model_add_quantizer(struct mq_model *model,
                                 const char *name,
                                 const char *class_name,
                                 struct mq_quantizer **quantizer);

/**
 * Finds a layer by its dotted name.
 *
 * @param[in]  model  Model to search.
 * @param[in]  name   The layer's name.
 * @param[out] layer  Its handle, owned by the model. Untouched on failure.
 * @return MQ_OK; MQ_ERR_NOT_FOUND; MQ_ERR_INVALID_ARGUMENT for a NULL; MQ_ERR_BUSY.
 */
MQ_API
mq_status mq_model_find_layer(struct mq_model *model,
                              const char *name,
                              struct mq_layer **layer);

/**
 * Finds a quantizer by its dotted name; members of a sequential quantizer are
 * `<name>.0`, `<name>.1`.
 *
 * @param[in]  model      Model to search.
 * @param[in]  name       The quantizer's name.
 * @param[out] quantizer  Its handle, owned by the model. Untouched on failure.
 * @return MQ_OK; MQ_ERR_NOT_FOUND; MQ_ERR_INVALID_ARGUMENT for a NULL; MQ_ERR_BUSY.
 *
 * The handle of a member answers MQ_ERR_STATE once its sequential quantizer is gone.
 */
MQ_API
mq_status mq_model_find_quantizer(struct mq_model *model,
                                  const char *name,
                                  struct mq_quantizer **quantizer);

/**
 * Number of quantizers, in registration order; members of sequential quantizers count one each.
 *
 * @param[in]  model  Model to count in.
 * @param[out] count  The number. Untouched on failure.
 * @return MQ_OK; MQ_ERR_INVALID_ARGUMENT for a NULL; MQ_ERR_BUSY.
 */
MQ_API mq_status mq_model_quantizer_count(struct mq_model *model, size_t *count);

/**
 * The quantizer at a position, in registration order.
 *
 * @param[in]  model      Model to look in.
 * @param[in]  index      0 to mq_model_quantizer_count() - 1.
 * @param[out] quantizer  Its handle, owned by the model. Untouched on failure.
 * @return MQ_OK; MQ_ERR_INVALID_ARGUMENT for a NULL or an index out of range; MQ_ERR_BUSY.
 */
MQ_API
mq_status mq_model_quantizer_at(struct mq_model *model,
                                size_t index,
                                struct mq_quantizer **quantizer);

/**
 * The layer's input on its way into the layer; called by the host in every forward pass.
 *
 * During calibration it is observed and passes unchanged (but for a pre_quant_scale); once
 * quantized, it is fake-quantized; before mq_quantize() it is copied. When the quantizer is disabled it
 * passes unrounded, but a pre_quant_scale (AWQ leaves one also on disabled quantizers) and a rotation still
 * apply: the weight counts on it, so do not skip the tap. Layers that share an input have factors of
 * their own: give each the activation as it was, apart from `out`, until the factors are folded.
 *
 * @param[in]  layer  The layer.
 * @param[in]  x      Its input, `[..., in]`. A tensor without elements is allowed.
 * @param[out] out    Result, of the shape and dtype of `x`; may share its memory exactly (in
 *                    place), not partly. NULL: observe only.
 * @return MQ_OK; MQ_ERR_INVALID_ARGUMENT for a NULL, a wrong dtype or overlap, or a shape that is not that
 *         of `x`, or not `[..., in]` for a linear layer; MQ_ERR_NUMERIC for NaN or Inf while calibrating
 *         or where the amax is dynamic, or negative values under `unsigned`; MQ_ERR_STATE when the
 *         quantizer's amax, bias or scale does not fit `x`, or a member is gone. On failure `out` is
 *         unspecified, and a verb that is running fails with the same error, whatever the callback
 *         returns.
 *
 * Synchronous. A quantizer that is calibrated allocates nothing; rotation in groups above 4096 and
 * dynamic amax values in two axes do.
 */
MQ_API
mq_status mq_layer_input(struct mq_layer *layer,
                         const struct mq_tensor *x,
                         const struct mq_tensor *out);

/**
 * The layer's output on its way out; as mq_layer_input(), with the layer's `output_quantizer`.
 *
 * @param[in]  layer  The layer.
 * @param[in]  y      Its output.
 * @param[out] out    Result, as in mq_layer_input().
 * @return as mq_layer_input().
 */
MQ_API
mq_status mq_layer_output(struct mq_layer *layer,
                          const struct mq_tensor *y,
                          const struct mq_tensor *out);

/**
 * The gradient of a loss at the layer's output, for mq_auto_quantize(); does nothing outside its scoring steps, so
 * that a backward pass may always call it.
 *
 * @param[in] layer  The layer, whose input passed mq_layer_input() in the same step. Where a layer is used several
 *                   times in a step, gradients come in the reverse order of the inputs.
 * @param[in] grad   dL/dy, of the shape of the layer's output: `[..., out]` for a linear layer. Where the layer's input
 *                   and weight are in device memory, so is it; its dtype may be another one than theirs.
 * @return MQ_OK; MQ_ERR_INVALID_ARGUMENT for a NULL, a wrong dtype or shape; MQ_ERR_STATE for more gradients than
 *         inputs; MQ_ERR_NUMERIC for NaN or Inf; MQ_ERR_OUT_OF_MEMORY. On failure a search that is running fails
 *         with the same error, whatever the callback returns.
 *
 * The layer's formats are scored before it returns, on all threads of the context, one layer at a time. In device memory
 * that is put on the context's stream, and nothing is waited for: a gradient with NaN or Inf is told by the verb. The
 * first step finds device memory to work in, which the others use again.
 */
MQ_API
mq_status mq_layer_grad(struct mq_layer *layer,
                        const struct mq_tensor *grad);

/**
 * The weight as the quantized layer uses it: fake-quantized once quantized, unpacked once compressed, else
 * as registered.
 *
 * @param[in]  layer  The layer.
 * @param[out] out    Receives the weight; its shape and dtype. May be the weight's own memory.
 * @return MQ_OK; MQ_ERR_INVALID_ARGUMENT for a NULL, a layer without a weight, a wrong dtype,
 *         shape or overlap; MQ_ERR_NUMERIC and MQ_ERR_STATE as mq_layer_input(). On failure `out` is
 *         unspecified.
 */
MQ_API
mq_status mq_layer_weight(struct mq_layer *layer,
                          const struct mq_tensor *out);

/**
 * What the quantized layer uses of a new weight: for a training loop that sends its weights to the engine again and
 * again.
 *
 * @param[in]  layer   A quantized layer.
 * @param[in]  weight  The new weight, of the shape, dtype and device of the registered one, which is neither read nor
 *                     written.
 * @param[out] out     Receives what mq_layer_weight() would give if `weight` were the registered one. May be `weight`
 *                     (in place), must not overlap it partly.
 * @param[in]  scales  MQ_SCALES_KEEP: those of the calibration. MQ_SCALES_REFRESH: found anew, at the same granularity,
 *                     from the largest magnitudes of this weight alone, and stored as the layer's.
 * @return MQ_OK; MQ_ERR_INVALID_ARGUMENT for a NULL, unknown `scales`, a layer without a weight, or a wrong dtype,
 *         shape, device or overlap; MQ_ERR_STATE before mq_quantize() or during a calibration, for a weight that is
 *         compressed or folded, or an amax that does not fit; MQ_ERR_UNSUPPORTED for refreshing an affine quantizer
 *         (bias); MQ_ERR_NUMERIC for NaN or Inf where scales are found, or negative values under `unsigned`; and as
 *         mq_layer_weight(). On failure `out` is unspecified, and the scales are those from before.
 *
 * The memory is the host's on both sides: nothing of a quantized engine has to be built anew. A pre_quant_scale and a
 * rotation of the weight apply, and stay. Refreshing replaces what another algorithm than max found (mse, a clip of
 * AWQ); quantizers without an amax of their own find their scales in every weight, and have nothing to refresh. A scale
 * that members of a fused group share in static NVFP4 blocks stays; one amax that they share becomes each layer's own:
 * keep the scales of such groups, or calibrate them.
 *
 * With tensors on a GPU this puts work on the context's stream and does nothing else, once the first call has found
 * memory for the layer's numbers: it may be captured into a graph. Refreshed scales are written to the device memory that
 * taps and captured graphs read; NaN and Inf are then reported by mq_model_synchronize() and the verbs, which take over
 * the numbers. By then the scales are those of the bad weight, unlike in host memory: a refresh with a good one replaces
 * them, and what taps have met in between is reported once more.
 *
 * Threads: as the taps of mq_layer; not with MQ_SCALES_REFRESH during a verb.
 */
MQ_API
mq_status mq_requantize_into(struct mq_layer *layer,
                             const struct mq_tensor *weight,
                             const struct mq_tensor *out,
                             int32_t scales);

/**
 * A tensor on its way through one quantizer; as mq_layer_input().
 *
 * @param[in]  quantizer  The quantizer.
 * @param[in]  x          Tensor to observe or quantize.
 * @param[out] out        Result, as in mq_layer_input().
 * @return as mq_layer_input().
 */
MQ_API
mq_status mq_quantizer_forward(struct mq_quantizer *quantizer,
                               const struct mq_tensor *x,
                               const struct mq_tensor *out);

/**
 * Gives the model's quantizers their formats and calibrates them.
 *
 * @param[in] model    Model whose layers are registered. May be quantized already: the
 *                     configuration is then applied on top.
 * @param[in] config   Name of a preset ("INT8_DEFAULT_CFG"), or JSON: an object with "quant_cfg" (a
 *                     list of entries, or a mapping) and "algorithm", as the reference takes it.
 * @param[in] forward  Runs the calibration set; not called when no quantizer waits for it. NULL:
 *                     weights are calibrated, activation quantizers stay without amax and quantize
 *                     dynamically; SmoothQuant and AWQ answer MQ_ERR_INVALID_ARGUMENT.
 * @return MQ_OK; MQ_ERR_INVALID_ARGUMENT for a NULL or a model without quantizers; MQ_ERR_CONFIG, also for an
 *         algorithm that does not fit a quantizer's format, and
 *         when no enabling entry matches anything; MQ_ERR_UNSUPPORTED naming the preset, format or
 *         algorithm; MQ_ERR_NUMERIC, naming the layer, for NaN or Inf in a weight or activation;
 *         MQ_ERR_CALLBACK; MQ_ERR_CANCELLED after mq_cancel(); MQ_ERR_OUT_OF_MEMORY when the context's memory
 *         limit is too low for one layer alone (the text says what it needs); MQ_ERR_STATE when the forward
 *         passes no token through any tap, other numbers of tokens in a later pass, or different ones
 *         through layers of one shared_input_group, when a quantizer saw fewer than `min_tokens`, and for a
 *         resume file of something else; MQ_ERR_BUSY. On failure the model is exactly as before the call.
 *
 * What mq_auto_quantize() found before is forgotten.
 *
 * The forward runs once for each pass that mq_plan() tells. The host's weights are not written to: what
 * SmoothQuant and AWQ multiply them with is applied by mq_layer_weight(), and written by mq_fold_weight() or
 * mq_compress().
 */
MQ_API
mq_status mq_quantize(struct mq_model *model,
                      const char *config,
                      const struct mq_forward_fn *forward);

/**
 * Calibrates the enabled quantizers of a quantized model.
 *
 * @param[in] model      Model that went through mq_quantize().
 * @param[in] algorithm  "max", or JSON: a string, {"method": ..., ...}, a list of those run one after
 *                       the other, or null. NULL, "" and null: none.
 * @param[in] forward    As in mq_quantize().
 * @return as mq_quantize(); MQ_ERR_STATE before mq_quantize(). On failure the model is exactly as
 *         before the call.
 *
 * As in the reference, a second calibration takes the maximum over both data sets;
 * mq_reset_amax() starts anew.
 */
MQ_API
mq_status mq_calibrate(struct mq_model *model,
                       const char *algorithm,
                       const struct mq_forward_fn *forward);

/**
 * Writes the fake-quantized weights over the host's, and disables the weight quantizers.
 *
 * @param[in] model  Model that went through mq_quantize().
 * @param[in] flags  0 or MQ_FOLD_KEEP_ATTRIBUTES.
 * @return MQ_OK; MQ_ERR_INVALID_ARGUMENT for an unknown flag; MQ_ERR_STATE before mq_quantize(), or when
 *         two layers share the memory of a weight that would be written; MQ_ERR_NUMERIC for NaN or Inf in a weight, or negative values under `unsigned`; MQ_ERR_BUSY. On
 *         failure no weight is changed.
 *
 * Layers whose weight quantizer is disabled, and neither scales nor rotates, stay as they are, so folding
 * twice changes nothing. The folded weight equals what mq_layer_weight() gave before, bit for bit. With
 * MQ_FOLD_KEEP_ATTRIBUTES the quantizers keep their amax. Compressed weights are passed over. mq writes to the host's weights: no tap of
 * these layers may run meanwhile.
 */
MQ_API
mq_status mq_fold_weight(struct mq_model *model,
                         uint32_t flags);

/**
 * Enables the quantizers whose dotted name matches a wildcard (Python's fnmatch over the whole name).
 *
 * @param[in]  model     Model that went through mq_quantize().
 * @param[in]  wildcard  Such as "*input_quantizer" or "model.layers.[01].*".
 * @param[in]  flags     0 or MQ_ALLOW_NO_MATCH.
 * @param[out] matched   Number of quantizers that matched; a sequential one counts once. May be NULL.
 *                       Untouched on failure.
 * @return MQ_OK; MQ_ERR_INVALID_ARGUMENT for a NULL or an unknown flag; MQ_ERR_NOT_FOUND when
 *         nothing matches; MQ_ERR_CONFIG for a wildcard of over 4096 bytes; MQ_ERR_STATE before
 *         mq_quantize(); MQ_ERR_BUSY.
 *
 * The input quantizer of an embedding (it reads indices) matches, but stays disabled.
 */
MQ_API
mq_status mq_enable_quantizer(struct mq_model *model,
                              const char *wildcard,
                              uint32_t flags,
                              size_t *matched);

/**
 * Disables the quantizers whose dotted name matches a wildcard, and stops their rotation.
 *
 * @param[in]  model     Model that went through mq_quantize().
 * @param[in]  wildcard  As in mq_enable_quantizer().
 * @param[in]  flags     0 or MQ_ALLOW_NO_MATCH.
 * @param[out] matched   As in mq_enable_quantizer().
 * @return as mq_enable_quantizer().
 */
MQ_API
mq_status mq_disable_quantizer(struct mq_model *model,
                               const char *wildcard,
                               uint32_t flags,
                               size_t *matched);

/**
 * Enables the quantizers that a filter selects.
 *
 * @param[in]  model    Model that went through mq_quantize().
 * @param[in]  filter   Called once for each quantizer.
 * @param[in]  flags    0 or MQ_ALLOW_NO_MATCH.
 * @param[out] matched  As in mq_enable_quantizer().
 * @return as mq_enable_quantizer(); MQ_ERR_CALLBACK, and nothing changes.
 */
MQ_API
mq_status mq_enable_quantizer_if(struct mq_model *model,
                                 const struct mq_filter_fn *filter,
                                 uint32_t flags,
                                 size_t *matched);

/**
 * Disables the quantizers that a filter selects; as mq_enable_quantizer_if().
 *
 * @param[in]  model    Model that went through mq_quantize().
 * @param[in]  filter   Called once for each quantizer.
 * @param[in]  flags    0 or MQ_ALLOW_NO_MATCH.
 * @param[out] matched  As in mq_enable_quantizer().
 * @return as mq_enable_quantizer_if().
 */
MQ_API
mq_status mq_disable_quantizer_if(struct mq_model *model,
                                  const struct mq_filter_fn *filter,
                                  uint32_t flags,
                                  size_t *matched);

/**
 * Changes attributes of the quantizers whose dotted name matches a wildcard.
 *
 * @param[in]  model       Model that went through mq_quantize().
 * @param[in]  wildcard    As in mq_enable_quantizer().
 * @param[in]  attributes  JSON: an attribute object ({"num_bits": 4}), or a list of them. Without
 *                         MQ_REPLACE_ATTRIBUTES only the given keys change, an object goes to every
 *                         member of a sequential quantizer, and a list needs a sequential one of
 *                         that length. With it, an object makes a plain quantizer and a list a
 *                         sequential one.
 * @param[in]  flags       0, or MQ_ALLOW_NO_MATCH | MQ_REPLACE_ATTRIBUTES.
 * @param[out] matched     As in mq_enable_quantizer().
 * @return as mq_enable_quantizer(); MQ_ERR_CONFIG; MQ_ERR_UNSUPPORTED. On failure nothing changes.
 *
 * The amax stays where the granularity (axis, block_sizes) does; else the quantizer has none until it
 * is calibrated or set again.
 */
MQ_API
mq_status mq_set_quantizer_attributes(struct mq_model *model,
                                      const char *wildcard,
                                      const char *attributes,
                                      uint32_t flags,
                                      size_t *matched);

/**
 * Changes attributes of the quantizers that a filter selects; as mq_set_quantizer_attributes().
 *
 * @param[in]  model       Model that went through mq_quantize().
 * @param[in]  filter      Called once for each quantizer.
 * @param[in]  attributes  As in mq_set_quantizer_attributes().
 * @param[in]  flags       As in mq_set_quantizer_attributes().
 * @param[out] matched     As in mq_enable_quantizer().
 * @return as mq_set_quantizer_attributes(); MQ_ERR_CALLBACK. On failure nothing changes.
 */
MQ_API
mq_status mq_set_quantizer_attributes_if(struct mq_model *model,
                                         const struct mq_filter_fn *filter,
                                         const char *attributes,
                                         uint32_t flags,
                                         size_t *matched);

/**
 * Lets the host change the amax of the quantizers whose dotted name matches a wildcard.
 *
 * @param[in]  model     Model that went through mq_quantize().
 * @param[in]  wildcard  As in mq_enable_quantizer(). Quantizers without an amax are passed over.
 * @param[in]  process   Changes the values in place.
 * @param[in]  flags     0 or MQ_ALLOW_NO_MATCH.
 * @param[out] matched   Number of quantizers that matched and have an amax, members of sequential ones
 *                       one by one. May be NULL. Untouched on failure.
 * @return as mq_enable_quantizer(), MQ_ERR_NOT_FOUND also when none that matches has an amax;
 *         MQ_ERR_NUMERIC when a value ends negative, NaN or Inf;
 *         MQ_ERR_CALLBACK. On failure nothing changes.
 */
MQ_API
mq_status mq_postprocess_amax(struct mq_model *model,
                              const char *wildcard,
                              const struct mq_amax_fn *process,
                              uint32_t flags,
                              size_t *matched);

/**
 * Forgets the amax and the collected statistics of the quantizers whose name matches a wildcard.
 *
 * @param[in]  model     Model that went through mq_quantize().
 * @param[in]  wildcard  As in mq_enable_quantizer().
 * @param[in]  flags     0 or MQ_ALLOW_NO_MATCH.
 * @param[out] matched   As in mq_enable_quantizer().
 * @return as mq_enable_quantizer().
 */
MQ_API
mq_status mq_reset_amax(struct mq_model *model,
                        const char *wildcard,
                        uint32_t flags,
                        size_t *matched);

/**
 * Describes every quantizer, as text or JSON. Prints nothing: the text is the caller's.
 *
 * @param[in]  model     Any model.
 * @param[in]  format    MQ_SUMMARY_TEXT or MQ_SUMMARY_JSON.
 * @param[out] buffer    Receives at most `capacity - 1` bytes and a NUL; NULL when `capacity` is 0.
 * @param[in]  capacity  Bytes of `buffer`.
 * @param[out] length    Length of the whole text without the NUL, also when it did not fit. May be
 *                       NULL when `buffer` is not.
 * @return MQ_OK; MQ_ERR_INVALID_ARGUMENT; MQ_ERR_BUSY.
 */
MQ_API
mq_status mq_print_quant_summary(const struct mq_model *model,
                                 int32_t format,
                                 char *buffer,
                                 size_t capacity,
                                 size_t *length);

/**
 * Fills `options` with the defaults, never writing past `struct_size` bytes.
 *
 * @param[out] options      Struct to fill.
 * @param[in]  struct_size  sizeof(mq_calibration_options) in the caller's header.
 * @return MQ_OK; MQ_ERR_INVALID_ARGUMENT when `options` is NULL or `struct_size` too small.
 */
MQ_API
mq_status mq_calibration_options_init(struct mq_calibration_options *options,
                                      uint32_t struct_size);

/**
 * Sets how the calibrations of a model work from now on.
 *
 * @param[in] model    Any model.
 * @param[in] options  How they work; NULL means the defaults.
 * @return MQ_OK; MQ_ERR_INVALID_ARGUMENT; MQ_ERR_BUSY.
 */
MQ_API
mq_status mq_model_set_calibration_options(struct mq_model *model,
                                           const struct mq_calibration_options *options);

/**
 * What mq_quantize() or mq_calibrate() would do, before anything runs: per pass of the forward which layers,
 * which statistics, and how many bytes.
 *
 * @param[in]  model     Any model with layers, for a configuration; one that went through mq_quantize(), for
 *                       an algorithm. It stays as it is.
 * @param[in]  config    What mq_quantize() takes (a preset or an object with "quant_cfg"), or what
 *                       mq_calibrate() takes (an algorithm, or a list of them).
 * @param[out] buffer    Receives at most `capacity - 1` bytes of JSON and a NUL; NULL when `capacity` is 0.
 * @param[in]  capacity  Bytes of `buffer`.
 * @param[out] length    Length of the whole text without the NUL, also when it did not fit. May be NULL when
 *                       `buffer` is not.
 * @return MQ_OK; MQ_ERR_INVALID_ARGUMENT; MQ_ERR_CONFIG and MQ_ERR_UNSUPPORTED as the verbs;
 *         MQ_ERR_OUT_OF_MEMORY when the context's memory limit is too low for one layer alone (the text says
 *         what it needs); MQ_ERR_STATE for an algorithm before mq_quantize(); MQ_ERR_BUSY.
 *
 * The object: "forwards" (how often the forward runs), "peak_bytes" (the most memory of all passes),
 * "memory_limit_bytes", "passes" (a list of {"algorithm", "peak_bytes", "statistics_bytes", "workspace_bytes",
 * "observed": [{"layers" or "quantizers", "channels", "statistics", "bytes"}]}), and "without_data" (weights
 * that need no pass, by algorithm). Bytes are an upper bound. Quantizers whose amax has a shape of its own count once that shape is
 * known; histograms whose range grows take more.
 */
MQ_API
mq_status mq_plan(struct mq_model *model,
                  const char *config,
                  char *buffer,
                  size_t capacity,
                  size_t *length);

/**
 * Checks whether what a calibration left can be deployed: every scale finite, positive and in range, one
 * scale for what is computed as one, every quantizer reached by data, every name resolved. Measures the
 * error of the quantizers. Changes nothing.
 *
 * @param[in]  model     Model that went through mq_quantize().
 * @param[out] result    The numbers; `struct_size` set by the caller. NULL: not wanted. Untouched on failure.
 * @param[out] buffer    Receives at most `capacity - 1` bytes of JSON and a NUL; NULL when `capacity` is 0.
 * @param[in]  capacity  Bytes of `buffer`.
 * @param[out] length    Length of the whole text without the NUL, also when it did not fit. May be NULL when
 *                       `result` or `buffer` is not.
 * @return MQ_OK when it could be checked, whatever was found; MQ_ERR_INVALID_ARGUMENT; MQ_ERR_NUMERIC for
 *         NaN or Inf in a weight; MQ_ERR_STATE before mq_quantize(); MQ_ERR_OUT_OF_MEMORY (it takes a copy
 *         of the largest weight); MQ_ERR_BUSY.
 *
 * The object: the numbers, "problems" (a list of {"severity", "kind", "name", "text"}), and "quantizers" (a list of
 * {"name", "enabled", "algorithm", "tokens", "filled_from", "error": {"of", "before", "after"}}). An error is
 * `|quantized - original|^2 / |original|^2` of the tensor itself ("tensor") or of the layer's output over the calibration tokens
 * ("output"), before (with the largest magnitudes and no factors) and after the calibration.
 */
MQ_API
mq_status mq_check(const struct mq_model *model,
                   struct mq_check_report *result,
                   char *buffer,
                   size_t capacity,
                   size_t *length);

/**
 * Moves what SmoothQuant and AWQ multiply activations with into what produces them, so that it costs nothing
 * at run time: the gain (and bias) of the norm, or the rows (and bias) of the linear layer, that the
 * mq_layer_desc of the readers names. All registered readers of an activation get the same factors, the mean
 * of theirs; a weight whose factors change is scaled and calibrated accordingly. Where the factors differed
 * much, the mean serves each layer less well than its own: measure the model again after it.
 * Call it before mq_fold_weight() and mq_compress().
 *
 * @param[in]  model   Model that went through mq_quantize(). mq writes to norms and weights of the host's: no
 *                     tap may run meanwhile.
 * @param[in]  flags   Must be 0.
 * @param[out] folded  Number of layers whose input is no longer multiplied. May be NULL. Untouched on failure.
 * @return MQ_OK, also when nothing was to be folded; MQ_ERR_INVALID_ARGUMENT; MQ_ERR_NOT_FOUND for a producer
 *         that is no layer; MQ_ERR_STATE before mq_quantize(), for layers of different sizes, and for weights
 *         that are folded, compressed or shared so that they cannot change any more; MQ_ERR_NUMERIC when a value would leave
 *         the range of its type; MQ_ERR_BUSY. On failure nothing is changed.
 *
 * The weights' own factors (the inverse) stay with their quantizers: mq_layer_weight() applies them, and
 * mq_fold_weight() or mq_compress() write them down.
 */
MQ_API
mq_status mq_fold_pre_quant_scale(struct mq_model *model,
                                  uint32_t flags,
                                  size_t *folded);

/**
 * Stops the verb that is running on a model, soon: between two layers, between parts of a large layer, and
 * at the next tap, which answers MQ_ERR_CANCELLED. The verb answers MQ_ERR_CANCELLED, with the model as it
 * was.
 *
 * @param[in] model  Any model; not while or after it is destroyed.
 * @return MQ_OK, also when no verb is running (the next one is not affected); MQ_ERR_INVALID_ARGUMENT.
 *
 * Threads: may be called from any thread, also from a callback of the verb.
 */
MQ_API
mq_status mq_cancel(const struct mq_model *model);

/**
 * Fills `options` with the defaults, never writing past `struct_size` bytes.
 *
 * @param[out] options      Struct to fill.
 * @param[in]  struct_size  sizeof(mq_auto_quantize_options) in the caller's header.
 * @return MQ_OK; MQ_ERR_INVALID_ARGUMENT when `options` is NULL or `struct_size` too small.
 */
MQ_API
mq_status mq_auto_quantize_options_init(struct mq_auto_quantize_options *options,
                                        uint32_t struct_size);

/**
 * Searches the format of every layer: calibrates each format, scores how sensitive the loss is to it, and leaves the
 * model calibrated with the formats of the least total score that the constraints allow (the optimum, proven).
 *
 * Searched are linear layers, convolutions, and others with a weight and a `forward` in their mq_layer_desc; all other
 * quantizers are off afterwards. The forward runs once over the calibration steps for all formats (more often under a
 * memory limit, or for algorithms that need it), and forward and backward once over the scoring steps.
 *
 * @param[in] model    Model that is not quantized yet.
 * @param[in] options  What to do; NULL means the defaults.
 * @param[in] host     Data, forward and backward. NULL, or without functions, only when the checkpoint is complete.
 * @param[in] cost     What layers cost; NULL: elements of their weights times bits, over 16.
 * @return MQ_OK; MQ_ERR_INVALID_ARGUMENT for a NULL, a callback that is missing, a gradient or input of a wrong shape;
 *         MQ_ERR_CONFIG for constraints, formats, rules or patterns that are not valid, and for a budget below
 *         what the most compressed formats reach (the text says how much that is); MQ_ERR_UNSUPPORTED as
 *         mq_quantize(); MQ_ERR_STATE for a model that is quantized, data that ends early, a backward pass without
 *         mq_layer_grad(), and a checkpoint of another search; MQ_ERR_NUMERIC for a loss, gradient, activation,
 *         weight or cost that is NaN or Inf; MQ_ERR_OUT_OF_MEMORY, saying what one layer needs; MQ_ERR_CALLBACK;
 *         MQ_ERR_CANCELLED; MQ_ERR_BUSY. On failure the model is exactly as before the call.
 *
 * The score of a format of a group is the sum of `(dL/dy * change of y)^2` over the elements of the outputs of its
 * layers and over the steps, as the reference's; it is never above that of a format with fewer bits. The same bytes
 * for every number of threads.
 */
MQ_API
mq_status mq_auto_quantize(struct mq_model *model,
                           const struct mq_auto_quantize_options *options,
                           const struct mq_auto_quantize_fn *host,
                           const struct mq_layer_cost_fn *cost);

/**
 * Solves the search of a model anew for other constraints, without data, and puts the choice into effect.
 *
 * @param[in]  model        Model that went through mq_auto_quantize(), whose weights are not folded or compressed.
 * @param[in]  constraints  As in mq_auto_quantize_options; with MQ_SOLVE_DRY_RUN also a list of them. After a search
 *                          with a cost callback only the budget may change.
 * @param[in]  flags        0 or MQ_SOLVE_DRY_RUN.
 * @param[out] buffer       Receives at most `capacity - 1` bytes of JSON and a NUL; NULL when `capacity` is 0.
 * @param[in]  capacity     Bytes of `buffer`.
 * @param[out] length       Length of the whole text without the NUL, also when it did not fit. May be NULL.
 * @return MQ_OK; MQ_ERR_INVALID_ARGUMENT; MQ_ERR_CONFIG as mq_auto_quantize(); MQ_ERR_STATE without a search, and for
 *         weights that are folded or compressed; MQ_ERR_BUSY. On failure the model is exactly as before the call.
 *
 * The object: "best" of mq_auto_quantize_state(); a list of those for a list.
 */
MQ_API
mq_status mq_auto_quantize_solve(struct mq_model *model,
                                 const char *constraints,
                                 uint32_t flags,
                                 char *buffer,
                                 size_t capacity,
                                 size_t *length);

/**
 * What mq_auto_quantize() found, as JSON.
 *
 * @param[in]  model     Model that went through mq_auto_quantize().
 * @param[out] buffer    Receives at most `capacity - 1` bytes of JSON and a NUL; NULL when `capacity` is 0.
 * @param[in]  capacity  Bytes of `buffer`.
 * @param[out] length    Length of the whole text without the NUL, also when it did not fit. May be NULL when
 *                       `buffer` is not.
 * @return MQ_OK; MQ_ERR_INVALID_ARGUMENT; MQ_ERR_STATE without a search; MQ_ERR_BUSY.
 *
 * The object has the reference's keys: "method", "cost_model", "cost", "cost_denominator", "disabled_layers",
 * "candidate_stats" (by the name of the first layer of the group and ".quant_recipe": {"formats", "scores", "costs", "module_names",
 * "cost_weight", "uncompressed_cost", ...}, in ascending bits), "quantizer_states" (in short), "best" ({"recipe",
 * "constraints": {"effective_bits", "cost"}, "score", "is_satisfied"}); and "constraints", "grouping_rules",
 * "num_calib_steps", "num_score_steps", and "curve": the optimum over all budgets, a list of {"cost",
 * "effective_bits", "score"}. `python -m mq.report` makes a page of it.
 */
MQ_API
mq_status mq_auto_quantize_state(struct mq_model *model,
                                 char *buffer,
                                 size_t capacity,
                                 size_t *length);

/**
 * The configuration that gives mq_quantize() the choice of a search.
 *
 * @param[in]  model        Model that went through mq_auto_quantize().
 * @param[in]  constraints  As in mq_auto_quantize_solve(); NULL: the choice that is in effect.
 * @param[out] buffer       As in mq_auto_quantize_state().
 * @param[in]  capacity     As in mq_auto_quantize_state().
 * @param[out] length       As in mq_auto_quantize_state().
 * @return as mq_auto_quantize_solve() with MQ_SOLVE_DRY_RUN.
 *
 * An object with "quant_cfg" (a list that names every quantizer) and "algorithm": the algorithm of the formats, or,
 * where they have several, a list of them each with the "layers" it is for. Its forward is mq_quantize()'s: all
 * algorithms see all of the data.
 */
MQ_API
mq_status mq_auto_quantize_config(struct mq_model *model,
                                  const char *constraints,
                                  char *buffer,
                                  size_t capacity,
                                  size_t *length);

/**
 * Packs weights for real: low-bit codes and scales take the place of the host's weights.
 *
 * @param[in]  model    Model that went through mq_quantize().
 * @param[in]  config   JSON object from wildcard (over names of weight quantizers) to true or false:
 *                      {"default": true, "*lm_head*": false}. Later ones win, "default" comes first;
 *                      what nothing is said about is packed when its attribute fake_quant is false.
 *                      NULL: every weight.
 * @param[in]  buffers  Gives the memory of the parts, see mq_buffer_fn; NULL: mq allocates it, and
 *                      frees it with the model. Parts lie where the weight does: in host memory, or in memory of
 *                      its device, from `device_memory` of the context.
 * @param[in]  flags    0 or MQ_ALLOW_NO_MATCH.
 * @param[out] matched  Number of weights packed. May be NULL. Untouched on failure.
 * @return MQ_OK; MQ_ERR_INVALID_ARGUMENT for a NULL, an unknown flag or misaligned memory;
 *         MQ_ERR_CONFIG; MQ_ERR_NOT_FOUND when no enabled weight quantizer is selected; MQ_ERR_STATE
 *         before mq_quantize(), for a selected weight that is compressed already, or for a quantizer
 *         without the amax its format needs; MQ_ERR_UNSUPPORTED naming the quantizer and its format;
 *         MQ_ERR_NUMERIC for NaN or Inf in a weight; MQ_ERR_CALLBACK; MQ_ERR_OUT_OF_MEMORY;
 *         MQ_ERR_BUSY. On failure the model is exactly as before the call: everything is packed
 *         before the first layer is switched over.
 *
 * Weights are packed with the calibrated amax; only blocks of dynamic formats (MX, NVFP4) find
 * theirs. Afterwards mq never touches the packed layers' weight memory again: the host may free it, once
 * no mq_layer_weight() that began before is running any more.
 * mq_layer_weight() unpacks, to the shape and dtype of the weight, and gives what it gave before, bit
 * for bit; but negative values that round to zero in int8, int4 and w4a8 come back as +0.
 *
 * A packed weight stays packed, and its quantizer as it is: every verb that would change it, such as
 * mq_disable_quantizer(), answers MQ_ERR_STATE; mq_calibrate() and mq_fold_weight() pass over it.
 *
 * Formats (blocks lie along the last axis unless stated, one scale for the tensor has shape []):
 * - int4, from num_bits 4 in static blocks: "weight" uint8 `[..., in / 2]`, the even element in the
 *   high nibble, code + 8; "scale" float32 `[blocks, 1]`, what codes are divided by (7 / amax).
 * - int8: "weight" int8; "scale" float32, one for each amax, amax / 127. The values of
 *   mq_layer_weight() are code / (127 / amax): code * scale differs by a few units of the last place
 *   of float32 (2^-22 relative).
 * - fp8: "weight" float8_e4m3fn; "scale" float32, amax / 448. Blocks in any axes. code * scale
 *   differs as for int8.
 * - nvfp4: "weight" uint8 `[..., in / 2]` of E2M1 codes, the even element in the low nibble; "scale"
 *   float8_e4m3fn `[..., in / block]`; "double_scale" float32 [], amax / 2688. The value of a code is
 *   code * (scale * double_scale); exact in dynamic blocks, within 2^-21 relative in static ones.
 * - mxfp4: "weight" as for nvfp4; "scale" uint8 `[blocks, 1]`, exponents plus 127.
 * - mxfp8: "weight" float8_e4m3fn; "scale" uint8 `[..., in / block]`, exponents plus 127.
 * - nf4, from num_bits 4 with scale_bits 8 and scale_block_sizes: "weight" uint8 `[elements / 2]`, the
 *   even element in the high nibble; "scale" int8 `[groups, group]`; "double_scale" float32
 *   `[groups]`; "scale_zeros" float32 []. A block's scale is scale / double_scale + scale_zeros.
 * - w4a8, from INT4 followed by FP8 with one amax: the parts of int4, and "double_scale" float32 [],
 *   the FP8's amax / 448. mq_layer_weight() unpacks INT4 and fake-quantizes that to FP8.
 *
 * Weights in device memory are packed and unpacked there, to the same bits. Beside the parts of int8 and fp8 mq keeps a
 * float32 for each block, so that mq_layer_weight() only puts kernels on the CUDA stream, and can be captured. A graph
 * that holds an mq_layer_weight() from before must not be launched any more. The call waits for the stream; while that
 * is being captured it is MQ_ERR_STATE.
 *
 * 4-bit formats need an even last axis; a short last block of a row has a scale of its own. A weight
 * without elements is left as it is.
 */
MQ_API
mq_status mq_compress(struct mq_model *model,
                      const char *config,
                      const struct mq_buffer_fn *buffers,
                      uint32_t flags,
                      size_t *matched);

/**
 * One part of a packed weight, as mq_compress() lists them.
 *
 * @param[in]  layer   A layer whose weight is packed.
 * @param[in]  part    "weight", "scale", "double_scale" or "scale_zeros".
 * @param[out] tensor  The part: row-major memory, to read, on the device of the weight; in device memory in the order
 *                     of the context's CUDA stream. Data and shape are borrowed from the
 *                     model until mq_model_destroy(). The dtype is one of MQ_DTYPE_FLOAT (32 bits),
 *                     MQ_DTYPE_INT, MQ_DTYPE_UINT and MQ_DTYPE_FLOAT8_E4M3FN. Untouched on failure.
 * @return MQ_OK; MQ_ERR_INVALID_ARGUMENT for a NULL; MQ_ERR_STATE for a layer whose weight is not
 *         packed; MQ_ERR_NOT_FOUND for a part that its format does not have, naming those it has.
 *
 * Threads: as the taps of mq_layer.
 */
MQ_API
mq_status mq_layer_packed(const struct mq_layer *layer,
                          const char *part,
                          struct mq_tensor *tensor);

/**
 * Puts what models of a context do on the GPU from now on on another stream. Nothing is waited for: the order between
 * the two streams is the host's to see to (cuStreamWaitEvent()).
 *
 * @param[in] context  The context, created with a CUDA device.
 * @param[in] stream   A CUstream (cudaStream_t) of the same CUDA context, borrowed until it is replaced or the context
 *                     and all its models are gone; NULL: the default stream.
 * @return MQ_OK; MQ_ERR_INVALID_ARGUMENT when the context has no CUDA device or the stream is of another CUDA context;
 *         MQ_ERR_CUDA; MQ_ERR_UNSUPPORTED when the library was built without CUDA.
 *
 * Threads: taps that run meanwhile use either stream.
 */
MQ_API
mq_status mq_context_set_cuda_stream(struct mq_context *context,
                                     void *stream);

/**
 * Waits until what a model has put on its CUDA stream is done, and reports what was found wrong meanwhile: taps in
 * device memory cannot wait for NaN or Inf to be noticed, nor for the driver's late errors. Verbs report it too, at
 * their end. Does nothing for a model on host memory.
 *
 * @param[in] model  The model.
 * @return MQ_OK; MQ_ERR_NUMERIC when a dynamic quantizer met NaN, Inf, or (unsigned) a negative value since this was
 *         last asked, the text names it; MQ_ERR_STATE while the stream is being captured; MQ_ERR_CUDA; MQ_ERR_BUSY.
 */
MQ_API
mq_status mq_model_synchronize(struct mq_model *model);

/**
 * The dotted name of a quantizer, such as "model.layers.0.self_attn.q_proj.weight_quantizer".
 *
 * @param[in]  quantizer  The quantizer.
 * @param[out] buffer     Receives at most `capacity - 1` bytes and a NUL; NULL when `capacity` is 0.
 * @param[in]  capacity   Bytes of `buffer`.
 * @param[out] length     Length of the whole name without the NUL, also when it did not fit. May be
 *                        NULL when `buffer` is not.
 * @return MQ_OK; MQ_ERR_INVALID_ARGUMENT for a NULL; MQ_ERR_BUSY.
 */
MQ_API
mq_status mq_quantizer_name(const struct mq_quantizer *quantizer,
                            char *buffer,
                            size_t capacity,
                            size_t *length);

/**
 * Whether a quantizer is enabled; a sequential quantizer is when one of its members is.
 *
 * @param[in]  quantizer  The quantizer.
 * @param[out] enabled    1 or 0. Untouched on failure.
 * @return MQ_OK; MQ_ERR_INVALID_ARGUMENT for a NULL; MQ_ERR_STATE for a member that is gone;
 *         MQ_ERR_BUSY.
 */
MQ_API mq_status mq_quantizer_is_enabled(const struct mq_quantizer *quantizer, int32_t *enabled);

/**
 * The attributes of a quantizer as JSON: an object with every key of the configuration's attribute
 * set, or an array of them for a sequential quantizer.
 *
 * @param[in]  quantizer  The quantizer.
 * @param[out] buffer, capacity, length  as in mq_quantizer_name().
 * @return MQ_OK; MQ_ERR_INVALID_ARGUMENT for a NULL; MQ_ERR_STATE for a member that is gone;
 *         MQ_ERR_BUSY.
 */
MQ_API
mq_status mq_quantizer_attributes(const struct mq_quantizer *quantizer,
                                  char *buffer,
                                  size_t capacity,
                                  size_t *length);

/**
 * The amax of a quantizer: what calibration found, or what was set.
 *
 * @param[in]  quantizer  The quantizer; for a sequential one ask its members.
 * @param[out] values     Receives at most `capacity` values, row-major, in the tensor's units; NULL
 *                        when `capacity` is 0.
 * @param[in]  capacity   Number of values that fit.
 * @param[out] count      Number of values; 0 when there is no amax (never calibrated, or dynamic).
 * @param[out] shape      Receives the extents; room for `MQ_MAX_RANK`. May be NULL.
 * @param[out] rank       Number of extents; 0 for a per-tensor amax. May be NULL.
 * @return MQ_OK, also when not everything fitted; MQ_ERR_INVALID_ARGUMENT for a NULL; MQ_ERR_STATE
 *         for a sequential quantizer or a member that is gone; MQ_ERR_BUSY.
 *
 * Shapes are the reference's: `[]` per tensor, `[n, 1]` for axis 0 of a matrix, `[blocks, 1]` for
 * blocks along the last axis, `[rows/b, 1, columns/b, 1]` for blocks in two axes.
 */
MQ_API
mq_status mq_quantizer_amax(const struct mq_quantizer *quantizer,
                            float *values,
                            size_t capacity,
                            size_t *count,
                            int64_t *shape,
                            uint32_t *rank);

/**
 * Sets the amax of a quantizer, as a calibration would.
 *
 * @param[in]  quantizer  The quantizer; for a sequential one set its members.
 * @param[in]  amax       Values in the tensor's units, of the shape mq_quantizer_amax() documents;
 *                        finite and not negative.
 * @return MQ_OK; MQ_ERR_INVALID_ARGUMENT for a NULL or a shape that does not fit the weight or the
 *         amax that is there; MQ_ERR_NUMERIC for NaN, Inf or negative values; MQ_ERR_STATE for a
 *         dynamic or sequential quantizer, a member that is gone, or before mq_quantize(); MQ_ERR_BUSY.
 */
MQ_API
mq_status mq_quantizer_set_amax(struct mq_quantizer *quantizer,
                                const struct mq_tensor *amax);

/**
 * The pre_quant_scale of a quantizer: the factors its input is multiplied with, one per channel.
 *
 * @param[in]  quantizer  The quantizer; a sequential one scales before its first member.
 * @param[out] values     Receives at most `capacity` values; NULL when `capacity` is 0.
 * @param[in]  capacity   Number of values that fit.
 * @param[out] count      Number of values; 0 when there is none.
 * @return MQ_OK, also when not everything fitted; MQ_ERR_INVALID_ARGUMENT for a NULL; MQ_ERR_STATE for
 *         a member that is gone; MQ_ERR_BUSY.
 */
MQ_API
mq_status mq_quantizer_pre_quant_scale(const struct mq_quantizer *quantizer,
                                       float *values,
                                       size_t capacity,
                                       size_t *count);

/**
 * Sets or removes the pre_quant_scale of a quantizer. The caller divides the weight accordingly.
 *
 * @param[in]  quantizer  The quantizer, or the first member of a sequential one (the whole stands for
 *                        it).
 * @param[in]  scale      `[channels]`, the extent of the last axis of what the quantizer sees;
 *                        finite and positive. NULL removes it.
 * @return MQ_OK; MQ_ERR_INVALID_ARGUMENT for a NULL or a shape that does not fit; MQ_ERR_NUMERIC for
 *         values that are not finite and positive; MQ_ERR_STATE for a later member, a member that is
 *         gone, or before mq_quantize(); MQ_ERR_BUSY.
 */
MQ_API
mq_status mq_quantizer_set_pre_quant_scale(struct mq_quantizer *quantizer,
                                           const struct mq_tensor *scale);

/**
 * Fake-quantizes one tensor: quantizes and dequantizes in one pass.
 *
 * @param[in]  context     Context to run on.
 * @param[in]  x           Tensor to quantize.
 * @param[in]  attributes  JSON: a quantizer attribute object ({"num_bits": 8, "axis": 0}), or a list
 *                         of them, applied in order.
 * @param[in]  amax        float32, float16 or bfloat16 values, in the units of `x`, as many as the
 *                         granularity has (1 per tensor, one per index of the axis, one per block,
 *                         row-major). NULL: taken from `x`. Must be NULL for a list.
 * @param[out] out         Result, of the shape and dtype of `x`; may share its memory exactly (in
 *                         place), not partly.
 * @return MQ_OK; MQ_ERR_INVALID_ARGUMENT, also when an axis does not fit `x` or `amax` has not as many
 *         values as the granularity asks for; MQ_ERR_CONFIG; MQ_ERR_UNSUPPORTED; MQ_ERR_NUMERIC for a negative, NaN or
 *         infinite amax, for NaN or Inf in `x` when `amax` is NULL, or negative values under
 *         `unsigned`. On failure `out` is unspecified.
 *
 * Arithmetic is float32, rounding to nearest even, the result rounded once to the dtype of `x`. Integers
 * and FP8 under a given amax keep NaN and saturate an infinity (which becomes NaN under an integer
 * format's amax of zero); MX and NVFP4 turn NaN into the largest element. MX takes no amax and ignores
 * one; docs/formats.md has every format.
 */
MQ_API
mq_status mq_fake_quant(const struct mq_context *context,
                        const struct mq_tensor *x,
                        const char *attributes,
                        const struct mq_tensor *amax,
                        const struct mq_tensor *out);

/**
 * Number of presets, those of both versions of the reference.
 */
MQ_API size_t mq_preset_count(void);

/**
 * Name of a preset.
 *
 * @param[in]  index     0 to mq_preset_count() - 1.
 * @param[out] buffer, capacity, length  as in mq_quantizer_name().
 * @return MQ_OK; MQ_ERR_INVALID_ARGUMENT for an index out of range.
 */
MQ_API mq_status mq_preset_name(size_t index, char *buffer, size_t capacity, size_t *length);

/**
 * The configuration of a preset as JSON, to be changed and given to mq_quantize().
 *
 * @param[in]  name  Name of the preset, such as "INT8_DEFAULT_CFG".
 * @param[out] buffer, capacity, length  as in mq_quantizer_name().
 * @return MQ_OK; MQ_ERR_CONFIG for an unknown name; MQ_ERR_INVALID_ARGUMENT for a NULL.
 */
MQ_API mq_status mq_preset_json(const char *name, char *buffer, size_t capacity, size_t *length);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* MQ_H */
