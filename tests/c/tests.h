/* One function for each file of tests; main() of harness.c calls them. */
#ifndef MQ_TESTS_TESTS_H
#define MQ_TESTS_TESTS_H

void test_context(void);
void test_presets(void);
void test_sizes(void);
void test_model(void);
void test_handles(void);
void test_taps(void);
void test_tensors(void);
void test_fake_quant(void);
void test_numbers(void);
void test_quantize(void);
void test_config(void);
void test_verbs(void);
void test_selection(void);
void test_amax_verbs(void);
void test_quantizer(void);
void test_calibration(void);
void test_progress(void);
void test_resume(void);
void test_plan(void);
void test_check(void);
void test_fold_pqs(void);
void test_compress(void);
void test_requantize(void);
void test_auto_quantize(void);
void test_auto_quantize_solve(void);
void test_auto_quantize_bad(void);
void test_auto_quantize_host(void);
void test_auto_quantize_checkpoint(void);
void test_auto_quantize_runs(void);
void test_auto_quantize_memory(void);
void test_auto_quantize_kinds(void);
void test_cuda(void);
void test_cuda_search(void);
void test_callbacks(void);
void test_release(void);
void test_busy(void);
void test_threads(void);

#endif
