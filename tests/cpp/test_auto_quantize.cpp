// The search for the format of every layer: a network with its own backward pass, and every
// callback.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "check.hpp"

namespace {

const char *const formats = R"(["INT4_BLOCKWISE_WEIGHT_ONLY_CFG", "INT8_DEFAULT_CFG"])";

struct Mine {
    int number;
};

std::vector<float> numbers(size_t count, unsigned seed) {
    std::vector<float> made(count);
    for (float &x : made) {
        seed = seed * 1664525u + 1013904223u;
        x = static_cast<float>(seed >> 8) / 8388608.0f - 1.0f;
    }
    return made;
}

bool holds(const std::string &text, const std::string &part) {
    return text.find(part) != std::string::npos;
}

/// The number under a key of JSON, where it first appears.
double number_in(const std::string &json, const std::string &key) {
    const size_t at = json.find("\"" + key + "\":");
    return at == std::string::npos ? std::nan("") : std::stod(json.substr(at + key.size() + 3));
}

/// y = W x for each of the tokens of x.
std::vector<float> product(const std::vector<float> &w, const std::vector<float> &x,
                           size_t inputs) {
    const size_t outputs = w.size() / inputs, tokens = x.size() / inputs;
    std::vector<float> y(tokens * outputs, 0.0f);
    for (size_t t = 0; t < tokens; t++)
        for (size_t o = 0; o < outputs; o++)
            for (size_t i = 0; i < inputs; i++)
                y[t * outputs + o] += w[o * inputs + i] * x[t * inputs + i];
    return y;
}

/// "up" `[16, 128]`, relu, "down" `[4, 16]`, and the squared sum of what comes out as the loss.
struct Host {
    static constexpr size_t inputs = 128, hidden = 16, outputs = 4, tokens = 3, batches = 3;
    mq::Context context;
    mq::Model model{context};
    std::vector<float> up_weight = numbers(hidden * inputs, 1);
    std::vector<float> down_weight = numbers(outputs * hidden, 2);
    mq::Layer up = model.add_layer("up", mq::tensor(up_weight.data(), {hidden, inputs}));
    mq::Layer down = model.add_layer("down", mq::tensor(down_weight.data(), {outputs, hidden}));
    std::vector<float> x, before, after, y;
    int steps = 0, backwards = 0;

    explicit Host(mq::ContextOptions options = {}) : context(std::move(options)) {}

    static std::vector<float> passed(const mq::Layer &layer, std::vector<float> x, size_t inputs,
                                     size_t outputs) {
        std::vector<float> w(inputs * outputs);
        layer.input(mq::tensor(x.data(), {x.size() / inputs, inputs}),
                    mq::tensor(x.data(), {x.size() / inputs, inputs}));
        layer.weight(mq::tensor(w.data(), {outputs, inputs}));
        return product(w, x, inputs);
    }

    bool data(uint64_t step) {
        if (step < batches)
            x = numbers(tokens * inputs, static_cast<unsigned>(10 + step));
        return step < batches;
    }

    void forward() {
        steps++;
        before = passed(up, x, inputs, hidden);
        after = before;
        for (float &value : after)
            value = value > 0.0f ? value : 0.0f;
        y = passed(down, after, hidden, outputs);
    }

    double loss() const {
        double sum = 0.0;
        for (const float value : y)
            sum += value * value;
        return sum;
    }

    void backward() {
        backwards++;
        std::vector<float> gradient(y.size()), inner(before.size(), 0.0f);
        for (size_t i = 0; i < y.size(); i++)
            gradient[i] = 2.0f * y[i];
        down.grad(mq::tensor(gradient.data(), {tokens, outputs}));
        for (size_t t = 0; t < tokens; t++)
            for (size_t h = 0; h < hidden; h++)
                for (size_t o = 0; o < outputs && before[t * hidden + h] > 0.0f; o++)
                    inner[t * hidden + h] +=
                        gradient[t * outputs + o] * down_weight[o * hidden + h];
        up.grad(mq::tensor(inner.data(), {tokens, hidden}));
    }

    mq::AutoQuantizeHost callbacks() {
        mq::AutoQuantizeHost host;
        host.data = [this](uint64_t step) { return data(step); };
        host.forward_step = [this](uint64_t) { forward(); };
        host.loss = [this](uint64_t) { return loss(); };
        host.backward = [this](uint64_t) { backward(); };
        return host;
    }

    static mq::AutoQuantizeOptions options(double bits = 8.0) {
        mq::AutoQuantizeOptions made;
        made.constraints = "{\"effective_bits\": " + std::to_string(bits) + "}";
        made.quantization_formats = formats;
        made.num_calib_steps = made.num_score_steps = batches;
        return made;
    }

    /// An input passes the taps unchanged, as before anything was called.
    bool is_untouched() {
        std::vector<float> values = numbers(inputs, 77), out(inputs);
        up.input(mq::tensor(values.data(), {1, inputs}), mq::tensor(out.data(), {1, inputs}));
        std::vector<float> w(up_weight.size());
        up.weight(mq::tensor(w.data(), {hidden, inputs}));
        return out == values && w == up_weight;
    }
};

double bits_of(const std::string &best) { return number_in(best, "effective_bits"); }

void defaults_are_those_of_c() {
    mq_auto_quantize_options raw;
    CHECK(mq_auto_quantize_options_init(&raw, sizeof raw) == MQ_OK);
    const mq::AutoQuantizeOptions options;
    CHECK(options.num_calib_steps == raw.num_calib_steps);
    CHECK(options.num_score_steps == raw.num_score_steps);
    CHECK(raw.flags == 0 && !options.verbose && !options.all_layers);
}

void a_search_stays_within_its_budget() {
    Host host;
    CHECK_THROWS(host.model.auto_quantize_state(), MQ_ERR_STATE);
    CHECK_THROWS(host.model.auto_quantize_config(), MQ_ERR_STATE);
    CHECK_THROWS(host.model.auto_quantize_solve("{}"), MQ_ERR_STATE);
    host.model.auto_quantize(Host::options(), host.callbacks());
    CHECK(host.steps == 6 && host.backwards == 3);
    CHECK(!host.is_untouched());
    const std::string state = host.model.auto_quantize_state();
    CHECK(holds(state, "\"method\":\"gradient\"") && holds(state, "\"up.quant_recipe\""));
    const std::string best = state.substr(state.find("\"best\":"));
    CHECK(bits_of(best) > 0.0 && bits_of(best) <= 8.0);

    const std::string lower = host.model.auto_quantize_solve(R"({"effective_bits": 4.5})", true);
    CHECK(bits_of(lower) <= 4.5 && number_in(lower, "score") >= number_in(best, "score"));
    CHECK(host.model.auto_quantize_state() == state); // it was a dry run
    const std::string two = host.model.auto_quantize_solve(
        R"([{"effective_bits": 4.5}, {"effective_bits": 8.0}])", true);
    CHECK(two.front() == '[' && holds(two, lower));
    CHECK_THROWS(host.model.auto_quantize_solve(R"([{"effective_bits": 4.5}])"), MQ_ERR_CONFIG);
    CHECK_THROWS(host.model.auto_quantize_solve(R"({"effective_bits": 2.0})"), MQ_ERR_CONFIG);
    CHECK(host.model.auto_quantize_state() == state);

    const std::string config = host.model.auto_quantize_config(R"({"effective_bits": 4.5})");
    CHECK(host.model.auto_quantize_config() != config);
    CHECK(host.model.auto_quantize_solve(R"({"effective_bits": 4.5})") == lower);
    CHECK(holds(host.model.auto_quantize_state(), lower));
    CHECK(host.model.auto_quantize_config() == config);
    CHECK(host.steps == 6); // no data was asked for again

    Host second;
    second.model.quantize(config, [&] {
        for (uint64_t step = 0; second.data(step); step++)
            second.forward();
    });
    std::vector<float> first_w(host.up_weight.size()), second_w(first_w.size());
    host.up.weight(mq::tensor(first_w.data(), {Host::hidden, Host::inputs}));
    second.up.weight(mq::tensor(second_w.data(), {Host::hidden, Host::inputs}));
    CHECK(first_w == second_w);
    CHECK_THROWS(host.model.auto_quantize(Host::options(), host.callbacks()), MQ_ERR_STATE);
}

void one_function_may_run_forward_and_backward() {
    Host apart, together;
    apart.model.auto_quantize(Host::options(), apart.callbacks());
    mq::AutoQuantizeHost host = together.callbacks();
    host.loss = nullptr;
    host.backward = nullptr;
    host.forward_backward_step = [&](uint64_t) {
        together.forward();
        together.backward();
        return together.loss();
    };
    together.model.auto_quantize(Host::options(), host);
    CHECK(together.model.auto_quantize_state() == apart.model.auto_quantize_state());
}

void a_divergence_needs_logits_only() {
    Host host;
    mq::AutoQuantizeOptions options = Host::options();
    options.method = "kl_div";
    mq::AutoQuantizeHost callbacks = host.callbacks();
    callbacks.loss = nullptr;
    callbacks.backward = nullptr;
    CHECK_THROWS(host.model.auto_quantize(options, callbacks), MQ_ERR_INVALID_ARGUMENT);
    callbacks.logits = [&](uint64_t) { // its shape lives in what is returned
        return mq::tensor(host.y.data(), {Host::tokens, Host::outputs});
    };
    host.model.auto_quantize(options, callbacks);
    CHECK(host.backwards == 0);
    CHECK(holds(host.model.auto_quantize_state(), "\"method\":\"kl_div\""));
}

void costs_may_be_the_hosts() {
    Host host;
    mq::AutoQuantizeOptions options = Host::options();
    options.constraints = R"({"max_cost": 3})";
    uint64_t up_elements = 0;
    host.model.auto_quantize(options, host.callbacks(),
                             [&](const std::string &layer, const std::string &format, uint64_t n) {
                                 if (layer == "up")
                                     up_elements = n;
                                 return format == "NONE" ? 4.0 : format[3] == '8' ? 2.0 : 1.0;
                             });
    CHECK(up_elements == Host::hidden * Host::inputs);
    const std::string best = host.model.auto_quantize_solve(R"({"max_cost": 2})");
    CHECK(number_in(best, "cost") == 2.0);
    CHECK_THROWS(host.model.auto_quantize_solve(R"({"max_cost": 1.5})"), MQ_ERR_CONFIG);
}

template <class Call> int number_thrown_by(Call call) {
    try {
        call();
    } catch (const Mine &mine) {
        return mine.number;
    }
    return 0;
}

void what_callbacks_throw_comes_out() {
    Host host;
    const auto thrown = [&](int number, auto change) {
        mq::AutoQuantizeHost callbacks = host.callbacks();
        change(callbacks);
        const int found =
            number_thrown_by([&] { host.model.auto_quantize(Host::options(), callbacks); });
        CHECK(found == number);
        CHECK(host.is_untouched());
    };
    thrown(1, [](auto &c) { c.data = [](uint64_t) -> bool { throw Mine{1}; }; });
    thrown(2, [](auto &c) { c.forward_step = [](uint64_t) { throw Mine{2}; }; });
    thrown(3, [](auto &c) { c.loss = [](uint64_t) -> double { throw Mine{3}; }; });
    thrown(4, [&](auto &c) {
        c.backward = [&](uint64_t step) {
            host.backward();
            if (step == 1)
                throw Mine{4};
        };
    });
    thrown(5, [](auto &c) { c.forward_backward_step = [](uint64_t) -> double { throw Mine{5}; }; });
    const auto cost = [](const char *, const char *, uint64_t) -> double { throw Mine{6}; };
    CHECK(number_thrown_by(
              [&] { host.model.auto_quantize(Host::options(), host.callbacks(), cost); }) == 6);
    mq::AutoQuantizeOptions options = Host::options();
    options.method = "kl_div";
    mq::AutoQuantizeHost callbacks = host.callbacks();
    callbacks.logits = [](uint64_t) -> mq::ConstTensorRef { throw Mine{7}; };
    CHECK(number_thrown_by([&] { host.model.auto_quantize(options, callbacks); }) == 7);
    CHECK(host.is_untouched());
}

void numbers_and_missing_data_stop_it() {
    Host host;
    mq::AutoQuantizeHost callbacks = host.callbacks();
    callbacks.forward_step = [](uint64_t) { return 42; };
    CHECK_THROWS(host.model.auto_quantize(Host::options(), callbacks), MQ_ERR_CALLBACK);
    callbacks = host.callbacks();
    callbacks.backward = [](uint64_t) {};
    CHECK_THROWS(host.model.auto_quantize(Host::options(), callbacks), MQ_ERR_STATE);
    callbacks = host.callbacks();
    callbacks.loss = [](uint64_t) { return std::nan(""); };
    CHECK_THROWS(host.model.auto_quantize(Host::options(), callbacks), MQ_ERR_NUMERIC);
    mq::AutoQuantizeOptions options = Host::options();
    options.num_score_steps = Host::batches + 1;
    CHECK_THROWS(host.model.auto_quantize(options, host.callbacks()), MQ_ERR_STATE);
    CHECK_THROWS(host.model.auto_quantize(Host::options(), {}), MQ_ERR_INVALID_ARGUMENT);
    CHECK_THROWS(host.model.auto_quantize(Host::options(17.0), host.callbacks()), MQ_ERR_CONFIG);
    CHECK(host.is_untouched());
}

void a_gradient_outside_a_search_does_nothing() {
    Host host;
    host.data(0);
    host.forward();
    host.backward();
    CHECK(host.is_untouched());
    CHECK_THROWS(mq::Layer().grad(mq::tensor(host.x.data(), {1, 1})), MQ_ERR_INVALID_ARGUMENT);
}

void a_search_is_told_of_and_restricted() {
    int lines = 0;
    mq::ContextOptions verbose;
    verbose.log = [&](mq_log_level, std::string_view text) {
        lines += text.find("best recipe for") != std::string_view::npos;
    };
    Host host(verbose);
    mq::AutoQuantizeOptions options = Host::options(16.0);
    options.verbose = true;
    options.all_layers = true;
    options.disabled_layers = R"("down")";
    options.grouping_rules = R"({"replace": ["^(u)p$"]})";
    host.model.auto_quantize(options, host.callbacks());
    CHECK(lines == 2);
    CHECK(!host.model.find_quantizer("down.weight_quantizer").is_enabled());
    CHECK(host.model.find_quantizer("up.weight_quantizer").is_enabled());
}

void a_checkpoint_needs_no_data() {
    const std::string path = "mq_test_auto_quantize.checkpoint";
    std::remove(path.c_str());
    Host first, second;
    mq::AutoQuantizeOptions options = Host::options();
    options.checkpoint = path;
    first.model.auto_quantize(options, first.callbacks());
    second.model.auto_quantize(options, {});
    CHECK(second.model.auto_quantize_state() == first.model.auto_quantize_state());
    std::remove(path.c_str());
}

/// A layer of 2 channels that are multiplied with their weights, computed by the host.
void a_layer_may_be_computed_by_the_host() {
    const auto alive = std::make_shared<int>(0);
    std::vector<float> weight = {1.5f, -0.37f}, x = {0.3f, 1.0f, -2.0f, 0.77f}, g(4, 1.0f);
    int calls = 0, thrown = 0;
    bool throws = true;
    {
        const mq::Context context;
        mq::Model model(context);
        mq::LayerDesc desc;
        desc.name = "scale";
        desc.kind = MQ_LAYER_GENERIC;
        desc.weight = mq::tensor(weight.data(), 2);
        desc.forward = [&, alive](const mq::ConstTensorRef &in, const mq::ConstTensorRef &w,
                                  const mq::TensorRef &out) {
            calls++;
            if (throws)
                throw Mine{8};
            for (int i = 0; i < 4; i++)
                static_cast<float *>(out.get()->data)[i] =
                    static_cast<const float *>(in.get()->data)[i] *
                    static_cast<const float *>(w.get()->data)[i % 2];
        };
        const mq::Layer layer = model.add_layer(desc);
        CHECK_THROWS(model.add_layer(desc), MQ_ERR_ALREADY_EXISTS);
        desc.forward = nullptr;
        CHECK(alive.use_count() == 2); // the model's; that of the refused layer is gone
        mq::AutoQuantizeHost host;
        host.forward_step = [&](uint64_t) { layer.input(mq::tensor(x.data(), {2, 2})); };
        host.loss = [](uint64_t) { return 1.0; };
        host.backward = [&](uint64_t) {
            try {
                layer.grad(mq::tensor(g.data(), {2, 2}));
            } catch (const Mine &mine) {
                thrown = mine.number;
                throw;
            }
        };
        mq::AutoQuantizeOptions options = Host::options();
        options.quantization_formats = R"(["INT8_WEIGHT_ONLY_CFG"])";
        CHECK(number_thrown_by([&] { model.auto_quantize(options, host); }) == 8 && thrown == 8);
        throws = false;
        calls = 0;
        model.auto_quantize(options, host);
        CHECK(calls == 2 * static_cast<int>(Host::batches)); // with and without the format
    }
    CHECK(alive.use_count() == 1);
}

/// One output for each place of a 1x4 image under a kernel of 1x2, every second one, with padding.
void a_convolution_has_a_stride() {
    std::vector<float> weight = {1.0f, -0.3f}, x = {1.0f, 2.0f, 3.0f, 4.0f}, g(3, 1.0f);
    const mq::Context context;
    mq::Model model(context);
    mq::LayerDesc desc;
    desc.name = "conv";
    desc.kind = MQ_LAYER_CONV1D;
    desc.weight = mq::tensor(weight.data(), {1, 1, 2});
    desc.conv_stride = {2};
    desc.conv_padding = {1};
    desc.conv_dilation = {1};
    const mq::Layer conv = model.add_layer(desc);
    mq::AutoQuantizeHost host;
    int64_t outputs = 2; // which it is not: (4 + 2 - 2) / 2 + 1
    host.forward_step = [&](uint64_t) { conv.input(mq::tensor(x.data(), {1, 1, 4})); };
    host.loss = [](uint64_t) { return 1.0; };
    host.backward = [&](uint64_t) { conv.grad(mq::tensor(g.data(), {1, 1, outputs})); };
    mq::AutoQuantizeOptions options = Host::options();
    options.quantization_formats = R"(["INT8_DEFAULT_CFG"])";
    CHECK_THROWS(model.auto_quantize(options, host), MQ_ERR_INVALID_ARGUMENT);
    outputs = 3;
    model.auto_quantize(options, host);
}

} // namespace

void test_auto_quantize() {
    defaults_are_those_of_c();
    a_search_stays_within_its_budget();
    one_function_may_run_forward_and_backward();
    a_divergence_needs_logits_only();
    costs_may_be_the_hosts();
    what_callbacks_throw_comes_out();
    numbers_and_missing_data_stop_it();
    a_gradient_outside_a_search_does_nothing();
    a_search_is_told_of_and_restricted();
    a_checkpoint_needs_no_data();
    a_layer_may_be_computed_by_the_host();
    a_convolution_has_a_stride();
}
