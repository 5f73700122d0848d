/* The C ABI as a C program sees it: every function, every status its documentation names. */
#include <string.h>

#include "check.h"
#include "tests.h"

int main(int argc, char **argv) {
    CHECK(mq_version() == MQ_VERSION); /* not some older libmq.so */
    CHECK(mq_abi_version() == MQ_ABI_VERSION);
    if (argc > 1 && strcmp(argv[1], "cuda") == 0) {
        test_cuda();
        test_cuda_search();
        return check_report();
    }
    test_context();
    test_sizes();
    test_presets();
    test_model();
    test_handles();
    test_taps();
    test_tensors();
    test_fake_quant();
    test_numbers();
    test_quantize();
    test_config();
    test_verbs();
    test_selection();
    test_amax_verbs();
    test_quantizer();
    test_calibration();
    test_progress();
    test_resume();
    test_plan();
    test_check();
    test_fold_pqs();
    test_compress();
    test_requantize();
    test_auto_quantize();
    test_auto_quantize_solve();
    test_auto_quantize_bad();
    test_auto_quantize_host();
    test_auto_quantize_checkpoint();
    test_auto_quantize_runs();
    test_auto_quantize_memory();
    test_auto_quantize_kinds();
    test_cuda();
    test_cuda_search();
    test_callbacks();
    test_release();
    test_busy();
    test_threads();
    return check_report();
}
