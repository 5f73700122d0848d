// Every kernel of mq, in one unit.
#include "../absmax/absmax.cu"
#include "../channel_scale.cu"
#include "../channel_squares/channel_squares.cu"
#include "../channel_stats/channel_stats.cu"
#include "../fake_quant/fake_quant.cu"
#include "../gram/gram.cu"
#include "../histogram/histogram.cu"
#include "../load_rows.cu"
