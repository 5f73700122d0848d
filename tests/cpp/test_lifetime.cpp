// Moves, and any order of destruction.
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#include "check.hpp"

static_assert(!std::is_copy_constructible_v<mq::Context> &&
              std::is_nothrow_move_constructible_v<mq::Context>);
static_assert(!std::is_copy_constructible_v<mq::Model> &&
              std::is_nothrow_move_constructible_v<mq::Model>);
static_assert(std::is_trivially_copyable_v<mq::Layer> &&
              std::is_trivially_copyable_v<mq::Quantizer>);
static_assert(std::is_base_of_v<std::runtime_error, mq::Error>);

namespace {

/// Counts how often the log's state dies.
struct Tracer {
    std::shared_ptr<int> alive = std::make_shared<int>(0);
    mq::ContextOptions options() const {
        mq::ContextOptions made;
        made.log = [alive = alive](mq_log_level, std::string_view) {};
        return made;
    }
    bool is_released() const { return alive.use_count() == 1; }
};

void a_context_may_die_before_its_model() {
    const Tracer tracer;
    std::vector<float> weight = {1.0f, -2.0f, 3.0f, -4.0f};
    auto context = std::make_unique<mq::Context>(tracer.options());
    auto model = std::make_unique<mq::Model>(*context);
    context.reset();
    CHECK(!tracer.is_released()); // the model may still have something to say
    model->add_layer("fc", mq::tensor(weight.data(), {2, 2}));
    model->quantize("INT8_DEFAULT_CFG");
    model->fold_weight();
    model.reset();
    CHECK(tracer.is_released());
}

void a_model_may_die_before_its_context() {
    const Tracer tracer;
    {
        const mq::Context context(tracer.options());
        const mq::Model first(context), second(context);
        CHECK(first.get() != second.get());
    }
    CHECK(tracer.is_released());
}

void a_log_is_freed_when_creation_fails() {
    const Tracer tracer;
    mq::ContextOptions options = tracer.options();
    options.num_threads = 5000;
    CHECK_THROWS(mq::Context(std::move(options)), MQ_ERR_INVALID_ARGUMENT);
    CHECK(tracer.is_released());
}

void moves_take_everything_along() {
    std::vector<float> weight = {1.0f, -2.0f, 3.0f, -4.0f}, x = {-2.0f, 1.5f};
    mq::Context context;
    mq::Model model(context);
    const mq::Layer fc = model.add_layer("fc", mq::tensor(weight.data(), {2, 2}));

    mq::Context other_context = std::move(context);
    mq::Model moved = std::move(model);
    CHECK(context.get() == nullptr &&
          model.get() == nullptr); // NOLINT: the moved-from state is the point
    CHECK_THROWS(model.fold_weight(), MQ_ERR_INVALID_ARGUMENT);
    CHECK_THROWS(mq::Model{context}, MQ_ERR_INVALID_ARGUMENT);
    moved.quantize("INT8_DEFAULT_CFG", [&] { fc.input(mq::tensor(x.data(), {1, 2})); });
    CHECK(moved.find_layer("fc").get() == fc.get()); // handles stay where they are

    mq::Model target(other_context);
    target = std::move(moved); // frees what it had
    CHECK(target.find_quantizer("fc.input_quantizer").amax().values.at(0) == 2.0f);
    context = mq::Context();
    other_context = std::move(context);
    target.fold_weight(); // on the threads of a context that is gone
}

void models_live_in_containers() {
    const mq::Context context;
    std::vector<float> weight(4, 1.0f);
    std::vector<mq::Model> models;
    for (int i = 0; i < 5; i++) {
        models.emplace_back(context).add_layer("fc", mq::tensor(weight.data(), {2, 2}));
    }
    models.erase(models.begin());
    for (mq::Model &model : models)
        model.quantize("FP8_DEFAULT_CFG");
    CHECK(models.size() == 4);
}

} // namespace

void test_lifetime() {
    a_context_may_die_before_its_model();
    a_model_may_die_before_its_context();
    a_log_is_freed_when_creation_fails();
    moves_take_everything_along();
    models_live_in_containers();
}
