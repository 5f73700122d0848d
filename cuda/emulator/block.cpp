// The scheduler of one block. Threads run until they wait or return; whoever misses a barrier is
// seen in the result, or here, when nobody can go on.
#include "block.h"

#include <link.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace cuda_on_cpu {

__thread ThreadState thread_state;

static constexpr int kPoison = 0xa5, kCanary = 0xc7;
static constexpr size_t kPage = 64 << 10, kMostShared = 256 << 10;

// All thread-local memory of this library that is not thread_state is `__shared__`.
static void poison_static_shared() {
    struct Found {
        uintptr_t inside;
        unsigned char *begin;
        size_t bytes;
    } found = {reinterpret_cast<uintptr_t>(&poison_static_shared), nullptr, 0};
    dl_iterate_phdr(
        [](dl_phdr_info *info, size_t, void *data) -> int {
            auto *found = static_cast<Found *>(data);
            bool is_ours = false;
            const ElfW(Phdr) *tls = nullptr;
            for (int i = 0; i < info->dlpi_phnum; ++i) {
                const ElfW(Phdr) &header = info->dlpi_phdr[i];
                uintptr_t begin = info->dlpi_addr + header.p_vaddr;
                is_ours |= header.p_type == PT_LOAD && found->inside >= begin &&
                           found->inside < begin + header.p_memsz;
                tls = header.p_type == PT_TLS ? &header : tls;
            }
            if (is_ours && tls != nullptr && info->dlpi_tls_data != nullptr) {
                found->begin = static_cast<unsigned char *>(info->dlpi_tls_data);
                found->bytes = tls->p_memsz;
            }
            return is_ours;
        },
        &found);
    if (found.begin == nullptr) {
        return;
    }
    auto *kept = reinterpret_cast<unsigned char *>(&thread_state);
    unsigned char *end = found.begin + found.bytes, *behind = kept + sizeof thread_state;
    std::memset(found.begin, kPoison, static_cast<size_t>(kept - found.begin));
    std::memset(behind, kPoison, static_cast<size_t>(end - behind));
}

Block::~Block() {
    if (shared_pages_ != nullptr) {
        munmap(shared_pages_, kMostShared + kPage);
    }
}

// Ends at a page that faults; up to its alignment a canary stands in between.
void Block::prepare_shared(size_t bytes) {
    if (shared_pages_ == nullptr) {
        void *pages = mmap(nullptr, kMostShared + kPage, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (pages == MAP_FAILED) {
            std::perror("mq mock: shared memory");
            std::abort();
        }
        shared_pages_ = static_cast<unsigned char *>(pages);
        mprotect(shared_pages_ + kMostShared, kPage, PROT_NONE);
    }
    size_t rounded = (bytes + 127) / 128 * 128;
    unsigned char *begin = shared_pages_ + kMostShared - rounded;
    std::memset(begin, kPoison, bytes);
    std::memset(begin + bytes, kCanary, rounded - bytes);
    thread_state.dynamic_shared = begin;
    poison_static_shared();
}

void Block::check_shared(size_t bytes) {
    const unsigned char *end = shared_pages_ + kMostShared;
    for (const unsigned char *at = thread_state.dynamic_shared + bytes; at < end; ++at) {
        if (*at != kCanary && fault_.status == 0) {
            set_fault(kIllegalAddress, -1, "a write behind the dynamic shared memory");
        }
    }
}

void Block::prepare(const Launch &launch, uint3 index) {
    launch_ = &launch;
    index_ = index;
    fault_ = {};
    done_ = 0;
    count_ = static_cast<int>(launch.block.x * launch.block.y * launch.block.z);
    thread_state.block_index = index;
    thread_state.block_size = launch.block;
    thread_state.grid_size = launch.grid;
    threads_.resize(static_cast<size_t>(count_));
    stacks_.reserve(static_cast<size_t>(count_));
    uint3 at = {0, 0, 0};
    for (size_t i = 0; i < threads_.size(); ++i) {
        threads_[i] = {};
        threads_[i].stack = stacks_.start(i, &Block::enter);
        threads_[i].index = at;
        if (++at.x == launch.block.x) {
            at.x = 0;
            if (++at.y == launch.block.y) {
                at.y = 0;
                ++at.z;
            }
        }
    }
}

Fault Block::run(const Launch &launch, uint3 index, uint64_t number, const Order &order) {
    prepare(launch, index);
    prepare_shared(launch.dynamic_shared);
    thread_state.block = this;
    int warps = (count_ + 31) / 32;
    warps_.start(order, warps, number);
    lanes_.start(order, 32, number ^ 0x5555);
    while (fault_.status == 0) {
        bool has_moved = false;
        warps_.mix();
        for (int warp : warps_.places()) {
            lanes_.mix();
            has_moved |= run_warp(warp);
        }
        if (done_ == count_ || fault_.status != 0) {
            break;
        }
        if (!complete_barrier() && !has_moved) {
            report_stuck();
        }
    }
    thread_state.block = nullptr;
    check_shared(launch.dynamic_shared);
    return fault_;
}

// Until each of its lanes waits for somebody else, or has returned.
bool Block::run_warp(int warp) {
    int first = warp * 32, end = std::min(first + 32, count_);
    bool has_moved = false;
    for (bool again = true; again && fault_.status == 0;) {
        again = false;
        for (int lane : lanes_.places()) {
            int thread = first + lane;
            if (thread < end && threads_[static_cast<size_t>(thread)].state == State::Ready) {
                resume(thread);
                has_moved = true;
                if (fault_.status != 0) {
                    return true;
                }
            }
        }
        for (int lane = 0; lane < end - first; ++lane) {
            again |= threads_[static_cast<size_t>(first + lane)].state == State::AtWarp &&
                     complete_in_warp(first, end, lane);
        }
    }
    return has_moved;
}

// Completes what `lane` waits for, if every lane of its mask that has not returned waits for the
// same.
bool Block::complete_in_warp(int first, int end, int lane) {
    const Thread asking = threads_[static_cast<size_t>(first + lane)];
    uint64_t before[32] = {};
    unsigned there = 0, ballot = 0;
    for (int other = 0; other < end - first; ++other) {
        const Thread &thread = threads_[static_cast<size_t>(first + other)];
        if ((asking.mask >> other & 1u) == 0 || thread.state == State::Done) {
            continue;
        }
        if (thread.state != State::AtWarp || thread.kind != asking.kind ||
            thread.mask != asking.mask || thread.line != asking.line) {
            return false;
        }
        there |= 1u << other;
        before[other] = thread.value;
        ballot |= thread.value != 0 ? 1u << other : 0;
    }
    for (int other = 0; other < end - first; ++other) {
        Thread &thread = threads_[static_cast<size_t>(first + other)];
        if ((there >> other & 1u) == 0) {
            continue;
        }
        thread.state = State::Ready;
        if (thread.kind == Together::Ballot) {
            thread.value = ballot;
        } else if (thread.kind == Together::Shuffle) {
            // From a lane that takes no part comes an undefined value.
            bool is_there = there >> (thread.source & 31) & 1u;
            thread.value = is_there ? before[thread.source & 31] : 0xa5a5a5a5a5a5a5a5u;
        }
    }
    return true;
}

// Threads that have returned are not waited for, as on compute capability 7.0 and later.
bool Block::complete_barrier() {
    const Thread *first = nullptr;
    int holds = 0, waiting = 0;
    for (const Thread &thread : threads_) {
        if (thread.state == State::Done) {
            continue;
        }
        if (thread.state != State::AtBarrier) {
            return false;
        }
        if (first == nullptr) {
            first = &thread;
        } else if (thread.line != first->line || thread.kind != first->kind) {
            set_fault(kLaunchFailed, static_cast<int>(&thread - threads_.data()),
                      "divergent barrier: waits at line " + std::to_string(thread.line) +
                          ", another thread at line " + std::to_string(first->line));
            return true;
        }
        ++waiting;
        holds += thread.value != 0;
    }
    for (Thread &thread : threads_) {
        if (thread.state == State::AtBarrier) {
            thread.state = State::Ready;
            thread.value = thread.kind == Together::BarrierCount ? static_cast<uint64_t>(holds)
                           : thread.kind == Together::BarrierAnd ? holds == waiting
                                                                 : holds > 0;
        }
    }
    return waiting > 0;
}

void Block::report_stuck() {
    for (int i = 0; i < count_; ++i) {
        const Thread &thread = threads_[static_cast<size_t>(i)];
        if (thread.state == State::AtWarp) {
            char text[160];
            std::snprintf(text, sizeof text,
                          "divergent barrier: waits for lanes %08x of its warp (line %d), which do "
                          "not come there",
                          thread.mask, thread.line);
            set_fault(kLaunchFailed, i, text);
            return;
        }
    }
    set_fault(kLaunchFailed, 0, "divergent barrier: no thread can go on");
}

void Block::set_fault(int status, int thread, const std::string &what) {
    uint3 at = thread < 0 ? uint3{0, 0, 0} : threads_[static_cast<size_t>(thread)].index;
    auto place = [](uint3 at) {
        return "(" + std::to_string(at.x) + "," + std::to_string(at.y) + "," +
               std::to_string(at.z) + ")";
    };
    fault_.status = status;
    fault_.text = std::string("kernel ") + launch_->kernel->name + ", block " + place(index_) +
                  (thread < 0 ? "" : ", thread " + place(at)) + ": " + what;
}

void Block::resume(int thread) {
    current_ = thread;
    thread_state.thread_index = threads_[static_cast<size_t>(thread)].index;
    cuda_on_cpu_switch(&scheduler_, threads_[static_cast<size_t>(thread)].stack);
}

void Block::leave() {
    cuda_on_cpu_switch(&threads_[static_cast<size_t>(current_)].stack, scheduler_);
}

void Block::enter() {
    Block *block = thread_state.block;
    block->launch_->kernel->call(block->launch_->arguments);
    block->threads_[static_cast<size_t>(block->current_)].state = State::Done;
    ++block->done_;
    block->leave();
    std::abort(); // a thread that has returned is not resumed
}

// The fiber is left for good: kernels have no destructors that would have to run.
void Block::fail(int status, const std::string &what) {
    set_fault(status, current_, what);
    leave();
    std::abort();
}

int Block::wait(Together kind, int predicate, int line) {
    Thread &thread = threads_[static_cast<size_t>(current_)];
    thread.state = State::AtBarrier;
    thread.kind = kind;
    thread.line = line;
    thread.value = predicate != 0;
    leave();
    return static_cast<int>(thread.value);
}

uint64_t Block::wait_in_warp(Together kind, unsigned mask, uint64_t value, int source, int line) {
    if ((mask >> lane() & 1u) == 0) {
        fail(kLaunchFailed, "the mask of a warp operation is without the lane that calls it");
    }
    Thread &thread = threads_[static_cast<size_t>(current_)];
    thread.state = State::AtWarp;
    thread.kind = kind;
    thread.mask = mask;
    thread.value = value;
    thread.source = source;
    thread.line = line;
    leave();
    return thread.value;
}

unsigned Block::living_lanes() const {
    int first = current_ - lane();
    unsigned living = 0;
    for (int i = first; i < std::min(first + 32, count_); ++i) {
        living |= threads_[static_cast<size_t>(i)].state != State::Done ? 1u << (i - first) : 0;
    }
    return living;
}

int wait_for_block(Together kind, int predicate, int line) {
    return thread_state.block->wait(kind, predicate, line);
}
uint64_t wait_for_lanes(Together kind, unsigned mask, uint64_t value, int source, int line) {
    return thread_state.block->wait_in_warp(kind, mask, value, source, line);
}
int current_lane() { return thread_state.block->lane(); }
unsigned living_lanes() { return thread_state.block->living_lanes(); }

void fault_misaligned(const void *address, size_t bytes) {
    char text[96];
    std::snprintf(text, sizeof text, "misaligned access of %zu bytes at %p", bytes, address);
    thread_state.block->fail(kMisalignedAddress, text);
}

} // namespace cuda_on_cpu
