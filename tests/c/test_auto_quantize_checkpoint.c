/* The file that a search which was stopped goes on from. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "check.h"
#include "net.h"
#include "tests.h"

static char path[64];

static int exists(void) { return access(path, F_OK) == 0; }

static void net_init_kept(struct net *net) {
    net_init(net, 1, 0);
    net->options.checkpoint = path;
    net->options.num_score_steps = 3;
}

static char *undisturbed(void) {
    struct net net;
    net_init_kept(&net);
    net.options.checkpoint = NULL;
    CHECK_STATUS(net_search(&net), MQ_OK);
    char *state = net_state(&net);
    net_free(&net);
    return state;
}

/* A search that must give what one gives that was never stopped. */
static void goes_on(const char *want, struct net *net) {
    CHECK_STATUS(net_search(net), MQ_OK);
    char *got = net_state(net);
    CHECK(strcmp(got, want) == 0 && exists());
    free(got);
    net_free(net);
}

static void a_stopped_search_goes_on(void) {
    char *want = undisturbed();
    static const enum stage stages[] = {AT_DATA, AT_FORWARD, AT_LOSS, AT_BACKWARD, AT_PROGRESS};
    for (size_t i = 0; i < sizeof stages / sizeof *stages; i++) {
        for (int on = 1;; on++) {
            struct net net;
            struct net_snapshot snapshot;
            net_init_kept(&net);
            net.fails_at = stages[i];
            net.fails_on = on;
            net.result = 7;
            net_snapshot_take(&snapshot, &net);
            mq_status status = net_search(&net);
            CHECK(net_snapshot_holds(&snapshot, &net) == (status != MQ_OK));
            net_free(&net);
            if (status == MQ_OK) {
                CHECK(on > 3);
                break;
            }
            CHECK_STATUS(status, MQ_ERR_CALLBACK);
            net_init_kept(&net);
            goes_on(want, &net);
            CHECK(remove(path) == 0);
        }
        CHECK(remove(path) == 0);
    }
    free(want);
}

static void what_is_done_is_not_done_again(void) {
    char *want = undisturbed();
    struct net net;
    net_init_kept(&net);
    net.fails_at = AT_BACKWARD;
    net.fails_on = 3; /* the last step */
    net.result = 1;
    CHECK_STATUS(net_search(&net), MQ_ERR_CALLBACK);
    net_free(&net);
    net_init_kept(&net);
    CHECK_STATUS(net_search(&net), MQ_OK);
    CHECK(net.calls[AT_FORWARD] == 1 && net.calls[AT_BACKWARD] == 1 && net.batch == 2);
    net_free(&net);

    net_init_kept(&net); /* all is there: without data, and for another budget */
    net_ask(&net, "{'effective_bits': 5}", FP8_INT4);
    CHECK_STATUS(mq_auto_quantize(net.model, &net.options, NULL, NULL), MQ_OK);
    CHECK_STATUS(mq_auto_quantize_solve(net.model, "{\"effective_bits\": 8}", 0, NULL, 0, NULL),
                 MQ_OK);
    CHECK_STATUS(net_forward(&net, 0), MQ_OK);
    net_free(&net);
    net_init_kept(&net);
    memset(&net.host, 0, sizeof net.host);
    CHECK_STATUS(mq_auto_quantize(net.model, &net.options, &net.host, NULL), MQ_OK);
    char *got = net_state(&net);
    CHECK(strcmp(got, want) == 0);
    free(got);
    free(want);
    net_free(&net);
    CHECK(remove(path) == 0);
}

static void a_file_of_something_else_is_refused(void) {
    struct net net;
    char long_path[5000];
    net_init_kept(&net);
    CHECK_STATUS(net_search(&net), MQ_OK);
    net_free(&net);
    for (int change = 0; change < 7; change++) {
        net_init_kept(&net);
        if (change == 0) {
            net.options.num_calib_steps = 1;
        } else if (change == 1) {
            net.options.num_score_steps = 4;
        } else if (change == 2) {
            net.options.method = "kl_div";
        } else if (change == 3) {
            net_ask(&net, "{'effective_bits': 8}", "['FP8_DEFAULT_CFG']");
        } else if (change == 4) {
            net.options.disabled_layers = "\"scale\"";
        } else if (change == 5) {
            net.options.grouping_rules = "{\"replace\": []}";
        } else {
            net.out_weight[0] += 1.0f;
        }
        NET_REFUSES(&net, MQ_ERR_STATE, "Use a different checkpoint path");
        CHECK(net.calls[AT_DATA] == 0 && exists());
        net_free(&net);
    }
    FILE *file = fopen(path, "wb");
    CHECK(file != NULL && fputs("a letter to my aunt", file) >= 0 && fclose(file) == 0);
    net_init_kept(&net);
    NET_REFUSES(&net, MQ_ERR_STATE, path);
    CHECK(exists()); /* not ours to remove */
    CHECK(remove(path) == 0);
    memset(long_path, 'x', sizeof long_path - 1);
    long_path[sizeof long_path - 1] = '\0';
    const char *const paths[] = {"/tmp", "/nowhere/at/all", "/dev/null", "/dev/zero", long_path};
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
        net.options.checkpoint = paths[i];
        NET_REFUSES(&net, MQ_ERR_STATE, paths[i]);
        CHECK(net.calls[AT_DATA] == 0);
    }
    net_free_unharmed(&net);
}

static size_t read_file(char *bytes, size_t capacity) {
    FILE *file = fopen(path, "rb");
    CHECK(file != NULL);
    size_t length = fread(bytes, 1, capacity, file);
    CHECK(fclose(file) == 0 && length > 16 && length < capacity);
    return length;
}

static void write_file(const char *bytes, size_t length) {
    FILE *file = fopen(path, "wb");
    CHECK(file != NULL && fwrite(bytes, 1, length, file) == length && fclose(file) == 0);
}

static void a_cut_file_is_read_as_far_as_it_goes(void) {
    static char bytes[65536];
    char *want = undisturbed();
    struct net net;
    net_init_kept(&net);
    CHECK_STATUS(net_search(&net), MQ_OK);
    net_free(&net);
    size_t length = read_file(bytes, sizeof bytes);
    for (size_t keep = 0; keep <= length; keep += keep < 64 || keep + 64 > length ? 1 : 61) {
        write_file(bytes, keep);
        net_init_kept(&net);
        goes_on(want, &net);
        net_init_kept(&net); /* complete again */
        CHECK_STATUS(mq_auto_quantize(net.model, &net.options, NULL, NULL), MQ_OK);
        net_free(&net);
    }
    CHECK(remove(path) == 0);
    free(want);
}

/* Bytes that were changed are found out, or refused; never believed. */
static void a_damaged_file_is_not_believed(void) {
    static char bytes[65536];
    char *want = undisturbed();
    struct net net;
    net_init_kept(&net);
    CHECK_STATUS(net_search(&net), MQ_OK);
    net_free(&net);
    size_t length = read_file(bytes, sizeof bytes);
    for (size_t at = 0; at < length; at += at < 16 ? 1 : 53) {
        bytes[at] ^= (char)(1 << at % 8);
        write_file(bytes, length);
        bytes[at] ^= (char)(1 << at % 8);
        net_init_kept(&net);
        mq_status status = net_search(&net);
        if (status == MQ_OK) {
            char *got = net_state(&net);
            CHECK(strcmp(got, want) == 0);
            free(got);
        } else {
            CHECK_STATUS(status, MQ_ERR_STATE);
            CHECK(at < 16);
        }
        net_free(&net);
    }
    CHECK(remove(path) == 0);
    free(want);
}

void test_auto_quantize_checkpoint(void) {
    snprintf(path, sizeof path, "/tmp/mq-harness-%ld.search", (long)getpid());
    a_stopped_search_goes_on();
    what_is_done_is_not_done_again();
    a_file_of_something_else_is_refused();
    a_cut_file_is_read_as_far_as_it_goes();
    a_damaged_file_is_not_believed();
    CHECK(!exists());
}
