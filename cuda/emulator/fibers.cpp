// The switch between stacks, in assembly: ucontext would make system calls, setjmp cannot start a
// stack.
#include "fibers.h"

#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>

#if defined(__x86_64__)
asm(R"(
    .text
    .globl cuda_on_cpu_switch
    .hidden cuda_on_cpu_switch
    .type cuda_on_cpu_switch, @function
cuda_on_cpu_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size cuda_on_cpu_switch, .-cuda_on_cpu_switch
)");
// Six registers, the address to return to, and 8 bytes for the alignment of a function's entry.
static constexpr size_t kFrameWords = 8, kReturnWord = 6;
#elif defined(__aarch64__)
asm(R"(
    .text
    .globl cuda_on_cpu_switch
    .hidden cuda_on_cpu_switch
    .type cuda_on_cpu_switch, %function
cuda_on_cpu_switch:
    sub sp, sp, #160
    stp x29, x30, [sp, #0]
    stp x19, x20, [sp, #16]
    stp x21, x22, [sp, #32]
    stp x23, x24, [sp, #48]
    stp x25, x26, [sp, #64]
    stp x27, x28, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x9, sp
    str x9, [x0]
    mov sp, x1
    ldp x29, x30, [sp, #0]
    ldp x19, x20, [sp, #16]
    ldp x21, x22, [sp, #32]
    ldp x23, x24, [sp, #48]
    ldp x25, x26, [sp, #64]
    ldp x27, x28, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #160
    ret
    .size cuda_on_cpu_switch, .-cuda_on_cpu_switch
)");
static constexpr size_t kFrameWords = 20, kReturnWord = 1;
#else
#error "the emulator knows x86-64 and aarch64"
#endif

namespace cuda_on_cpu {

static constexpr size_t kStackBytes = 128 << 10, kGuardBytes = 64 << 10;

Stacks::~Stacks() {
    for (unsigned char *lowest : lowest_) {
        munmap(lowest, kGuardBytes + kStackBytes);
    }
}

void Stacks::reserve(size_t count) {
    while (lowest_.size() < count) {
        void *pages = mmap(nullptr, kGuardBytes + kStackBytes, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (pages == MAP_FAILED || mprotect(pages, kGuardBytes, PROT_NONE) != 0) {
            std::perror("mq mock: a stack for a CUDA thread");
            std::abort();
        }
        lowest_.push_back(static_cast<unsigned char *>(pages));
    }
}

void *Stacks::start(size_t index, void (*entry)()) {
    // Tops at different offsets in their pages: at equal ones all stacks would share a few cache
    // sets.
    unsigned char *top = lowest_[index] + kGuardBytes + kStackBytes - index % 12 * 320;
    auto *frame = reinterpret_cast<uint64_t *>(top) - kFrameWords;
    for (size_t word = 0; word < kFrameWords; ++word) {
        frame[word] = 0;
    }
    frame[kReturnWord] = reinterpret_cast<uint64_t>(entry);
    return frame;
}

} // namespace cuda_on_cpu
