// What a kernel may use gives what CUDA gives.
#include <cmath>
#include <cstring>
#include <numeric>

#include "check.h"

static void elementwise_and_sums() {
    Gpu gpu;
    const unsigned long long count = 5000;
    std::vector<float> values(count);
    std::iota(values.begin(), values.end(), 1.0f);
    Buffer<float> x(values), y(count);
    float factor = 0.5f;
    CHECK_IS(gpu.launch("scale", 40, 128, 0, {&x.address, &y.address, &count, &factor}), 0);
    std::vector<float> got = y.read();
    bool is_right = true;
    for (size_t i = 0; i < count; ++i) {
        is_right = is_right && got[i] == values[i] * 0.5f;
    }
    CHECK(is_right);

    std::vector<unsigned> numbers(64 * 256);
    std::iota(numbers.begin(), numbers.end(), 0u);
    Buffer<unsigned> n(numbers), sums(64);
    CHECK_IS(gpu.launch("sum_blocks", 64, 256, 0, {&n.address, &sums.address}), 0);
    std::vector<unsigned> found = sums.read();
    for (unsigned block = 0; block < 64; ++block) {
        CHECK_IS(found[block], 256u * 256u * block + 255u * 128u);
    }
}

static void shared_memory() {
    Gpu gpu;
    std::vector<int> values(3 * 100);
    std::iota(values.begin(), values.end(), 0);
    Buffer<int> x(values);
    CHECK_IS(gpu.launch("reverse_blocks", 3, 100, 400, {&x.address}), 0);
    std::vector<int> got = x.read();
    CHECK_IS(got[0], 99);
    CHECK_IS(got[299], 200);
    Buffer<unsigned> y(64);
    for (int time = 0; time < 2; ++time) {
        CHECK_IS(gpu.launch("uninitialized_shared", 1, 32, 128, {&y.address}), 0);
        for (unsigned value : y.read()) {
            CHECK_IS(value, 0xa5a5a5a5u);
        }
    }
}

static void warps() {
    Gpu gpu;
    Buffer<unsigned> out(32 * 11);
    CHECK_IS(gpu.launch("warp_primitives", 1, 32, 0, {&out.address}), 0);
    std::vector<unsigned> got = out.read();
    for (unsigned lane = 0; lane < 32; ++lane) {
        auto row = [&](unsigned i) { return got[32 * i + lane]; };
        CHECK_IS(row(0), 50);
        CHECK_IS(row(1), 10 * (lane / 8 * 8 + 1));
        CHECK_IS(row(2), 10 * (lane + 4 < 32 ? lane + 4 : lane));
        CHECK_IS(row(3), 10 * (lane % 16 >= 4 ? lane - 4 : lane));
        CHECK_IS(row(4), 10 * (lane ^ 9));
        CHECK_IS(row(5), 0x49249249u);
        CHECK_IS(row(6), 1);
        CHECK_IS(row(7), 1);
        CHECK_IS(row(8), 0xffffffffu);
        CHECK_IS(row(9), lane < 16 ? 10 * (lane ^ 1) + 10 * (lane ^ 2) : 10 * (lane ^ 4));
        CHECK_IS(row(10), 7);
    }
    Buffer<int> votes(5);
    CHECK_IS(gpu.launch("block_votes", 1, 100, 0, {&votes.address}), 0);
    CHECK(votes.read() == std::vector<int>({50, 1, 0, 1, 0}));
    Buffer<unsigned> early(std::vector<unsigned>(50, 0));
    unsigned count = 50;
    CHECK_IS(gpu.launch("early_return", 1, 64, 0, {&early.address, &count}), 0);
    CHECK_IS(early.read()[0], 50);
}

static void atomic_functions() {
    Gpu gpu;
    Buffer<int> ints(std::vector<int>{0, 0, 0});
    Buffer<unsigned> words(std::vector<unsigned>{0, 0, 9, 0, 0x1ffffu, 0, 0});
    Buffer<unsigned long long> longs(std::vector<unsigned long long>{0, 0, 9});
    Buffer<float> floats(std::vector<float>{0});
    // Enough for several OS threads.
    const unsigned n = 128 * 128;
    CHECK_IS(gpu.launch("atomics", 128, 128, 0,
                        {&ints.address, &words.address, &longs.address, &floats.address}),
             0);
    CHECK(ints.read() == std::vector<int>({int(n), int(n) - 101, -100}));
    CHECK(words.read() ==
          std::vector<unsigned>({n / 2 * (n - 1), n - 1, 0, 0xffffffffu, 0x10000u, 2 * n, 77}));
    CHECK(longs.read() ==
          std::vector<unsigned long long>(
              {(unsigned long long)(n / 2 * (n - 1)) << 32, (unsigned long long)(n - 1) << 32, 0}));
    CHECK_IS(floats.read()[0], n);
}

static void arithmetic() {
    Gpu gpu;
    Buffer<float> f(10);
    Buffer<unsigned> u(12);
    CHECK_IS(gpu.launch("numbers", 1, 1, 0, {&f.address, &u.address}), 0);
    CHECK(f.read() == std::vector<float>({2.0f, 3.0f, 0.0f, -0.0f, 1.0f / 3.0f, 17.0f, 4.1875f,
                                          7.0f, -1.0f, 15.25f}));
    CHECK(!std::signbit(f.read()[2]));
    CHECK(std::signbit(f.read()[3]));
    CHECK(u.read() == std::vector<unsigned>({3, 5, 63, 8, 4, 0x80000000u, 0x3f800000u, 0x3ff00000u,
                                             7, 123, 1 + 4 + 6 + 9 + 3 + 1 + 8, 33}));

    struct {
        unsigned long long a;
        unsigned char b;
    } pair = {100, 20};
    double d = 3.0;
    unsigned char c = 4;
    Buffer<unsigned> out(3);
    void *arguments[] = {&pair, &d, &c, &out.address};
    CHECK_IS(cuLaunchKernel(gpu.function("many_parameters"), 2, 1, 3, 1, 3, 2, 0, nullptr,
                            arguments, nullptr),
             0);
    CHECK(out.read() == std::vector<unsigned>({127, 2000 + 300 + 30 + 2, 5}));
}

void test_primitives() {
    elementwise_and_sums();
    shared_memory();
    warps();
    atomic_functions();
    arithmetic();
}
