// Checks that count themselves, as tests/c/check.h.
#ifndef MQ_TESTS_CHECK_HPP
#define MQ_TESTS_CHECK_HPP

#include <string>

#include "mq.hpp"

#define CHECK(condition) check_true(static_cast<bool>(condition), #condition, __FILE__, __LINE__)

/// The statement throws an mq::Error of a status.
#define CHECK_THROWS(statement, wanted)                                                            \
    do {                                                                                           \
        mq_status status = MQ_OK;                                                                  \
        std::string text;                                                                          \
        try {                                                                                      \
            statement;                                                                             \
        } catch (const mq::Error &error) {                                                         \
            status = error.status();                                                               \
            text = error.what();                                                                   \
        }                                                                                          \
        check_true(status == (wanted) && !text.empty(), #statement " throws " #wanted, __FILE__,   \
                   __LINE__);                                                                      \
    } while (false)

void check_true(bool holds, const char *text, const char *file, int line);

void test_tensors();
void test_model();
void test_callbacks();
void test_calibration();
void test_auto_quantize();
void test_compress();
void test_requantize();
void test_lifetime();
void test_second_unit(const mq::Context &from_first_unit);

#endif
