// Work that mocks of other libraries put on a stream.
#include <cstdio>
#include <cstring>

#include "driver.h"

using namespace mock;

CUresult mq_mock_enqueue(CUstream stream, const char *what, const mq_mock_range *ranges,
                         size_t count, void (*work)(const void *), const void *arguments,
                         size_t bytes) {
    Call call;
    if (call.status != kSuccess) {
        return call.status;
    }
    auto *first = static_cast<const unsigned char *>(arguments);
    std::vector<mq_mock_range> accessed(ranges, ranges + count);
    std::vector<unsigned char> kept(first, first + bytes);
    std::string name = what;
    Context *context = call.context;
    return submit(stream, context, [context, name, accessed, kept, work]() -> CUresult {
        for (const mq_mock_range &range : accessed) {
            Allocation *found = device_memory().find(range.start, range.bytes);
            if (found == nullptr || !found->is_live || found->device != context->device) {
                std::fprintf(stderr, "mq mock: %s: no memory of %zu bytes at %p\n", name.c_str(),
                             range.bytes, reinterpret_cast<void *>(range.start));
                ++counters().faults;
                device_memory().close();
                return remember(context, kIllegalAddressError);
            }
            device_memory().open(*found);
        }
        work(kept.data());
        device_memory().close();
        return kSuccess;
    });
}
