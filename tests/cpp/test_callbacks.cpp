// Callbacks: what they may be and return, and exceptions that pass through C with their type.
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "check.hpp"

namespace {

struct Mine : std::logic_error {
    int number;
    explicit Mine(int n) : std::logic_error("mine"), number(n) {}
};

struct NotAnException {
    std::string text;
};

struct Host {
    mq::Context context;
    mq::Model model{context};
    std::vector<float> weight = {1.0f, -2.0f, 3.0f, -4.0f};
    std::vector<float> x = {-2.0f, 1.5f};
    mq::Layer fc = model.add_layer("fc", mq::tensor(weight.data(), {2, 2}));

    void tap() const { fc.input(mq::tensor(x.data(), {1, 2})); }
};

int passes_by_pointer;
const Host *host_of_pointer;
void pass_by_pointer() {
    passes_by_pointer++;
    host_of_pointer->tap();
}

void a_pass_is_any_callable() {
    Host host;
    host.model.quantize("INT8_DEFAULT_CFG", [&] { host.tap(); });
    host.model.quantize("INT8_DEFAULT_CFG", [&] { return host.tap(), 0; });
    host.model.quantize("INT8_DEFAULT_CFG", [&] { // C code in a callback: its status is an answer
        return mq_layer_input(host.fc.get(), mq::tensor(host.x.data(), {1, 2}), nullptr);
    });
    host_of_pointer = &host;
    host.model.calibrate("max", pass_by_pointer);
    host.model.calibrate("max", &pass_by_pointer);
    CHECK(passes_by_pointer == 2);
    int calls = 0;
    std::function<void()> function = [&] { calls++, host.tap(); };
    host.model.calibrate("max", function);
    const auto constant = [&calls, &host] { calls++, host.tap(); };
    host.model.calibrate("max", constant);
    struct {
        const Host &host;
        int calls = 0;
        void operator()() { calls++, host.tap(); }
    } object{host};
    host.model.calibrate("max", object);
    CHECK(calls == 2 && object.calls == 1); // not a copy of it
}

void a_number_stops_the_verb() {
    Host host;
    const std::string before = host.model.summary(MQ_SUMMARY_JSON);
    CHECK_THROWS(host.model.quantize("INT8_DEFAULT_CFG", [] { return 42; }), MQ_ERR_CALLBACK);
    CHECK_THROWS(host.model.quantize("INT8_DEFAULT_CFG", [] { return MQ_ERR_STATE; }),
                 MQ_ERR_CALLBACK);
    CHECK(host.model.summary(MQ_SUMMARY_JSON) == before);
    host.model.quantize("INT8_DEFAULT_CFG");
    CHECK_THROWS(host.model.postprocess_amax("*", [](const char *, float *, size_t) { return 1; }),
                 MQ_ERR_CALLBACK);
}

void exceptions_keep_their_type() {
    Host host;
    const std::string before = host.model.summary(MQ_SUMMARY_JSON);
    int caught = 0;
    try {
        host.model.quantize("INT8_DEFAULT_CFG", [&] {
            host.tap();
            throw Mine(7);
        });
    } catch (const Mine &mine) {
        caught = mine.number;
    }
    CHECK(caught == 7);
    CHECK(host.model.summary(MQ_SUMMARY_JSON) == before); // as if it had never been called
    CHECK_THROWS(host.model.fold_weight(), MQ_ERR_STATE);

    std::string text;
    try {
        host.model.quantize("INT8_DEFAULT_CFG", [] { throw NotAnException{"any type"}; });
    } catch (const NotAnException &thrown) {
        text = thrown.text;
    }
    CHECK(text == "any type");
    host.model.quantize("INT8_DEFAULT_CFG", [&] { host.tap(); });
}

template <class Call> int number_thrown_by(Call call) {
    try {
        call();
    } catch (const Mine &mine) {
        return mine.number;
    }
    return 0;
}

void every_callback_may_throw() {
    Host host;
    host.model.quantize("INT8_DEFAULT_CFG", [&] { host.tap(); });
    const std::string before = host.model.summary(MQ_SUMMARY_JSON);
    int calls = 0;
    const auto throws_late = [&](const char *) -> bool {
        return ++calls == 2 ? throw Mine(calls) : true;
    };
    CHECK(number_thrown_by([&] { host.model.enable_quantizer(throws_late); }) == 2 && calls == 2);
    calls = 0;
    CHECK(number_thrown_by([&] { host.model.disable_quantizer(throws_late); }) == 2);
    calls = 0;
    CHECK(number_thrown_by([&] {
              host.model.set_quantizer_attributes(throws_late, R"({"num_bits": 4})");
          }) == 2);
    CHECK(number_thrown_by([&] { host.model.calibrate("max", [] { throw Mine(3); }); }) == 3);
    CHECK(number_thrown_by([&] {
              host.model.postprocess_amax("*", [](const char *, float *amax, size_t) {
                  *amax = 99.0f;
                  throw Mine(4);
              });
          }) == 4);
    CHECK(host.model.summary(MQ_SUMMARY_JSON) == before);
}

void an_error_of_a_tap_arrives_once() {
    Host host;
    host.x[1] = std::numeric_limits<float>::quiet_NaN();
    try {
        host.model.quantize("INT8_DEFAULT_CFG", [&] { host.tap(); });
        CHECK(false);
    } catch (const mq::Error &error) {
        CHECK(error.status() == MQ_ERR_NUMERIC &&
              std::string(error.what()).find("fc") != std::string::npos);
    }
    // caught by the host: the verb still answers it
    CHECK_THROWS(host.model.quantize("INT8_DEFAULT_CFG",
                                     [&] {
                                         try {
                                             host.tap();
                                         } catch (const mq::Error &) {
                                         }
                                     }),
                 MQ_ERR_NUMERIC);
}

void the_model_is_busy_inside() {
    Host host;
    mq_status inside = MQ_OK;
    host.model.quantize("INT8_DEFAULT_CFG", [&] {
        try {
            host.model.fold_weight();
        } catch (const mq::Error &error) {
            inside = error.status();
        }
        host.tap();
    });
    CHECK(inside == MQ_ERR_BUSY);
    CHECK_THROWS(host.model.calibrate("max", [&] { host.model.calibrate("max"); }), MQ_ERR_BUSY);
}

void a_log_may_throw() {
    mq::ContextOptions options;
    int lines = 0;
    options.log = [&](mq_log_level level, std::string_view text) {
        lines += !text.empty() && (level == MQ_LOG_WARNING || level == MQ_LOG_INFO);
        throw Mine(5);
    };
    float weight[4] = {1.0f, 2.0f, 3.0f, 4.0f};
    const mq::Context context(options);
    mq::Model model(context);
    model.add_layer("fc", mq::tensor(weight, {2, 2}));
    model.quantize("INT8_DEFAULT_CFG"); // the line is lost, the call is not
    model.fold_weight();
    CHECK(lines > 0);
}

} // namespace

void test_callbacks() {
    a_pass_is_any_callable();
    a_number_stops_the_verb();
    exceptions_keep_their_type();
    every_callback_may_throw();
    an_error_of_a_tap_arrives_once();
    the_model_is_busy_inside();
    a_log_may_throw();
}
