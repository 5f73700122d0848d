// Allocations as mappings of their own: a stray access meets a closed page, or a canary up to it.
#include "device_memory.h"

#include <sys/mman.h>

#include <cstring>

namespace mock {

static constexpr size_t kPage = 64 << 10, kAlignment = 256;
static constexpr int kPoison = 0xa5, kCanary = 0xc7;

DeviceMemory &device_memory() {
    static DeviceMemory *memory = new DeviceMemory; // never destroyed: the host may free at exit
    return *memory;
}

static bool protect(Allocation &allocation, int protection) {
    return mprotect(allocation.pages, allocation.pages_bytes, protection) == 0;
}

static bool is_canary(const unsigned char *begin, const unsigned char *end) {
    while (begin < end && *begin == kCanary) {
        ++begin;
    }
    return begin == end;
}

static void fill_with_canaries(Allocation &allocation) {
    unsigned char *end = allocation.start + allocation.bytes;
    unsigned char *pages_end = allocation.pages + allocation.pages_bytes;
    std::memset(allocation.pages, kCanary,
                static_cast<size_t>(allocation.start - allocation.pages));
    std::memset(end, kCanary, static_cast<size_t>(pages_end - end));
}

Allocation *DeviceMemory::allocate(size_t bytes, Context *context, int device) {
    size_t aligned = (bytes + kAlignment - 1) / kAlignment * kAlignment;
    size_t pages_bytes = (aligned + kPage - 1) / kPage * kPage;
    void *mapped = mmap(nullptr, pages_bytes + 2 * kPage, PROT_NONE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapped == MAP_FAILED) {
        return nullptr;
    }
    auto allocation = std::make_unique<Allocation>();
    allocation->pages = static_cast<unsigned char *>(mapped) + kPage;
    allocation->pages_bytes = pages_bytes;
    // As far back as alignment allows, so that the first bytes behind it are canary or closed.
    allocation->start = allocation->pages + pages_bytes - aligned;
    allocation->bytes = bytes;
    allocation->context = context;
    allocation->device = device;
    allocation->is_live = true;
    Allocation *kept = allocation.get();
    allocations_.emplace(reinterpret_cast<uintptr_t>(kept->pages), std::move(allocation));
    open(*kept);
    fill_with_canaries(*kept);
    fill_with_poison(*kept);
    close();
    return kept;
}

// A kernel must not see zeros where nobody has written.
void DeviceMemory::fill_with_poison(Allocation &allocation) {
    std::memset(allocation.start, kPoison, allocation.bytes);
}

void DeviceMemory::release(Allocation *allocation) {
    munmap(allocation->pages - kPage, allocation->pages_bytes + 2 * kPage);
    allocations_.erase(reinterpret_cast<uintptr_t>(allocation->pages));
}

Allocation *DeviceMemory::find(uint64_t address, size_t bytes) {
    auto next = allocations_.upper_bound(address);
    if (next == allocations_.begin()) {
        return nullptr;
    }
    Allocation &allocation = *std::prev(next)->second;
    auto start = reinterpret_cast<uint64_t>(allocation.start);
    bool is_inside = address >= start && address - start < allocation.bytes &&
                     bytes <= allocation.bytes - (address - start);
    return is_inside ? &allocation : nullptr;
}

bool DeviceMemory::touches(const void *address, size_t bytes) {
    auto begin = reinterpret_cast<uintptr_t>(address);
    auto next = allocations_.upper_bound(begin + (bytes == 0 ? 0 : bytes - 1));
    return next != allocations_.begin() &&
           std::prev(next)->first + std::prev(next)->second->pages_bytes > begin;
}

void DeviceMemory::for_each(const std::function<void(Allocation &)> &visit) {
    for (auto &entry : allocations_) {
        visit(*entry.second);
    }
}

void DeviceMemory::open(Allocation &allocation) {
    protect(allocation, PROT_READ | PROT_WRITE);
    allocation.is_open = true;
}

bool DeviceMemory::open_at(const void *address) {
    auto at = reinterpret_cast<uintptr_t>(address);
    auto next = allocations_.upper_bound(at);
    if (next == allocations_.begin()) {
        return false;
    }
    Allocation &allocation = *std::prev(next)->second;
    if (at - std::prev(next)->first >= allocation.pages_bytes || !allocation.is_live) {
        return false;
    }
    // Another OS thread may have opened it meanwhile; then the access succeeds when repeated.
    open(allocation);
    if (is_recording_ && !allocation.is_recorded) {
        allocation.before.assign(allocation.start, allocation.start + allocation.bytes);
        allocation.is_recorded = true;
    }
    return true;
}

void DeviceMemory::record(bool is_on) {
    is_recording_ = is_on;
    for (auto &entry : allocations_) {
        entry.second->is_recorded = false;
        entry.second->before = {};
    }
}

Allocation *DeviceMemory::close() {
    Allocation *violated = nullptr;
    for (auto &entry : allocations_) {
        Allocation &allocation = *entry.second;
        if (!allocation.is_open) {
            continue; // nobody could have written there
        }
        const unsigned char *end = allocation.pages + allocation.pages_bytes;
        if (!is_canary(allocation.pages, allocation.start) ||
            !is_canary(allocation.start + allocation.bytes, end)) {
            violated = &allocation;
            fill_with_canaries(allocation); // reported once
        }
        protect(allocation, PROT_NONE);
        allocation.is_open = false;
    }
    return violated;
}

} // namespace mock
