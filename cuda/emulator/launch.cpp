// Grids: blocks shared out over OS threads, and what happens when one touches memory that is not
// its own.
#include "launch.h"

#include <signal.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <memory>
#include <mutex>
#include <numeric>
#include <thread>

#include "device_memory.h"

namespace cuda_on_cpu {

// Blocks keep their stacks, so they are kept too.
static std::mutex idle_mutex;
static std::vector<std::unique_ptr<Block>> idle_blocks;

static std::unique_ptr<Block> take_block() {
    std::lock_guard<std::mutex> lock(idle_mutex);
    if (idle_blocks.empty()) {
        return std::make_unique<Block>();
    }
    std::unique_ptr<Block> block = std::move(idle_blocks.back());
    idle_blocks.pop_back();
    return block;
}

static void give_block(std::unique_ptr<Block> block) {
    std::lock_guard<std::mutex> lock(idle_mutex);
    idle_blocks.push_back(std::move(block));
}

static struct sigaction handler_before[2];

static void handle_fault(int signal, siginfo_t *info, void *context) {
    // Device memory is closed until somebody needs it; most faults are a kernel's first access.
    if (thread_state.block != nullptr) {
        if (signal == SIGSEGV && mock::device_memory().open_at(info->si_addr)) {
            return;
        }
        char text[96];
        bool is_misaligned = signal == SIGBUS || info->si_code == SI_KERNEL;
        std::snprintf(text, sizeof text, "%s %p",
                      is_misaligned ? "misaligned or impossible address" : "no memory at",
                      info->si_addr);
        thread_state.block->fail(is_misaligned ? kMisalignedAddress : kIllegalAddress, text);
    }
    // The host's own fault: as if this handler were not there.
    const struct sigaction &before = handler_before[signal == SIGBUS];
    if ((before.sa_flags & SA_SIGINFO) != 0) {
        before.sa_sigaction(signal, info, context);
    } else {
        sigaction(signal, &before, nullptr);
    }
}

// Only while a kernel runs: the host may have a handler of its own.
class FaultHandler {
  public:
    FaultHandler() {
        struct sigaction action = {};
        action.sa_sigaction = handle_fault;
        // On the fiber's stack, and left without returning: so the signal must not stay blocked.
        action.sa_flags = SA_SIGINFO | SA_NODEFER;
        sigaction(SIGSEGV, &action, &handler_before[0]);
        sigaction(SIGBUS, &action, &handler_before[1]);
    }
    ~FaultHandler() {
        sigaction(SIGSEGV, &handler_before[0], nullptr);
        sigaction(SIGBUS, &handler_before[1], nullptr);
    }
};

// Which block has the k-th turn: k * step + first modulo the number of blocks.
struct BlockOrder {
    uint64_t total, step = 1, first = 0;
    bool is_reversed;

    BlockOrder(const Order &order, uint64_t blocks)
        : total(blocks), is_reversed(order.kind == Order::Kind::Reverse) {
        if (order.kind == Order::Kind::Shuffle && blocks > 1) {
            first = order.seed * 7919 % blocks;
            for (step = (order.seed * 104729 + blocks / 2) % blocks; std::gcd(step, blocks) != 1;) {
                step = (step + 1) % blocks;
            }
        }
    }
    uint64_t at(uint64_t turn) const {
        uint64_t place = is_reversed ? total - 1 - turn : turn;
        return static_cast<uint64_t>((static_cast<unsigned __int128>(place) * step + first) %
                                     total);
    }
};

Fault run_grid(const Launch &launch, const Order &order, int os_threads) {
    const uint3 grid = launch.grid;
    const uint64_t total = static_cast<uint64_t>(grid.x) * grid.y * grid.z;
    const uint64_t cuda_threads = total * launch.block.x * launch.block.y * launch.block.z;
    const BlockOrder turns(order, total);
    std::atomic<uint64_t> next{0};
    std::mutex fault_mutex;
    Fault fault;
    std::atomic<bool> has_fault{false};
    auto work = [&] {
        std::unique_ptr<Block> block = take_block();
        for (uint64_t turn; !has_fault && (turn = next++) < total;) {
            uint64_t number = turns.at(turn);
            uint3 index = {static_cast<unsigned>(number % grid.x),
                           static_cast<unsigned>(number / grid.x % grid.y),
                           static_cast<unsigned>(number / grid.x / grid.y)};
            Fault found = block->run(launch, index, number, order);
            if (found.status != 0) {
                std::lock_guard<std::mutex> lock(fault_mutex);
                fault = has_fault ? fault : found;
                has_fault = true;
            }
        }
        give_block(std::move(block));
    };
    FaultHandler handler;
    std::vector<std::thread> others;
    // A new thread costs as much as some thousand CUDA threads.
    uint64_t wanted = cuda_threads < 8192 ? 1 : std::min<uint64_t>(total, os_threads);
    for (uint64_t i = 1; i < wanted; ++i) {
        others.emplace_back(work);
    }
    work();
    for (std::thread &other : others) {
        other.join();
    }
    if (mock::Allocation *violated = mock::device_memory().close()) {
        if (fault.status == 0) {
            char text[160];
            std::snprintf(text, sizeof text, ": a write beside the allocation of %zu bytes at %p",
                          violated->bytes, static_cast<void *>(violated->start));
            fault = {kIllegalAddress, std::string("kernel ") + launch.kernel->name + text};
        }
    }
    return fault;
}

} // namespace cuda_on_cpu
