// A fixed set of threads that share out the indices of one loop at a time.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace tiny_llama {

class ThreadPool {
  public:
    /// `index` is the loop index; `worker` < size() tells concurrent calls apart.
    using Body = std::function<void(std::size_t index, std::size_t worker)>;

    /// `threads` counts the calling thread; 0 means one per hardware thread.
    explicit ThreadPool(std::size_t threads = 0);
    ~ThreadPool();
    ThreadPool(const ThreadPool &) = delete;
    ThreadPool &operator=(const ThreadPool &) = delete;

    std::size_t size() const { return workers_.size() + 1; }

    /// Calls body(0), ..., body(count - 1), in any order, and returns when all have returned.
    /// The body must not throw and must not call run(). One call at a time.
    void run(std::size_t count, const Body &body) noexcept;

  private:
    void work(std::size_t worker);
    void take_indices(std::size_t worker);
    void stop();

    std::vector<std::thread> workers_;
    std::mutex mutex_;
    std::condition_variable start_;
    std::condition_variable done_;
    std::uint64_t round_ = 0; // one per run(); a worker joins each round exactly once
    std::size_t working_ = 0;
    bool stopping_ = false;

    // The loop of this round; written under mutex_ while no worker is in a round.
    const Body *body_ = nullptr;
    std::size_t count_ = 0;
    std::atomic<std::size_t> next_{0};
};

} // namespace tiny_llama
