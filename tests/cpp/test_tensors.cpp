// Tensors and fake_quant(): every way to describe one.
#include <vector>

#include "check.hpp"

namespace {

const char *const int8 = R"({"num_bits": 8})";

void shapes_are_owned() {
    float data[6] = {};
    const size_t rows = 2, columns = 3;
    mq::TensorRef first = mq::tensor(data, {rows, columns}); // no narrowing complaint
    mq::TensorRef second = first;
    mq::TensorRef third = mq::tensor(data, 6);
    third = first;
    first = mq::tensor(data, std::vector<int64_t>{6});
    for (const mq::TensorRef &copy : {second, third}) {
        const mq_tensor *raw = copy;
        CHECK(raw == copy.get() && raw->ndim == 2 && raw->shape[0] == 2 && raw->shape[1] == 3);
        CHECK(raw->shape != first.get()->shape && raw->data == data && raw->strides == nullptr);
    }
    CHECK(second.get()->shape != third.get()->shape); // each its own
    CHECK(first.get()->ndim == 1 && first.get()->shape[0] == 6);
    CHECK(mq::tensor(data, {}).get()->ndim == 0);
    CHECK(mq::tensor(data, 6).get()->ndim == 1);
    CHECK_THROWS(mq::tensor(data, std::vector<int64_t>(9, 1)), MQ_ERR_INVALID_ARGUMENT);
}

void dtypes_are_dlpacks() {
    uint16_t half[2] = {};
    float single[2] = {};
    const mq_dtype f32 = mq::tensor(single, 2).get()->dtype,
                   f16 = mq::tensor(half, 2, mq::DType::f16).get()->dtype;
    const mq_dtype bf16 = mq::tensor(half, 2, mq::DType::bf16).get()->dtype;
    CHECK(f32.code == MQ_DTYPE_FLOAT && f32.bits == 32 && f32.lanes == 1);
    CHECK(f16.code == MQ_DTYPE_FLOAT && f16.bits == 16 && f16.lanes == 1);
    CHECK(bf16.code == MQ_DTYPE_BFLOAT && bf16.bits == 16 && bf16.lanes == 1);
    CHECK_THROWS(mq::tensor(half, 2, mq::DType::f32), MQ_ERR_INVALID_ARGUMENT);
}

void fake_quant_reads_const_and_writes_out() {
    const mq::Context context;
    const std::vector<float> x = {-3.0f, 1.5f, 0.004f};
    std::vector<float> out(3);
    const float two = 2.0f;
    context.fake_quant(mq::tensor(x.data(), x.size()), int8, mq::tensor(&two, {}),
                       mq::tensor(out.data(), out.size()));
    CHECK(out[0] == -2.01574802f && out[1] == 1.49606299f && out[2] == 0.0f);
    context.fake_quant(mq::tensor(x.data(), 3), int8, mq::tensor(out.data(), 3)); // its own amax: 3
    CHECK(out[0] == -3.0f);

    uint16_t half[2] = {0x3c00, 0x4000}; // 1, 2; in place
    context.fake_quant(mq::tensor(half, 2, mq::DType::f16), int8,
                       mq::tensor(half, 2, mq::DType::f16));
    CHECK(half[0] == 0x3c08 && half[1] == 0x4000);
    CHECK_THROWS(context.fake_quant(mq::tensor(x.data(), 3), int8, mq::tensor(out.data(), 2)),
                 MQ_ERR_INVALID_ARGUMENT);
    CHECK_THROWS(context.fake_quant(mq::tensor(x.data(), 3), R"({"num_bitz": 8})",
                                    mq::tensor(out.data(), 3)),
                 MQ_ERR_CONFIG);
}

void described_elsewhere() {
    const mq::Context context;
    float data[3] = {1.0f, 2.0f, -1.0f};
    int64_t shape[] = {3}, strides[] = {1};
    const mq_tensor dlpack = {data, {MQ_DEVICE_CPU, 0}, 1, {MQ_DTYPE_FLOAT, 32, 1}, shape, strides,
                              0};
    context.fake_quant(dlpack, int8, dlpack);
    CHECK(data[1] == 2.0f && data[0] == 1.00787401f);
    const mq::TensorRef copy = mq::TensorRef(dlpack);
    CHECK(copy.get()->shape == shape); // borrowed, for it never was ours
    mq_tensor elsewhere = dlpack;
    elsewhere.device.device_type = MQ_DEVICE_CUDA;
    CHECK_THROWS(context.fake_quant(elsewhere, int8, elsewhere), MQ_ERR_INVALID_ARGUMENT);
}

void empty_vectors_pass() {
    const mq::Context context;
    std::vector<float> empty;
    context.fake_quant(mq::tensor(empty.data(), {0, 4}), int8, mq::tensor(empty.data(), {0, 4}));
    CHECK(empty.empty());
}

} // namespace

void test_tensors() {
    shapes_are_owned();
    dtypes_are_dlpacks();
    fake_quant_reads_const_and_writes_out();
    described_elsewhere();
    empty_vectors_pass();
}
