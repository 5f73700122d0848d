// A placeholder: how kernels are exported.
#pragma once

#define MQ_KERNEL(name) extern "C" __global__ void name
