// Device memory: pages that the host may not touch, each allocation apart from all others.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <vector>

namespace mock {

struct Context;

struct Allocation {
    unsigned char *start; // aligned to 256 bytes
    size_t bytes;
    unsigned char *pages; // what can be opened; a page that cannot is before and behind it
    size_t pages_bytes;
    Context *context;
    int device;
    bool is_live; // false: belongs to a graph that has not got to it
    std::atomic<bool> is_open;
    // Its contents when a kernel first got to it, while recording.
    bool is_recorded;
    std::vector<unsigned char> before;
};

class DeviceMemory {
  public:
    /// Null when the system has no more memory.
    Allocation *allocate(size_t bytes, Context *context, int device);
    void release(Allocation *allocation);
    /// Null unless all of [address, address + bytes) lies in one allocation.
    Allocation *find(uint64_t address, size_t bytes);
    /// Whether any of these bytes is device memory.
    bool touches(const void *address, size_t bytes);
    void for_each(const std::function<void(Allocation &)> &visit);

    // Access lasts from one of these until close().
    void open(Allocation &allocation);
    /// For the handler of faults: whether there was closed device memory, which now is open.
    bool open_at(const void *address);
    /// From now on, or no longer, keeps what allocations contain before a kernel can change it.
    void record(bool is_on);
    /// Ends all access. Returns an allocation beside which somebody wrote, or null.
    Allocation *close();

    static void fill_with_poison(Allocation &allocation);

  private:
    bool is_recording_ = false;
    // By the first page.
    std::map<uintptr_t, std::unique_ptr<Allocation>> allocations_;
};

DeviceMemory &device_memory();

} // namespace mock
