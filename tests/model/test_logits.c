/*
 * The guest's logits against libllama's: same tokens, same batches, same threads. It is the same graph on the same kernels, so on the CPU they are
 * the same bytes.
 */
#include "model/synthetic.h"
#include "support.h"

#include "samepage/program.h"
#include "threads.h"

enum { THREADS = SOME_THREADS(2), N_CTX = 2048, POSITIONS = 1024 };

/* Prefill in batches of several sizes, then one at a time, across the steps at which the graph's n_kv grows. */
static const struct {
    int to, batch;
} parts[] = {{600, 512}, {700, 33}, {POSITIONS, 1}};
enum { PARTS = sizeof parts / sizeof parts[0] };

/* The next batch from position `at` on. */
static int batch_at(int at) {
    int part = 0;
    while (at >= parts[part].to) {
        part++;
    }
    return parts[part].to - at < parts[part].batch ? parts[part].to - at : parts[part].batch;
}

/* One side after the other: threads that wait by turning, of the side that is not computing, would slow down the one that is. */
static float *evaluate_guest(const char *path, const int32_t *tokens, uint32_t *n_vocab) {
    session *s = session_open(path, "cpu", THREADS);
    session_greedy(s, N_CTX, 1);
    float *logits = NULL;
    for (int at = 0, n; at < POSITIONS; at += n) {
        n = batch_at(at);
        session_eval(s, tokens + at, (uint32_t)n, true);
        assert_int_equal(s->n_rows, n);
        *n_vocab = s->n_vocab;
        logits = logits ? logits : malloc((size_t)POSITIONS * s->n_vocab * sizeof *logits);
        assert_non_null(logits);
        memcpy(logits + (size_t)at * s->n_vocab, s->logits, (size_t)n * s->n_vocab * sizeof *logits);
    }
    session_close(s);
    return logits;
}

static void compare(const char *path) {
    oracle o = oracle_open(path, N_CTX, THREADS);
    int32_t tokens[POSITIONS];
    uint32_t seed = 12345, n_vocab = 0;
    for (int i = 0; i < POSITIONS; i++) {
        seed = seed * 1664525 + 1013904223;
        tokens[i] = (int32_t)((seed >> 8) % (uint32_t)o.n_vocab);
    }
    float *ours = evaluate_guest(path, tokens, &n_vocab);
    assert_int_equal(n_vocab, o.n_vocab);
    size_t wrong = 0;
    for (int at = 0, n; at < POSITIONS; at += n) {
        n = batch_at(at);
        oracle_eval(&o, tokens + at, n, at);
        for (int i = 0; i < n; i++) {
            wrong += memcmp(llama_get_logits_ith(o.context, i), ours + (size_t)(at + i) * n_vocab, n_vocab * sizeof *ours) != 0;
        }
    }
    assert_int_equal(wrong, 0);
    free(ours);
    oracle_close(&o);
}

static void test_pocket_q8_0(void **state) {
    (void)state;
    char *path = in_folder("SOURCE_DIR", "models/pocket/pocket-q8_0.gguf");
    compare(path);
    free(path);
}

static void test_pocket_f16(void **state) {
    (void)state;
    char *path = in_folder("SOURCE_DIR", "models/pocket/pocket-f16.gguf");
    compare(path);
    free(path);
}

static void tiny(const char *architecture, uint32_t type) {
    char *vocabulary = in_folder("SOURCE_DIR", "models/pocket/pocket-q8_0.gguf"), *path = in_folder("BUILD_DIR", architecture);
    strcat(path, type == SP_TYPE_F16 ? "-f16.gguf" : "-q8_0.gguf");
    sp_synthetic what = {.architecture = architecture,
                         .vocabulary = vocabulary,
                         .n_layer = 3,
                         .n_embd = 256,
                         .n_head = 8,
                         .n_head_kv = 2,
                         .n_ff = 512,
                         .n_ctx = 4096,
                         .type = type,
                         .seed = 7};
    sp_error err;
    if (sp_synthetic_write(&what, path, &err) != SP_OK) {
        fail_msg("%s", err.message);
    }
    compare(path);
    remove(path);
    free(vocabulary);
    free(path);
}

static void test_llama(void **state) {
    (void)state;
    tiny("llama", SP_TYPE_F16);
    tiny("llama", SP_TYPE_Q8_0);
}

static void test_qwen2(void **state) {
    (void)state;
    tiny("qwen2", SP_TYPE_F16);
    tiny("qwen2", SP_TYPE_Q8_0);
}

static void test_qwen3(void **state) {
    (void)state;
    tiny("qwen3", SP_TYPE_F16);
    tiny("qwen3", SP_TYPE_Q8_0);
}

static void test_phi3(void **state) {
    (void)state;
    tiny("phi3", SP_TYPE_F16);
    tiny("phi3", SP_TYPE_Q8_0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pocket_q8_0), cmocka_unit_test(test_pocket_f16), cmocka_unit_test(test_llama),
        cmocka_unit_test(test_qwen2),       cmocka_unit_test(test_qwen3),      cmocka_unit_test(test_phi3),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
