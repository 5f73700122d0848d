// Packed weights: in memory of mq's and of the host's, and their parts.
#include <cstring>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "check.hpp"

namespace {

constexpr int64_t ROWS = 2, COLUMNS = 128;
constexpr const char *INT4 = "INT4_BLOCKWISE_WEIGHT_ONLY_CFG";

struct Packable {
    std::vector<float> weight = std::vector<float>(ROWS * COLUMNS);
    mq::Context context;
    mq::Model model{context};
    mq::Layer layer;

    Packable() {
        for (size_t i = 0; i < weight.size(); ++i)
            weight[i] = static_cast<float>(static_cast<int>(i * 37 % 101) - 50) / 16;
        layer = model.add_layer("fc", mq::tensor(weight.data(), {ROWS, COLUMNS}));
        model.quantize(INT4);
    }

    std::vector<float> unpacked() {
        std::vector<float> values(weight.size());
        layer.weight(mq::tensor(values.data(), {ROWS, COLUMNS}));
        return values;
    }
};

void parts_are_given() {
    Packable fc;
    const std::vector<float> before = fc.unpacked();
    CHECK_THROWS(fc.layer.packed("weight"), MQ_ERR_STATE);
    CHECK(fc.model.compress() == 1);
    const mq_tensor codes = fc.layer.packed("weight"), scale = fc.layer.packed("scale");
    CHECK(codes.ndim == 2 && codes.shape[0] == ROWS && codes.shape[1] == COLUMNS / 2);
    CHECK(codes.dtype.code == MQ_DTYPE_UINT && codes.dtype.bits == 8 && codes.data != nullptr);
    CHECK(scale.dtype.code == MQ_DTYPE_FLOAT && scale.shape[0] == ROWS);
    CHECK_THROWS(fc.layer.packed("other"), MQ_ERR_NOT_FOUND);
    fc.weight.assign(fc.weight.size(), 0.0f); // not needed any more
    CHECK(fc.unpacked() == before);
}

void memory_may_be_of_the_host() {
    Packable fc;
    const std::vector<float> before = fc.unpacked();
    std::map<std::string, std::vector<uint32_t>> memory;
    const auto allocate = [&](const char *layer, const char *part, size_t size_bytes) -> void * {
        CHECK(std::strcmp(layer, "fc") == 0);
        return memory.emplace(part, std::vector<uint32_t>((size_bytes + 3) / 4))
            .first->second.data();
    };
    CHECK(fc.model.compress({}, allocate) == 1);
    CHECK(memory.size() == 2);
    CHECK(fc.layer.packed("weight").data == memory.at("weight").data());
    CHECK(fc.unpacked() == before);
}

void what_the_allocator_throws_comes_out() {
    Packable fc;
    const std::vector<float> before = fc.unpacked();
    const auto throws = [](const char *, const char *, size_t) -> void * {
        throw std::length_error("full");
    };
    bool is_thrown = false;
    try {
        fc.model.compress({}, throws);
    } catch (const std::length_error &error) {
        is_thrown = std::string(error.what()) == "full";
    }
    CHECK(is_thrown);
    const auto has_none = [](const char *, const char *, size_t) { return nullptr; };
    CHECK_THROWS(fc.model.compress({}, has_none), MQ_ERR_OUT_OF_MEMORY);
    CHECK_THROWS(fc.layer.packed("weight"), MQ_ERR_STATE); // as it was
    CHECK(fc.unpacked() == before);
    CHECK(fc.model.compress("{\"*\": false}", MQ_ALLOW_NO_MATCH) == 0);
}

} // namespace

void test_compress() {
    parts_are_given();
    memory_may_be_of_the_host();
    what_the_allocator_throws_comes_out();
}
