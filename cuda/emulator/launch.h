// A grid of blocks, run to its end.
#pragma once

#include "block.h"

namespace cuda_on_cpu {

/// Runs all blocks on up to `os_threads` threads. Device memory opens as the kernel gets to it, and
/// is closed again.
Fault run_grid(const Launch &launch, const Order &order, int os_threads);

/// Runs it in three orders on the same memory; a fault when they leave different contents there.
Fault run_grid_checked(const Launch &launch, const Order &order);

} // namespace cuda_on_cpu
