// Model, Layer and Quantizer: everything the C functions do, in C++ types.
#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "check.hpp"

namespace {

struct Host {
    mq::Context context;
    mq::Model model{context};
    std::vector<float> weight = {1.0f, -2.0f, 3.0f, -4.0f, 0.5f, 0.25f, -0.125f, 0.0f};
    std::vector<float> x = {-2.0f, 1.5f, 1.0f, 0.0f};
    mq::Layer fc = model.add_layer("fc", mq::tensor(weight.data(), {2, 4}));

    void quantize(const std::string &config) {
        model.quantize(config, [&] { fc.input(mq::tensor(x.data(), {1, 4})); });
    }
};

void registration() {
    Host host;
    std::vector<float> filter(2 * 3 * 3 * 3, 1.0f);
    float bias[2] = {};
    mq::LayerDesc desc;
    desc.name = "conv";
    desc.kind = MQ_LAYER_CONV2D;
    desc.weight = mq::tensor(filter.data(), {2, 3, 3, 3});
    desc.bias = mq::tensor(bias, 2);
    desc.class_name = "my.Conv2d";
    desc.fused_group = desc.shared_input_group = "group";
    CHECK(host.model.add_layer(desc).get() == host.model.find_layer("conv").get());
    CHECK_THROWS(host.model.add_layer(desc), MQ_ERR_ALREADY_EXISTS);
    CHECK_THROWS(host.model.add_layer("bad", mq::tensor(bias, 2)), MQ_ERR_INVALID_ARGUMENT);
    mq::LayerDesc norm;
    norm.name = "norm";
    norm.kind = MQ_LAYER_GENERIC;
    host.model.add_layer(norm);
    const mq::Quantizer own = host.model.add_quantizer("kv.k_bmm_quantizer");
    host.model.add_quantizer("kv.v_bmm_quantizer", "my.Attention");
    CHECK(own.name() == "kv.k_bmm_quantizer" &&
          host.model.find_quantizer(own.name()).get() == own.get());
    CHECK_THROWS(host.model.find_layer("nobody"), MQ_ERR_NOT_FOUND);
    CHECK_THROWS(host.model.find_quantizer("nobody"), MQ_ERR_NOT_FOUND);
    CHECK(host.model.quantizers().size() == 3 + 3 + 2 + 2);
    CHECK(host.model.quantizers().back().name() == "kv.v_bmm_quantizer");
}

void quantize_tap_and_fold() {
    Host host;
    host.quantize("INT8_DEFAULT_CFG");
    std::vector<float> out(4), used(8);
    host.fc.input(mq::tensor(host.x.data(), {1, 4}), mq::tensor(out.data(), {1, 4}));
    CHECK(out[0] == -2.0f && out[1] == 1.49606299f);
    host.fc.output(mq::tensor(host.x.data(), {1, 4}),
                   mq::tensor(out.data(), {1, 4})); // disabled: a copy
    CHECK(out == host.x);
    host.fc.output(mq::tensor(host.x.data(), {1, 4}));
    host.fc.weight(mq::tensor(used.data(), {2, 4}));
    host.model.fold_weight();
    CHECK(std::memcmp(used.data(), host.weight.data(), used.size() * sizeof(float)) == 0);
    CHECK_THROWS(host.model.fold_weight(8), MQ_ERR_INVALID_ARGUMENT);
    host.model.calibrate("max");
    host.model.calibrate("max", [&] { host.fc.input(mq::tensor(host.x.data(), {1, 4})); });
    host.model.calibrate("");
}

void quantizers_tell_and_take() {
    Host host;
    host.quantize("INT8_DEFAULT_CFG");
    const mq::Quantizer input = host.model.find_quantizer("fc.input_quantizer");
    const mq::Quantizer weight = host.model.find_quantizer("fc.weight_quantizer");
    const mq::Quantizer output = host.model.find_quantizer("fc.output_quantizer");
    CHECK(input.is_enabled() && !output.is_enabled());
    CHECK(input.attributes().front() == '{' &&
          input.attributes().find("\"num_bits\"") != std::string::npos);
    CHECK(input.amax().values == std::vector<float>{2.0f} && input.amax().shape.empty());
    CHECK((weight.amax().values == std::vector<float>{4.0f, 0.5f}) &&
          (weight.amax().shape == std::vector<int64_t>{2, 1}));
    CHECK(output.amax().values.empty() && output.amax().shape.empty());
    input.set_amax(3.0f);
    CHECK(input.amax().values.at(0) == 3.0f);
    const float rows[2] = {1.0f, 2.0f};
    weight.set_amax(mq::tensor(rows, {2, 1}));
    CHECK(weight.amax().values.at(1) == 2.0f);
    CHECK_THROWS(input.set_amax(-1.0f), MQ_ERR_NUMERIC);

    const std::vector<float> scale = {1.0f, 2.0f, 3.0f, 4.0f};
    CHECK(input.pre_quant_scale().empty());
    input.set_pre_quant_scale(mq::tensor(scale.data(), scale.size()));
    CHECK(input.pre_quant_scale() == scale);
    input.remove_pre_quant_scale();
    CHECK(input.pre_quant_scale().empty());

    float x[4] = {3.0f, 0.0f, 0.0f, -9.0f};
    input.forward(mq::tensor(x, 4));
    input.forward(mq::tensor(x, 4), mq::tensor(x, 4));
    CHECK(x[0] == 3.0f && x[3] < -3.0f && x[3] > -3.1f);
}

void selection_by_wildcard_and_predicate() {
    Host host;
    host.quantize("INT8_DEFAULT_CFG");
    const mq::Quantizer input = host.model.find_quantizer("fc.input_quantizer");
    CHECK(host.model.disable_quantizer("*input_quantizer") == 1 && !input.is_enabled());
    const std::string wildcard = "fc.*put_quantizer";
    CHECK(host.model.enable_quantizer(wildcard) == 2 && input.is_enabled());
    CHECK(host.model.disable_quantizer(
              [](const std::string &name) { return name == "fc.input_quantizer"; }) == 1);
    CHECK(!input.is_enabled());
    const auto by_view = [](std::string_view name) { return name.find("input") != name.npos; };
    CHECK(host.model.enable_quantizer(by_view) == 1 && input.is_enabled());
    CHECK(host.model.disable_quantizer([](const char *) { return false; }, MQ_ALLOW_NO_MATCH) == 0);
    CHECK_THROWS(host.model.disable_quantizer([](const char *) { return false; }),
                 MQ_ERR_NOT_FOUND);
    CHECK_THROWS(host.model.enable_quantizer("nobody"), MQ_ERR_NOT_FOUND);
    CHECK(host.model.enable_quantizer("nobody", MQ_ALLOW_NO_MATCH) == 0);

    CHECK(host.model.set_quantizer_attributes("*weight_quantizer", R"({"num_bits": 4})") == 1);
    CHECK(host.model.set_quantizer_attributes(by_view, R"({"num_bits": 7})",
                                              MQ_REPLACE_ATTRIBUTES) == 1);
    CHECK(input.attributes().find("\"num_bits\":7") != std::string::npos);
    CHECK_THROWS(host.model.set_quantizer_attributes("*", R"({"num_bitz": 7})"), MQ_ERR_CONFIG);
}

void amax_verbs() {
    Host host;
    host.quantize("INT8_DEFAULT_CFG");
    std::vector<std::string> seen;
    const size_t matched =
        host.model.postprocess_amax("*", [&](const std::string &name, float *amax, size_t count) {
            seen.push_back(name);
            std::for_each(amax, amax + count, [](float &value) { value *= 2.0f; });
        });
    CHECK(matched == 2 && seen.size() == 2);
    CHECK(host.model.find_quantizer("fc.input_quantizer").amax().values.at(0) == 4.0f);
    CHECK(host.model.reset_amax("*input_quantizer") == 1);
    CHECK(host.model.find_quantizer("fc.input_quantizer").amax().values.empty());
    CHECK(host.model.find_quantizer("fc.weight_quantizer").amax().values.at(0) == 8.0f);
}

void summary_and_presets() {
    Host host;
    host.model.quantize("FP8_DEFAULT_CFG");
    CHECK(host.model.summary().find("fc.weight_quantizer") != std::string::npos);
    CHECK(host.model.summary(MQ_SUMMARY_JSON).front() == '{');
    CHECK(host.model.summary() == host.model.summary());
    CHECK_THROWS(host.model.summary(7), MQ_ERR_INVALID_ARGUMENT);
    const std::vector<std::string> names = mq::presets();
    CHECK(names.size() == mq_preset_count());
    CHECK(std::find(names.begin(), names.end(), "INT8_DEFAULT_CFG") != names.end());
    CHECK(mq::preset_json("INT8_DEFAULT_CFG").find("\"quant_cfg\"") != std::string::npos);
    CHECK_THROWS(mq::preset_json("INT8_DEFALT_CFG"), MQ_ERR_CONFIG);
}

void errors_carry_status_and_text() {
    try {
        Host().quantize("INT8_DEFALT_CFG");
        CHECK(false);
    } catch (const std::runtime_error &error) {
        CHECK(std::string(error.what()).find("INT8_DEFAULT_CFG") != std::string::npos);
        CHECK(dynamic_cast<const mq::Error &>(error).status() == MQ_ERR_CONFIG);
    }
    mq::check(MQ_OK);
    CHECK_THROWS(mq::Layer().input(mq::tensor(static_cast<float *>(nullptr), 0)),
                 MQ_ERR_INVALID_ARGUMENT);
    CHECK_THROWS(mq::Quantizer().is_enabled(), MQ_ERR_INVALID_ARGUMENT);
}

} // namespace

void test_model() {
    registration();
    quantize_tap_and_fold();
    quantizers_tell_and_take();
    selection_by_wildcard_and_predicate();
    amax_verbs();
    summary_and_presets();
    errors_carry_status_and_text();
}
