// Kernels by name, with what a launch needs to know about their parameters.
#pragma once

#include <cstddef>
#include <type_traits>
#include <utility>
#include <vector>

namespace cuda_on_cpu {

struct Kernel {
    const char *name;
    /// Calls the kernel with the values that the array points to.
    void (*call)(void **arguments);
    std::vector<size_t> parameter_sizes;
    /// Whether its result may depend on the order of threads (sums of floats by atomics).
    bool may_depend_on_order;
};

/// Null when there is no kernel of this name.
const Kernel *find_kernel(const char *name);

struct KernelRegistration {
    explicit KernelRegistration(Kernel kernel);
};

template <auto kernel> struct KernelCall;
template <class... Parameters, void (*kernel)(Parameters...)> struct KernelCall<kernel> {
    template <size_t... Index> static void unpack(void **arguments, std::index_sequence<Index...>) {
        (void)arguments;
        kernel(*static_cast<std::remove_cv_t<Parameters> *>(arguments[Index])...);
    }
    static void call(void **arguments) {
        unpack(arguments, std::index_sequence_for<Parameters...>{});
    }
    static std::vector<size_t> sizes() { return {sizeof(Parameters)...}; }
};

} // namespace cuda_on_cpu

#define MQ_REGISTER_KERNEL(kernel, may_depend_on_order)                                            \
    static cuda_on_cpu::KernelRegistration mq_registration_of_##kernel(                            \
        {#kernel, cuda_on_cpu::KernelCall<&kernel>::call,                                          \
         cuda_on_cpu::KernelCall<&kernel>::sizes(), may_depend_on_order});

// Both are followed by no semicolon, as with nvcc, where they are nothing.
#define MQ_REGISTER(kernel) MQ_REGISTER_KERNEL(kernel, false)
#define MQ_REGISTER_UNORDERED(kernel) MQ_REGISTER_KERNEL(kernel, true)
