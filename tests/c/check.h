/* Checks that count themselves; a failed one prints where it is and mq's last error. */
#ifndef MQ_TESTS_CHECK_H
#define MQ_TESTS_CHECK_H

#include "mq.h"

/* A condition holds. */
#define CHECK(condition) check_true((condition) != 0, #condition, __FILE__, __LINE__)

/* A call answers a status; any but MQ_OK must come with one line of text. */
#define CHECK_STATUS(call, status) check_status((call), (status), #call, __FILE__, __LINE__)

/* The text of the last failed call contains a piece. */
#define CHECK_SAYS(piece) check_says((piece), __FILE__, __LINE__)

/* `count` floats are equal, bit for bit but for the sign of zero. */
#define CHECK_FLOATS(got, want, count)                                                             \
    check_floats((got), (want), (count), #got, __FILE__, __LINE__)

void check_true(int holds, const char *text, const char *file, int line);
void check_status(mq_status got, mq_status want, const char *text, const char *file, int line);
void check_says(const char *piece, const char *file, int line);
void check_floats(const float *got, const float *want, size_t count, const char *text,
                  const char *file, int line);

/* Prints "N passed, M failed" and returns the exit code. */
int check_report(void);

#endif
