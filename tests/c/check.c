/* The counters and texts behind check.h. Only the main thread checks. */
#include "check.h"

#include <stdio.h>
#include <string.h>

static int passed, failed;

static int count(int holds, const char *text, const char *file, int line) {
    if (holds) {
        passed++;
    } else {
        failed++;
        fprintf(stderr, "%s:%d: failed: %s\n", file, line, text);
        fprintf(stderr, "    last error: %s\n", mq_last_error_message());
    }
    return holds;
}

void check_true(int holds, const char *text, const char *file, int line) {
    count(holds, text, file, line);
}

void check_status(mq_status got, mq_status want, const char *text, const char *file, int line) {
    const char *message = mq_last_error_message();
    if (!count(got == want, text, file, line)) {
        fprintf(stderr, "    answered %s, expected %s\n", mq_status_name(got),
                mq_status_name(want));
    } else if (want != MQ_OK) {
        count(message[0] != '\0' && strchr(message, '\n') == NULL, "the error is one line of text",
              file, line);
    }
}

void check_says(const char *piece, const char *file, int line) {
    if (!count(strstr(mq_last_error_message(), piece) != NULL, "the last error says why", file,
               line)) {
        fprintf(stderr, "    expected in it: %s\n", piece);
    }
}

void check_floats(const float *got, const float *want, size_t count_of, const char *text,
                  const char *file, int line) {
    size_t i = 0;
    while (i < count_of && (got[i] == want[i] || (got[i] != got[i] && want[i] != want[i]))) {
        i++;
    }
    if (!count(i == count_of, text, file, line)) {
        fprintf(stderr, "    [%d] is %.9g, expected %.9g\n", (int)i, (double)got[i],
                (double)want[i]);
    }
}

int check_report(void) {
    printf("%d passed, %d failed\n", passed, failed);
    return failed == 0 ? 0 : 1;
}
