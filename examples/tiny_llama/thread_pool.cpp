// Workers sleep between rounds; within a round each takes the next index until none is left.
#include "thread_pool.hpp"

#include <algorithm>

namespace tiny_llama {

ThreadPool::ThreadPool(std::size_t threads) {
    if (threads == 0) {
        threads = std::max(1U, std::thread::hardware_concurrency());
    }
    try {
        for (std::size_t worker = 1; worker < threads; ++worker) {
            workers_.emplace_back([this, worker] { work(worker); });
        }
    } catch (...) {
        stop(); // a joinable thread must not be destroyed
        throw;
    }
}

ThreadPool::~ThreadPool() { stop(); }

void ThreadPool::stop() {
    {
        const std::lock_guard lock(mutex_);
        stopping_ = true;
    }
    start_.notify_all();
    for (std::thread &worker : workers_) {
        worker.join();
    }
}

void ThreadPool::run(std::size_t count, const Body &body) noexcept {
    {
        const std::lock_guard lock(mutex_);
        body_ = &body;
        count_ = count;
        next_.store(0, std::memory_order_relaxed);
        working_ = workers_.size();
        ++round_;
    }
    start_.notify_all();
    take_indices(0);
    std::unique_lock lock(mutex_);
    done_.wait(lock, [this] { return working_ == 0; });
}

void ThreadPool::work(std::size_t worker) {
    std::uint64_t seen = 0;
    std::unique_lock lock(mutex_);
    for (;;) {
        start_.wait(lock, [&] { return stopping_ || round_ != seen; });
        if (stopping_) {
            return;
        }
        seen = round_;
        lock.unlock();
        take_indices(worker);
        lock.lock();
        if (--working_ == 0) {
            done_.notify_one();
        }
    }
}

void ThreadPool::take_indices(std::size_t worker) {
    for (;;) {
        const std::size_t index = next_.fetch_add(1, std::memory_order_relaxed);
        if (index >= count_) {
            return;
        }
        (*body_)(index, worker);
    }
}

} // namespace tiny_llama
