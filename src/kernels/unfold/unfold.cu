// The patches of a convolution's input as rows, in float32. Exact.
#include "../cuda/mq.cuh"

// As `Patches` in Rust.
struct PatchParams {
  u64 channels;
  u64 input[3], kernel[3], stride[3], padding[3], dilation[3], output[3];
};

// Where the kernel's element k of an axis lies on the input, for a place of the output; false: on the padding.
template <class N>
__device__ __forceinline__ bool patch_source(const PatchParams& p, int axis, N at, N k, u64& place) {
  place = (u64)at * p.stride[axis] + (u64)k * p.dilation[axis];
  if (place < p.padding[axis]) return false;
  place -= p.padding[axis];
  return place < p.input[axis];
}

// Each thread has the elements of a row that differ in the last axis of the kernel alone. N counts these parts: a
// division of 32 bits takes a fraction of one of 64.
template <class N>
__device__ __forceinline__ void unfold_parts(const Elements& x, const PatchParams& p, u64 first, N count, float* out) {
  N lines = (N)(p.channels * p.kernel[0] * p.kernel[1]), across = (N)p.kernel[2];
  N mine = (N)blockIdx.x * kThreads + threadIdx.x, all = (N)gridDim.x * kThreads;
  for (N part = mine; part < count; part += all) {
    N row = part / lines, line = part % lines;
    N kh = line % (N)p.kernel[1], rest = line / (N)p.kernel[1];
    N kd = rest % (N)p.kernel[0], channel = rest / (N)p.kernel[0];
    N token = (N)first + row;
    N w = token % (N)p.output[2];
    token /= (N)p.output[2];
    N h = token % (N)p.output[1];
    token /= (N)p.output[1];
    N d = token % (N)p.output[0], image = token / (N)p.output[0];
    u64 at_d, at_h, at_w;
    bool is_there = patch_source<N>(p, 0, d, kd, at_d);
    is_there = patch_source<N>(p, 1, h, kh, at_h) && is_there;
    u64 plane = ((u64)image * p.channels + channel) * p.input[0];
    u64 begin = ((plane + at_d) * p.input[1] + at_h) * p.input[2];
    float* to = out + (u64)part * across;
    for (N kw = 0; kw < across; ++kw) {
      bool is_inside = patch_source<N>(p, 2, w, kw, at_w) && is_there;
      to[kw] = is_inside ? x[begin + at_w] : 0.0f;
    }
  }
}

// Rows `first` to `first + rows` of the patches of all channels of x: [rows, channels * kernel].
MQ_KERNEL(unfold)(Elements x, PatchParams patches, u64 first, u64 rows, float* out) {
  u64 count = rows * patches.channels * patches.kernel[0] * patches.kernel[1];
  u64 tokens = first + rows, all = (u64)gridDim.x * kThreads;
  // So that no count wraps round, the one behind the last included.
  if (count + all < 0x100000000u && tokens < 0x100000000u && patches.kernel[2] < 0x100000000u) {
    unfold_parts<u32>(x, patches, first, (u32)count, out);
  } else {
    unfold_parts<u64>(x, patches, first, count, out);
  }
}
MQ_REGISTER(unfold)
