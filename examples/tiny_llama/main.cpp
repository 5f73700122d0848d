// tiny_llama MODEL_DIR: the perplexity of the model on test.bin, and how long that took.
#include "llama.hpp"
#include "perplexity.hpp"
#include "sequences.hpp"
#include "thread_pool.hpp"

#include <chrono>
#include <cstdio>
#include <exception>
#include <string>

namespace {

void run(const std::string &directory) {
    using namespace tiny_llama;
    ThreadPool pool;
    Llama model(directory, pool);
    const Sequences text(directory + "/test.bin", model.config().context);

    LinearHooks none;
    const auto start = std::chrono::steady_clock::now();
    const double result = perplexity(model, text, none);
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
    std::printf("FP32 perplexity %.4f, %zu sequences in %.2f s with %zu threads\n", result,
                text.count(), elapsed.count(), pool.size());
}

} // namespace

int main(int argc, char **argv) {
    if (argc != 2) {
        std::fprintf(stderr, "usage: tiny_llama MODEL_DIR\n");
        return 2;
    }
    try {
        run(argv[1]);
    } catch (const std::exception &error) {
        std::fprintf(stderr, "tiny_llama: %s\n", error.what());
        return 1;
    }
    return 0;
}
