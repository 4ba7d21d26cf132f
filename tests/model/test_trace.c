/*
 * Traced programs against libllama: same file, same tokens, same batches, same device, so the same bytes. And what a trace must not do: read weights,
 * believe a damaged cache, or accept what it doesn't know.
 */
#include "model_test.h"

#include <dirent.h>

#include "memory/os.h"

/* A batch: how many tokens, and for how many of them logits. Together they reach position 1023 and each padded size of the cache. */
typedef struct step {
    uint32_t n, n_outputs;
} step;
static const step steps[] = {{37, 37}, {1, 1}, {1, 1},   {2, 1}, {214, 1}, {1, 1}, {1, 1},
                             {255, 2}, {1, 1}, {488, 3}, {1, 1}, {20, 20}, {1, 1}, {1, 1}};

static int32_t some_token(uint32_t position, uint32_t n_vocab) {
    return (int32_t)((position * 2654435761u >> 7) % n_vocab);
}

static void compare_rows(const float *got, const float *wanted, uint32_t n_vocab, uint32_t rows, uint32_t position) {
    uint32_t wrong = 0;
    for (uint32_t i = 0; i < rows * n_vocab; i++) {
        wrong += memcmp(&got[i], &wanted[i], sizeof got[i]) != 0;
    }
    if (wrong) {
        fail_msg("%u of %u logits of the batch that ends at position %u differ; the first is %.9g, not %.9g", wrong, rows * n_vocab, position,
                 (double)got[0], (double)wanted[0]);
    }
}

static void compare_with_libllama(const char *path, const char *device) {
    sp_model *model = open_model(path);
    runner r = open_runner(model, device, 1024);
    oracle o = open_oracle(path, 1024);
    int32_t tokens[MAX_BATCH];
    uint32_t n_past = 0;
    for (size_t s = 0; s < sizeof steps / sizeof steps[0]; s++) {
        for (uint32_t i = 0; i < steps[s].n; i++) {
            tokens[i] = some_token(n_past + i, r.n_vocab);
        }
        const float *got = runner_decode(&r, tokens, steps[s].n, n_past, steps[s].n_outputs);
        const float *wanted = oracle_decode(&o, tokens, steps[s].n, n_past, steps[s].n_outputs);
        n_past += steps[s].n;
        compare_rows(got, wanted, r.n_vocab, steps[s].n_outputs, n_past - 1);
    }
    assert_int_equal(n_past, 1024);
    close_oracle(&o);
    close_runner(&r);
    sp_model_close(model);
}

static void test_pocket(void **state) {
    (void)state;
    char path[512];
    compare_with_libllama(source_path(path, "models/pocket/pocket-f16.gguf"), "cpu");
    compare_with_libllama(source_path(path, "models/pocket/pocket-q8_0.gguf"), "cpu");
}

static void test_pocket_on_separate_memory(void **state) {
    (void)state;
    char path[512];
    compare_with_libllama(source_path(path, "models/pocket/pocket-q8_0.gguf"), "discrete");
}

static void test_architectures(void **state) {
    (void)state;
    static const char *const architectures[] = {"llama", "qwen2", "qwen3", "phi3"};
    static const uint32_t types[] = {SP_TYPE_F16, SP_TYPE_Q8_0, SP_TYPE_Q4_0};
    for (size_t a = 0; a < sizeof architectures / sizeof architectures[0]; a++) {
        for (size_t t = 0; t < sizeof types / sizeof types[0]; t++) {
            char path[512];
            write_tiny(path, architectures[a], types[t]);
            compare_with_libllama(path, "cpu");
            unlink(path);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pocket),
        cmocka_unit_test(test_pocket_on_separate_memory),
        cmocka_unit_test(test_architectures),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
