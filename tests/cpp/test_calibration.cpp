// What surrounds a calibration: progress, memory, resuming, plans, checks, cancelling, folding.
#include <cmath>
#include <cstdio>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "check.hpp"

namespace {

const char *const smoothquant = "INT8_SMOOTHQUANT_CFG";

struct Mine {
    int number;
};

/// A norm (`1 + gain`), "fc" that reads it, and "down" that reads what "fc" computes.
struct Host {
    mq::Context context;
    mq::Model model{context};
    std::vector<float> gain = {0.5f, -0.25f, 0.0f, 1.0f}, bias = {0.0f, 0.125f, 0.25f, 0.5f};
    std::vector<float> weight = {1.0f, -2.0f, 3.0f, -4.0f, 0.5f, 0.25f, -0.125f, 0.0f};
    std::vector<float> down_weight = {1.0f, 2.0f, 3.0f, 4.0f};
    std::vector<float> raw = {-2.0f, 1.5f, 1.0f, 0.0f, 0.5f, 40.0f, -1.0f, 2.0f};
    mq::Layer fc, down;
    int passes = 0;

    explicit Host(mq::ContextOptions options = {}) : context(std::move(options)) {
        mq::LayerDesc desc;
        desc.name = "fc";
        desc.weight = mq::tensor(weight.data(), {2, 4});
        desc.expert_group = "alone";
        desc.norm_gain = mq::tensor(gain.data(), 4);
        desc.norm_bias = mq::tensor(bias.data(), 4);
        desc.norm_adds_one = true;
        fc = model.add_layer(desc);
        desc = {};
        desc.name = "down";
        desc.weight = mq::tensor(down_weight.data(), {2, 2});
        desc.producer = "fc";
        down = model.add_layer(desc);
    }

    std::vector<float> product(const mq::Layer &layer, std::vector<float> x, size_t inputs) const {
        std::vector<float> w(2 * inputs), y;
        layer.input(mq::tensor(x.data(), {x.size() / inputs, inputs}),
                    mq::tensor(x.data(), {x.size() / inputs, inputs}));
        layer.weight(mq::tensor(w.data(), {size_t{2}, inputs}));
        for (size_t t = 0; t < x.size() / inputs; t++) {
            for (size_t o = 0; o < 2; o++) {
                float sum = 0.0f;
                for (size_t i = 0; i < inputs; i++)
                    sum += x[t * inputs + i] * w[o * inputs + i];
                y.push_back(sum);
            }
        }
        return y;
    }

    std::vector<float> forward() {
        passes++;
        std::vector<float> x = raw;
        for (size_t i = 0; i < x.size(); i++)
            x[i] = x[i] * (1.0f + gain[i % 4]) + bias[i % 4];
        return product(down, product(fc, x, 4), 2);
    }

    void quantize(const std::string &config) {
        model.quantize(config, [&] { forward(); });
    }
};

void progress_counts_to_its_totals() {
    int steps = 0;
    uint64_t done = 0, total = 0;
    std::string last;
    mq::ContextOptions options;
    options.progress = [&](const mq::Progress &progress) {
        steps++;
        if (progress.phase == "solve") {
            done = progress.done;
            total = progress.total;
            last = progress.layer;
        }
    };
    Host host(options);
    host.quantize("INT8_DEFAULT_CFG");
    CHECK(steps == 6 && done == 4 && total == 4 && last == "down.input_quantizer");
}

int32_t stops_as_a_function(const mq::Progress &) { return 7; }

/// The status with which a progress callback of any kind stops a verb; the model stays as it was.
template <class Stop> mq_status stopped_by(Stop stop) {
    mq::ContextOptions options;
    options.progress = stop;
    Host host(options);
    const std::string before = host.model.summary(MQ_SUMMARY_JSON);
    mq_status status = MQ_OK;
    try {
        host.quantize("INT8_DEFAULT_CFG");
    } catch (const mq::Error &error) {
        status = error.status();
        CHECK(std::string(error.what()).find("progress") != std::string::npos);
        CHECK(host.model.summary(MQ_SUMMARY_JSON) == before);
    }
    return status;
}

void progress_may_stop_the_verb() {
    CHECK(stopped_by([](const mq::Progress &) { return true; }) == MQ_ERR_CALLBACK);
    CHECK(stopped_by([](const mq::Progress &) { return -3; }) == MQ_ERR_CALLBACK);
    CHECK(stopped_by([](const mq::Progress &) { return MQ_ERR_STATE; }) == MQ_ERR_CALLBACK);
    CHECK(stopped_by(stops_as_a_function) == MQ_ERR_CALLBACK);
    CHECK(stopped_by(&stops_as_a_function) == MQ_ERR_CALLBACK);
    CHECK(stopped_by([](const mq::Progress &) { return false; }) == MQ_OK);
    CHECK(stopped_by([](const mq::Progress &) { return 0; }) == MQ_OK);
    CHECK(stopped_by([](mq::Progress) {}) == MQ_OK);
    CHECK(stopped_by(nullptr) == MQ_OK);
    mq::OnProgress copied = [calls = 0](const mq::Progress &) mutable { return ++calls > 2; };
    CHECK(stopped_by(copied) == MQ_ERR_CALLBACK);
}

void exceptions_of_progress_keep_their_type() {
    int throw_at = 0, calls = 0;
    mq::ContextOptions options;
    options.progress = [&](const mq::Progress &) {
        if (++calls == throw_at)
            throw Mine{calls};
    };
    Host host(options);
    const std::string before = host.model.summary(MQ_SUMMARY_JSON);
    for (throw_at = 1; throw_at <= 6; throw_at++) { // also where no forward is lent to the call
        int with_forward = 0, without = 0;
        calls = 0;
        try {
            host.quantize("INT8_DEFAULT_CFG");
        } catch (const Mine &mine) {
            with_forward = mine.number;
        }
        calls = 0;
        try {
            if (throw_at <= 2)
                host.model.quantize("INT8_DEFAULT_CFG");
        } catch (const Mine &mine) {
            without = mine.number;
        }
        CHECK(with_forward == throw_at && without == (throw_at <= 2 ? throw_at : 0));
        CHECK(host.model.summary(MQ_SUMMARY_JSON) == before);
    }
    throw_at = 0; // and never comes back
    CHECK_THROWS(host.model.quantize("INT8_DEFAULT_CFG", [] { return 42; }), MQ_ERR_CALLBACK);
    host.quantize("INT8_DEFAULT_CFG");

    // An exception of a model in the pass of another goes through both.
    Host outer;
    calls = 0;
    throw_at = 3;
    int caught = 0;
    try {
        outer.model.quantize("INT8_DEFAULT_CFG", [&] { host.quantize("FP8_DEFAULT_CFG"); });
    } catch (const Mine &mine) {
        caught = mine.number;
    }
    CHECK(caught == 3);
}

void progress_is_freed_with_the_last_model() {
    const auto alive = std::make_shared<int>(0);
    mq::ContextOptions options;
    options.log = [alive](mq_log_level, std::string_view) {};
    options.progress = [alive](const mq::Progress &) {};
    options.num_threads = 5000;
    CHECK_THROWS(mq::Context{options}, MQ_ERR_INVALID_ARGUMENT);
    CHECK(alive.use_count() == 3);
    options.num_threads = 1;
    auto context = std::make_unique<mq::Context>(std::move(options));
    options = {};
    auto model = std::make_unique<mq::Model>(*context);
    context.reset();
    CHECK(alive.use_count() == 3);
    model.reset();
    CHECK(alive.use_count() == 1);
}

void a_memory_limit_is_kept_or_said() {
    const std::string unlimited = Host().model.plan("INT8_DEFAULT_CFG");
    CHECK(unlimited.find("\"forwards\":1") != std::string::npos);
    mq::ContextOptions options;
    options.memory_limit_bytes = 1;
    Host host(options);
    CHECK_THROWS(host.model.plan("INT8_DEFAULT_CFG"), MQ_ERR_OUT_OF_MEMORY);
    CHECK_THROWS(host.quantize("INT8_DEFAULT_CFG"), MQ_ERR_OUT_OF_MEMORY);
    CHECK(host.passes == 0);
    try {
        host.model.plan("INT8_DEFAULT_CFG");
    } catch (const mq::Error &error) {
        const std::string text = error.what(), before = "set it to ";
        const std::size_t found = text.find(before);
        CHECK(found != std::string::npos);
        options.memory_limit_bytes = std::stoull(text.substr(found + before.size()));
    }
    Host small(options);
    small.quantize("INT8_DEFAULT_CFG");
    CHECK(options.memory_limit_bytes > 1 && small.passes >= 1);
    Host large;
    large.quantize("INT8_DEFAULT_CFG");
    CHECK(small.model.summary(MQ_SUMMARY_JSON) == large.model.summary(MQ_SUMMARY_JSON));
}

void plans_tell_what_would_happen() {
    Host host;
    const std::string before = host.model.summary(MQ_SUMMARY_JSON);
    CHECK(host.model.plan(smoothquant).find("\"algorithm\":\"smoothquant\"") != std::string::npos);
    CHECK_THROWS(host.model.plan("max"), MQ_ERR_STATE);
    CHECK_THROWS(host.model.plan("INT8_DEFALT_CFG"), MQ_ERR_CONFIG);
    CHECK(host.model.summary(MQ_SUMMARY_JSON) == before && host.passes == 0);
    host.quantize("INT8_DEFAULT_CFG");
    CHECK(host.model.plan("max").find("\"forwards\":1") != std::string::npos);
}

void checks_report_numbers_and_text() {
    Host host;
    CHECK_THROWS(host.model.check(), MQ_ERR_STATE);
    host.model.quantize("INT8_DEFAULT_CFG");
    mq::CheckReport report = host.model.check();
    CHECK(report.quantizers == 6 && report.enabled == 4 && report.errors == 0);
    CHECK(!report.fewest_tokens && report.warnings == 3); // two without an amax, a group of one
    host.quantize("INT8_DEFAULT_CFG");
    report = host.model.check();
    CHECK(report.fewest_tokens == 2u && report.unseen == 0 && report.warnings == 1);
    CHECK(report.json.front() == '{' && report.json.back() == '}');
    CHECK(report.json.find("expert_group `alone`") != std::string::npos);
}

void a_long_report_comes_whole() {
    const mq::Context context;
    mq::Model model(context);
    std::vector<float> weight(4, 1.0f), x(2, 1.0f);
    for (int i = 0; i < 40; i++) {
        mq::LayerDesc desc;
        desc.name = std::string(400, 'x') + std::to_string(i);
        desc.weight = mq::tensor(weight.data(), {2, 2});
        desc.expert_group = desc.name;
        model.add_layer(desc);
    }
    model.quantize("INT8_DEFAULT_CFG");
    const mq::CheckReport report = model.check();
    CHECK(report.warnings == 80 && report.json.size() > 60000 && report.json.back() == '}');
}

void a_calibration_may_be_cancelled() {
    Host host;
    host.model.cancel(); // nothing is running
    host.quantize("FP8_DEFAULT_CFG");
    const std::string before = host.model.summary(MQ_SUMMARY_JSON);
    CHECK_THROWS(host.model.quantize(smoothquant,
                                     [&] {
                                         host.forward();
                                         host.model.cancel();
                                     }),
                 MQ_ERR_CANCELLED);
    CHECK_THROWS(host.model.quantize(smoothquant,
                                     [&] {
                                         std::thread([&] { host.model.cancel(); }).join();
                                         host.forward(); // its tap throws
                                     }),
                 MQ_ERR_CANCELLED);
    CHECK(host.model.summary(MQ_SUMMARY_JSON) == before);
    host.quantize(smoothquant);
    const mq::Model moved = std::move(host.model);
    CHECK_THROWS(host.model.cancel(), MQ_ERR_INVALID_ARGUMENT);
}

void options_ask_for_tokens_and_keep_what_is_finished() {
    const std::string path = "/tmp/mq-wrapper-" + std::to_string(mq_version()) + "-" +
                             std::to_string(reinterpret_cast<uintptr_t>(&path)) + ".resume";
    const auto exists = [&] { return std::ifstream(path).good(); };
    mq::CalibrationOptions calibration;
    calibration.min_tokens = 3;
    Host host;
    host.model.set_calibration_options(calibration);
    CHECK_THROWS(host.quantize("INT8_DEFAULT_CFG"), MQ_ERR_STATE);
    calibration.min_tokens = 2;
    host.model.set_calibration_options(calibration);
    host.quantize("INT8_DEFAULT_CFG");

    calibration = {};
    calibration.resume_file = path;
    mq::ContextOptions options;
    int solved = 0;
    mq::Model *cancelled = nullptr;
    options.progress = [&](const mq::Progress &progress) {
        if (progress.phase == "solve" && ++solved == 1 && cancelled)
            cancelled->cancel();
    };
    Host resumed(options);
    resumed.model.set_calibration_options(calibration);
    cancelled = &resumed.model;
    CHECK_THROWS(resumed.quantize(smoothquant), MQ_ERR_CANCELLED);
    CHECK(exists());
    resumed.quantize(smoothquant);
    CHECK(!exists());
    Host plain;
    plain.quantize(smoothquant);
    CHECK(resumed.model.summary(MQ_SUMMARY_JSON) == plain.model.summary(MQ_SUMMARY_JSON));
    std::remove(path.c_str());
}

void folding_leaves_the_product() {
    Host host;
    CHECK_THROWS(host.model.fold_pre_quant_scale(), MQ_ERR_STATE);
    host.quantize(R"({"quant_cfg": [{"quantizer_name": "*", "enable": false},
        {"quantizer_name": "*weight_quantizer", "cfg": {"num_bits": 8, "axis": 0}}],
        "algorithm": "awq_lite"})");
    const mq::Quantizer input = host.model.find_quantizer("fc.input_quantizer");
    CHECK(input.pre_quant_scale().size() == 4);
    const std::vector<float> before = host.forward(), gain = host.gain;
    CHECK_THROWS(host.model.fold_pre_quant_scale(1), MQ_ERR_INVALID_ARGUMENT);
    CHECK(host.model.fold_pre_quant_scale() == 2);
    CHECK(input.pre_quant_scale().empty() && host.gain != gain);
    const std::vector<float> after = host.forward();
    for (size_t i = 0; i < before.size(); i++)
        CHECK(std::abs(after[i] - before[i]) <= 1e-5f * std::abs(before[i]) + 1e-4f);
    CHECK(host.model.fold_pre_quant_scale() == 0);
}

} // namespace

void test_calibration() {
    progress_counts_to_its_totals();
    progress_may_stop_the_verb();
    exceptions_of_progress_keep_their_type();
    progress_is_freed_with_the_last_model();
    a_memory_limit_is_kept_or_said();
    plans_tell_what_would_happen();
    checks_report_numbers_and_text();
    a_long_report_comes_whole();
    a_calibration_may_be_cancelled();
    options_ask_for_tokens_and_keep_what_is_finished();
    folding_leaves_the_product();
}
