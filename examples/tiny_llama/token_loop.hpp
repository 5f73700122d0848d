// The loop of everything that is done to each token alone.
#pragma once

#include "thread_pool.hpp"

#include <algorithm>
#include <cstddef>

namespace tiny_llama {

/// Calls body(0), ..., body(tokens - 1) on the threads of the pool.
template <typename Body>
void for_each_token(ThreadPool &pool, std::size_t tokens, const Body &body) {
    constexpr std::size_t kTokensPerTask = 64; // enough work to be worth handing out
    pool.run((tokens + kTokensPerTask - 1) / kTokensPerTask, [&](std::size_t task, std::size_t) {
        const std::size_t end = std::min(tokens, (task + 1) * kTokensPerTask);
        for (std::size_t token = task * kTokensPerTask; token < end; ++token) {
            body(token);
        }
    });
}

} // namespace tiny_llama
