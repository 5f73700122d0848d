// One thread block: its threads as fibers, and what they wait for.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "device_barriers.h"
#include "fibers.h"
#include "kernel_registry.h"
#include "order.h"
#include "thread_state.h"

namespace cuda_on_cpu {

/// What made a launch fail: a status of the driver (0: nothing), and a sentence for stderr.
struct Fault {
    int status = 0;
    std::string text;
};

constexpr int kIllegalAddress = 700, kMisalignedAddress = 716, kLaunchFailed = 719;

struct Launch {
    const Kernel *kernel;
    void **arguments;
    uint3 grid;
    uint3 block;
    size_t dynamic_shared;
};

class Block {
  public:
    Block() = default;
    ~Block();
    Block(const Block &) = delete;
    Block &operator=(const Block &) = delete;

    /// Runs one block to its end, or to its first fault.
    Fault run(const Launch &launch, uint3 index, uint64_t number, const Order &order);

    // Called on fibers.
    int wait(Together kind, int predicate, int line);
    uint64_t wait_in_warp(Together kind, unsigned mask, uint64_t value, int source, int line);
    int lane() const { return current_ % 32; }
    unsigned living_lanes() const;
    [[noreturn]] void fail(int status, const std::string &what);
    [[noreturn]] static void enter();

  private:
    enum class State { Ready, AtBarrier, AtWarp, Done };
    struct Thread {
        void *stack;
        State state;
        Together kind;
        int line;
        unsigned mask;
        int source;
        uint64_t value; // in: what the thread brings; out: what it gets
        uint3 index;
    };

    void prepare(const Launch &launch, uint3 index);
    void resume(int thread);
    void leave();
    bool run_warp(int warp);
    bool complete_in_warp(int first, int end, int lane);
    bool complete_barrier();
    void report_stuck();
    void set_fault(int status, int thread, const std::string &what);
    void prepare_shared(size_t bytes);
    void check_shared(size_t bytes);

    const Launch *launch_ = nullptr;
    uint3 index_{};
    std::vector<Thread> threads_;
    Stacks stacks_;
    void *scheduler_ = nullptr;
    int current_ = 0;
    int count_ = 0;
    int done_ = 0;
    Fault fault_;
    unsigned char *shared_pages_ = nullptr;
    Shuffle lanes_, warps_;
};

} // namespace cuda_on_cpu
