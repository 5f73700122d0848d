// mq.hpp: C++17 face of mq.h, header only, with the folder mq beside it.
// SPDX-License-Identifier: MIT OR Apache-2.0
//
// A status other than MQ_OK becomes an mq::Error. Callbacks are any callable; what they throw stops
// the call they run in and reaches its caller with its own type. mq.h has the contract of each
// call.

#ifndef MQ_HPP
#define MQ_HPP

#include "mq.h"
#include "mq/auto_quantize.hpp"
#include "mq/base.hpp"
#include "mq/context.hpp"
#include "mq/layer.hpp"
#include "mq/layer_desc.hpp"
#include "mq/model.hpp"
#include "mq/presets.hpp"
#include "mq/quantizer.hpp"

#endif // MQ_HPP
