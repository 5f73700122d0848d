#include "cuda_driver.h"

#include <dlfcn.h>
#include <string.h>

static void *library;

/* ISO C has no conversion from an object pointer to a function pointer; POSIX promises that the
 * bytes are the same. */
static int find(void *place, const char *name) {
    void *symbol = dlsym(library, name);
    memcpy(place, &symbol, sizeof symbol);
    return symbol != NULL;
}

int cuda_driver_load(struct cuda_driver *driver) {
    int count = 0;
    if (library == NULL)
        library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    return library != NULL && find(&driver->init, "cuInit") &&
           find(&driver->device_count, "cuDeviceGetCount") &&
           find(&driver->retain, "cuDevicePrimaryCtxRetain") &&
           find(&driver->release, "cuDevicePrimaryCtxRelease_v2") &&
           find(&driver->push, "cuCtxPushCurrent_v2") && find(&driver->pop, "cuCtxPopCurrent_v2") &&
           find(&driver->current, "cuCtxGetCurrent") &&
           find(&driver->stream_create, "cuStreamCreate") &&
           find(&driver->stream_destroy, "cuStreamDestroy_v2") &&
           find(&driver->stream_synchronize, "cuStreamSynchronize") &&
           find(&driver->begin_capture, "cuStreamBeginCapture_v2") &&
           find(&driver->end_capture, "cuStreamEndCapture") &&
           find(&driver->instantiate, "cuGraphInstantiateWithFlags") &&
           find(&driver->launch, "cuGraphLaunch") &&
           find(&driver->graph_destroy, "cuGraphDestroy") &&
           find(&driver->exec_destroy, "cuGraphExecDestroy") &&
           find(&driver->allocate, "cuMemAlloc_v2") && find(&driver->free, "cuMemFree_v2") &&
           find(&driver->to_device, "cuMemcpyHtoD_v2") &&
           find(&driver->to_host, "cuMemcpyDtoH_v2") && driver->init(0) == 0 &&
           driver->device_count(&count) == 0 && count > 0;
}
