/*
 * The guest's logits against libllama's: same tokens, same batches, same threads. It is the same graph on the same kernels, so on the CPU they are
 * the same bytes.
 */
#include "model/synthetic.h"
#include "support.h"

#include "samepage/program.h"

enum { THREADS = 2, N_CTX = 2048, POSITIONS = 1024 };

/* Evaluates tokens in batches of the given size on both sides and counts logits that differ. */
static size_t differing(session *s, oracle *o, const int32_t *tokens, int from, int to, int batch) {
    size_t wrong = 0;
    for (int at = from; at < to; at += batch) {
        int n = to - at < batch ? to - at : batch;
        session_eval(s, tokens + at, (uint32_t)n, true);
        oracle_eval(o, tokens + at, n, at);
        assert_int_equal(s->n_rows, n);
        assert_int_equal(s->n_vocab, o->n_vocab);
        for (int i = 0; i < n; i++) {
            const float *theirs = llama_get_logits_ith(o->context, i), *ours = s->logits + (size_t)i * s->n_vocab;
            wrong += memcmp(theirs, ours, s->n_vocab * sizeof(float)) != 0;
        }
    }
    return wrong;
}

static void compare(const char *path) {
    session *s = session_open(path, "cpu", THREADS);
    session_greedy(s, N_CTX, 1);
    oracle o = oracle_open(path, N_CTX, THREADS);
    int32_t tokens[POSITIONS];
    uint32_t seed = 12345;
    for (int i = 0; i < POSITIONS; i++) {
        seed = seed * 1664525 + 1013904223;
        tokens[i] = (int32_t)((seed >> 8) % (uint32_t)o.n_vocab);
    }
    /* Prefill in batches of several sizes, then one at a time, across the steps at which the graph's n_kv grows. */
    assert_int_equal(differing(s, &o, tokens, 0, 600, 512), 0);
    assert_int_equal(differing(s, &o, tokens, 600, 700, 33), 0);
    assert_int_equal(differing(s, &o, tokens, 700, POSITIONS, 1), 0);
    oracle_close(&o);
    session_close(s);
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
