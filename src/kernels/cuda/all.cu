// Every kernel of mq, in one unit.
#include "../absmax/absmax.cu"
#include "../channel_scale.cu"
#include "../fake_quant/fake_quant.cu"
#include "../perturbation/perturbation.cu"
