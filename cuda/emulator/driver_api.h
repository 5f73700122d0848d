// The functions of the CUDA driver that the mock has, declared without NVIDIA's headers. Handles
// are opaque, statuses are plain integers with the driver's numbers.
#pragma once

#include <cstddef>
#include <cstdint>

#define MQ_MOCK_EXPORT extern "C" __attribute__((visibility("default")))

namespace mock {
struct Context;
struct Module;
struct Function;
struct Stream;
struct Event;
struct Graph;
struct GraphExec;
} // namespace mock

using CUresult = int;
using CUdevice = int;
using CUdeviceptr = unsigned long long;
using CUcontext = mock::Context *;
using CUmodule = mock::Module *;
using CUfunction = mock::Function *;
using CUstream = mock::Stream *;
using CUevent = mock::Event *;
using CUgraph = mock::Graph *;
using CUgraphExec = mock::GraphExec *;

enum : CUresult {
    kSuccess = 0,
    kInvalidValue = 1,
    kOutOfMemory = 2,
    kNotInitialized = 3,
    kNoDevice = 100,
    kInvalidDevice = 101,
    kInvalidImage = 200,
    kInvalidContext = 201,
    kInvalidHandle = 400,
    kIllegalState = 401,
    kNotFound = 500,
    kNotReady = 600,
    kIllegalAddressError = 700,
    kContextIsDestroyed = 709,
    kMisalignedAddressError = 716,
    kLaunchFailedError = 719,
    kCaptureUnsupported = 900,
    kCaptureInvalidated = 901,
    kCaptureUnmatched = 903,
    kCaptureUnjoined = 904,
    kCaptureIsolation = 905,
    kCaptureImplicit = 906,
    kCapturedEvent = 907,
    kCaptureWrongThread = 908,
};

// driver_device.cpp
MQ_MOCK_EXPORT CUresult cuInit(unsigned flags);
MQ_MOCK_EXPORT CUresult cuDriverGetVersion(int *version);
MQ_MOCK_EXPORT CUresult cuDeviceGetCount(int *count);
MQ_MOCK_EXPORT CUresult cuDeviceGet(CUdevice *device, int ordinal);
MQ_MOCK_EXPORT CUresult cuDeviceGetName(char *name, int capacity, CUdevice device);
MQ_MOCK_EXPORT CUresult cuDeviceGetAttribute(int *value, int attribute, CUdevice device);
MQ_MOCK_EXPORT CUresult cuDeviceTotalMem_v2(size_t *bytes, CUdevice device);
MQ_MOCK_EXPORT CUresult cuDeviceGetUuid_v2(void *uuid, CUdevice device);
MQ_MOCK_EXPORT CUresult cuGetErrorName(CUresult error, const char **name);
MQ_MOCK_EXPORT CUresult cuGetErrorString(CUresult error, const char **text);
MQ_MOCK_EXPORT CUresult cuGetProcAddress_v2(const char *symbol, void **function, int version,
                                            uint64_t flags, int *status);

// driver_context.cpp
MQ_MOCK_EXPORT CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device);
MQ_MOCK_EXPORT CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device);
MQ_MOCK_EXPORT CUresult cuDevicePrimaryCtxReset_v2(CUdevice device);
MQ_MOCK_EXPORT CUresult cuDevicePrimaryCtxGetState(CUdevice device, unsigned *flags, int *active);
MQ_MOCK_EXPORT CUresult cuCtxCreate_v2(CUcontext *context, unsigned flags, CUdevice device);
MQ_MOCK_EXPORT CUresult cuCtxCreate_v3(CUcontext *context, void *affinity, int count,
                                       unsigned flags, CUdevice device);
MQ_MOCK_EXPORT CUresult cuCtxCreate_v4(CUcontext *context, void *parameters, unsigned flags,
                                       CUdevice device);
MQ_MOCK_EXPORT CUresult cuCtxDestroy_v2(CUcontext context);
MQ_MOCK_EXPORT CUresult cuCtxGetCurrent(CUcontext *context);
MQ_MOCK_EXPORT CUresult cuCtxSetCurrent(CUcontext context);
MQ_MOCK_EXPORT CUresult cuCtxPushCurrent_v2(CUcontext context);
MQ_MOCK_EXPORT CUresult cuCtxPopCurrent_v2(CUcontext *context);
MQ_MOCK_EXPORT CUresult cuCtxGetDevice(CUdevice *device);
MQ_MOCK_EXPORT CUresult cuCtxGetFlags(unsigned *flags);
MQ_MOCK_EXPORT CUresult cuCtxGetApiVersion(CUcontext context, unsigned *version);
MQ_MOCK_EXPORT CUresult cuCtxGetStreamPriorityRange(int *least, int *greatest);
MQ_MOCK_EXPORT CUresult cuCtxSynchronize();

// driver_module.cpp
MQ_MOCK_EXPORT CUresult cuModuleLoadData(CUmodule *module, const void *image);
MQ_MOCK_EXPORT CUresult cuModuleLoadDataEx(CUmodule *module, const void *image, unsigned count,
                                           int *options, void **values);
MQ_MOCK_EXPORT CUresult cuModuleUnload(CUmodule module);
MQ_MOCK_EXPORT CUresult cuModuleGetFunction(CUfunction *function, CUmodule module,
                                            const char *name);
MQ_MOCK_EXPORT CUresult cuFuncGetAttribute(int *value, int attribute, CUfunction function);
MQ_MOCK_EXPORT CUresult cuFuncSetAttribute(CUfunction function, int attribute, int value);
MQ_MOCK_EXPORT CUresult cuFuncSetCacheConfig(CUfunction function, int config);
MQ_MOCK_EXPORT CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks,
                                                                    CUfunction function, int size,
                                                                    size_t shared);
MQ_MOCK_EXPORT CUresult cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
    int *blocks, CUfunction function, int size, size_t shared, unsigned flags);
MQ_MOCK_EXPORT CUresult cuLaunchKernel(CUfunction function, unsigned grid_x, unsigned grid_y,
                                       unsigned grid_z, unsigned block_x, unsigned block_y,
                                       unsigned block_z, unsigned shared, CUstream stream,
                                       void **parameters, void **extra);

// driver_stream.cpp and driver_event.cpp
MQ_MOCK_EXPORT CUresult cuStreamCreate(CUstream *stream, unsigned flags);
MQ_MOCK_EXPORT CUresult cuStreamCreateWithPriority(CUstream *stream, unsigned flags, int priority);
MQ_MOCK_EXPORT CUresult cuStreamDestroy_v2(CUstream stream);
MQ_MOCK_EXPORT CUresult cuStreamSynchronize(CUstream stream);
MQ_MOCK_EXPORT CUresult cuStreamQuery(CUstream stream);
MQ_MOCK_EXPORT CUresult cuStreamGetCtx(CUstream stream, CUcontext *context);
MQ_MOCK_EXPORT CUresult cuStreamGetFlags(CUstream stream, unsigned *flags);
MQ_MOCK_EXPORT CUresult cuStreamWaitEvent(CUstream stream, CUevent event, unsigned flags);
MQ_MOCK_EXPORT CUresult cuLaunchHostFunc(CUstream stream, void (*function)(void *), void *data);
MQ_MOCK_EXPORT CUresult cuEventCreate(CUevent *event, unsigned flags);
MQ_MOCK_EXPORT CUresult cuEventRecord(CUevent event, CUstream stream);
MQ_MOCK_EXPORT CUresult cuEventSynchronize(CUevent event);
MQ_MOCK_EXPORT CUresult cuEventQuery(CUevent event);
MQ_MOCK_EXPORT CUresult cuEventElapsedTime(float *milliseconds, CUevent start, CUevent end);
MQ_MOCK_EXPORT CUresult cuEventElapsedTime_v2(float *milliseconds, CUevent start, CUevent end);
MQ_MOCK_EXPORT CUresult cuEventDestroy_v2(CUevent event);

// driver_graph.cpp
MQ_MOCK_EXPORT CUresult cuStreamBeginCapture_v2(CUstream stream, int mode);
MQ_MOCK_EXPORT CUresult cuStreamEndCapture(CUstream stream, CUgraph *graph);
MQ_MOCK_EXPORT CUresult cuStreamIsCapturing(CUstream stream, int *status);
MQ_MOCK_EXPORT CUresult cuStreamGetCaptureInfo_v2(CUstream stream, int *status, uint64_t *id,
                                                  CUgraph *graph, const void **dependencies,
                                                  size_t *count);
MQ_MOCK_EXPORT CUresult cuThreadExchangeStreamCaptureMode(int *mode);
MQ_MOCK_EXPORT CUresult cuGraphInstantiateWithFlags(CUgraphExec *exec, CUgraph graph,
                                                    unsigned long long flags);
MQ_MOCK_EXPORT CUresult cuGraphInstantiate_v2(CUgraphExec *exec, CUgraph graph, void **node,
                                              char *log, size_t capacity);
MQ_MOCK_EXPORT CUresult cuGraphUpload(CUgraphExec exec, CUstream stream);
MQ_MOCK_EXPORT CUresult cuGraphLaunch(CUgraphExec exec, CUstream stream);
MQ_MOCK_EXPORT CUresult cuGraphDestroy(CUgraph graph);
MQ_MOCK_EXPORT CUresult cuGraphExecDestroy(CUgraphExec exec);

// driver_memory.cpp and driver_copy.cpp
MQ_MOCK_EXPORT CUresult cuMemAlloc_v2(CUdeviceptr *address, size_t bytes);
MQ_MOCK_EXPORT CUresult cuMemFree_v2(CUdeviceptr address);
MQ_MOCK_EXPORT CUresult cuMemAllocAsync(CUdeviceptr *address, size_t bytes, CUstream stream);
MQ_MOCK_EXPORT CUresult cuMemFreeAsync(CUdeviceptr address, CUstream stream);
MQ_MOCK_EXPORT CUresult cuMemGetInfo_v2(size_t *free, size_t *total);
MQ_MOCK_EXPORT CUresult cuMemHostAlloc(void **address, size_t bytes, unsigned flags);
MQ_MOCK_EXPORT CUresult cuMemFreeHost(void *address);
MQ_MOCK_EXPORT CUresult cuPointerGetAttribute(void *data, int attribute, CUdeviceptr address);
MQ_MOCK_EXPORT CUresult cuPointerGetAttributes(unsigned count, int *attributes, void **data,
                                               CUdeviceptr address);
MQ_MOCK_EXPORT CUresult cuMemcpyHtoD_v2(CUdeviceptr to, const void *from, size_t bytes);
MQ_MOCK_EXPORT CUresult cuMemcpyDtoH_v2(void *to, CUdeviceptr from, size_t bytes);
MQ_MOCK_EXPORT CUresult cuMemcpyDtoD_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes);
MQ_MOCK_EXPORT CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void *from, size_t bytes,
                                             CUstream stream);
MQ_MOCK_EXPORT CUresult cuMemcpyDtoHAsync_v2(void *to, CUdeviceptr from, size_t bytes,
                                             CUstream stream);
MQ_MOCK_EXPORT CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes,
                                             CUstream stream);
MQ_MOCK_EXPORT CUresult cuMemsetD8_v2(CUdeviceptr to, unsigned char value, size_t count);
MQ_MOCK_EXPORT CUresult cuMemsetD32_v2(CUdeviceptr to, unsigned value, size_t count);
MQ_MOCK_EXPORT CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t count,
                                        CUstream stream);
MQ_MOCK_EXPORT CUresult cuMemsetD32Async(CUdeviceptr to, unsigned value, size_t count,
                                         CUstream stream);
