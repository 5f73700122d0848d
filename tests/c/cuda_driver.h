/* The few functions of the CUDA driver that a test needs, found at run time. */
#ifndef MQ_TESTS_CUDA_DRIVER_H
#define MQ_TESTS_CUDA_DRIVER_H

#include <stddef.h>
#include <stdint.h>

/* The driver's handles are pointers, its statuses numbers: 0 is success. */
struct cuda_driver {
    int (*init)(unsigned flags);
    int (*device_count)(int *count);
    int (*retain)(void **context, int device);
    int (*release)(int device);
    int (*push)(void *context);
    int (*pop)(void **context);
    int (*current)(void **context);
    int (*stream_create)(void **stream, unsigned flags);
    int (*stream_destroy)(void *stream);
    int (*stream_synchronize)(void *stream);
    int (*begin_capture)(void *stream, int mode);
    int (*end_capture)(void *stream, void **graph);
    int (*instantiate)(void **exec, void *graph, unsigned long long flags);
    int (*launch)(void *exec, void *stream);
    int (*graph_destroy)(void *graph);
    int (*exec_destroy)(void *exec);
    int (*allocate)(uint64_t *memory, size_t bytes);
    int (*free)(uint64_t memory);
    int (*to_device)(uint64_t memory, const void *from, size_t bytes);
    int (*to_host)(void *to, uint64_t memory, size_t bytes);
};

/* Loads and starts it. Returns 0 when there is no driver, or no device. */
int cuda_driver_load(struct cuda_driver *driver);

#endif
