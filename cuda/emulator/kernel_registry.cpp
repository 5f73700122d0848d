// The table behind kernel_registry.h. Filled while the library is loaded, only read afterwards.
#include "kernel_registry.h"

#include <map>
#include <string>

namespace cuda_on_cpu {

static std::map<std::string, Kernel> &kernels() {
    // A function's own, because registrations run before this file's globals may exist.
    static std::map<std::string, Kernel> table;
    return table;
}

KernelRegistration::KernelRegistration(Kernel kernel) {
    std::string name = kernel.name;
    kernels().emplace(name, std::move(kernel));
}

const Kernel *find_kernel(const char *name) {
    auto found = kernels().find(name);
    return found == kernels().end() ? nullptr : &found->second;
}

} // namespace cuda_on_cpu
