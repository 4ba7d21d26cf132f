/*
 * Traced programs against libllama: same file, same tokens, same batches, same device, so the same bytes. And what a trace must not do: read weights,
 * believe a damaged cache, or accept what it doesn't know.
 */
#include "model_test.h"

#include <dirent.h>
#include <sys/stat.h>

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
        uint32_t ours, theirs;
        memcpy(&ours, &got[i], sizeof ours);
        memcpy(&theirs, &wanted[i], sizeof theirs);
        wrong += ours != theirs;
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

/* Phi 3 with two sets of rotation factors: right as far as the short ones reach, and no further. */
static void test_longrope(void **state) {
    (void)state;
    char path[512], vocabulary[512];
    sp_synthetic what = {.architecture = "phi3",
                         .vocabulary = source_path(vocabulary, "models/pocket/pocket-q8_0.gguf"),
                         .n_layer = 2,
                         .n_embd = 128,
                         .n_head = 4,
                         .n_head_kv = 2,
                         .n_ff = 256,
                         .n_ctx = 8192,
                         .n_ctx_original = 2048,
                         .type = SP_TYPE_F16,
                         .seed = 3};
    sp_error err = {0};
    const void *bytes = NULL;
    uint64_t size;
    must(sp_synthetic_write(&what, scratch_path(path, "longrope.gguf"), &err), &err);
    compare_with_libllama(path, "cpu");
    sp_model *model = open_model(path);
    runner r = open_runner(model, "cpu", 2048);
    uint64_t symbols[4] = {1, 256, 1, 2304};
    sp_spec_limits limits = {.flops = UINT64_MAX, .temporary_bytes = UINT64_MAX};
    sp_spec *spec = NULL;
    assert_int_equal(sp_program_specialise(r.program, symbols, 4, &limits, &spec, &err), SP_ERR_RANGE);
    close_runner(&r);
    sp_model_close(model);
    what.n_ctx_original = 1024;
    must(sp_synthetic_write(&what, path, &err), &err);
    model = open_model(path);
    assert_int_equal(sp_model_get_program(model, &(sp_program_wish){.type_k = SP_TYPE_F16, .type_v = SP_TYPE_F16}, &bytes, &size, &err),
                     SP_ERR_UNSUPPORTED);
    sp_model_close(model);
    unlink(path);
}

/* The folder of a test's own cache, empty. */
static const char *new_cache(char out[512]) {
    scratch_path(out, "cache");
    assert_int_equal(mkdir(out, 0700), 0);
    return out;
}

/* The only file of a folder; false: it is empty. */
static bool only_file(const char *folder, char out[1024]) {
    DIR *d = opendir(folder);
    assert_non_null(d);
    unsigned n = 0;
    for (struct dirent *entry; (entry = readdir(d));) {
        if (entry->d_name[0] != '.') {
            snprintf(out, 1024, "%s/%s", folder, entry->d_name);
            n++;
        }
    }
    closedir(d);
    assert_true(n <= 1);
    return n == 1;
}

static void count_traces(void *user, const char *what, double fraction) {
    *(unsigned *)user += strstr(what, "trac") != NULL && fraction == 0;
}

/* Opens with a cache, gets the program; how often that took a trace. */
static unsigned traces_needed(const char *cache, const char *path, uint64_t *size) {
    unsigned traces = 0;
    sp_model_options options = {.progress = count_traces, .progress_user = &traces};
    sp_model *model = NULL;
    sp_error err = {0};
    const void *bytes = NULL, *again = NULL;
    must(sp_model_open_cached(cache, path, &options, &model, &err), &err);
    must(sp_model_get_program(model, &(sp_program_wish){.type_k = SP_TYPE_F16, .type_v = SP_TYPE_F16}, &bytes, size, &err), &err);
    must(sp_model_get_program(model, &(sp_program_wish){.type_k = SP_TYPE_F16, .type_v = SP_TYPE_F16}, &again, size, &err), &err);
    assert_ptr_equal(bytes, again);
    sp_model_close(model);
    return traces;
}

static void test_cache(void **state) {
    (void)state;
    char cache[512], model[512], file[1024];
    uint64_t first, second;
    new_cache(cache);
    write_tiny(model, "llama", SP_TYPE_F16);
    assert_int_equal(traces_needed(cache, model, &first), 1);
    assert_true(only_file(cache, file));
    assert_int_equal(traces_needed(cache, model, &second), 0);
    assert_int_equal(first, second);
    for (uint64_t at = 0; at < first; at += first / 5) { /* a damaged file is traced again, and replaced */
        FILE *damaged = fopen(file, "r+b");
        assert_non_null(damaged);
        fseek(damaged, (long)at, SEEK_SET);
        int byte = fgetc(damaged);
        fseek(damaged, (long)at, SEEK_SET);
        fputc(byte ^ 1, damaged);
        fclose(damaged);
        assert_int_equal(traces_needed(cache, model, &second), 1);
        assert_int_equal(traces_needed(cache, model, &second), 0);
        assert_int_equal(first, second);
    }
    assert_int_equal(truncate(file, (off_t)first - 8), 0);
    assert_int_equal(traces_needed(cache, model, &second), 1);
    unlink(file);
    rmdir(cache);
    assert_int_equal(traces_needed("/nonexistent/cache", model, &second), 1); /* no cache, no error */
    unlink(model);
}

/* A trace of a model whose weights would fill 400 MB: the file's pages stay unread, and the memory for them untouched. */
static void test_reads_no_weights(void **state) {
    (void)state;
    char path[512];
    sp_synthetic what = {.architecture = "llama",
                         .n_vocab = 32000,
                         .n_layer = 4,
                         .n_embd = 2048,
                         .n_head = 16,
                         .n_head_kv = 4,
                         .n_ff = 5632,
                         .n_ctx = 4096,
                         .type = SP_TYPE_F16,
                         .seed = 1};
    sp_error err = {0};
    must(sp_synthetic_write(&what, scratch_path(path, "big.gguf"), &err), &err);
    sp_model *model = open_model(path);
    uint64_t before = sp_os_resident_bytes(), size;
    const void *bytes = NULL;
    must(sp_model_get_program(model, &(sp_program_wish){.type_k = SP_TYPE_F16, .type_v = SP_TYPE_F16}, &bytes, &size, &err), &err);
    uint64_t after = sp_os_resident_bytes();
    sp_model_info info;
    sp_model_get_info(model, &info);
    assert_true(info.weight_bytes > 400u << 20);
    assert_true(before > 0 && after < before + (64u << 20));
    sp_model_close(model);
    unlink(path);
}

static void test_cache_types(void **state) {
    (void)state;
    char path[512];
    sp_model *model = open_model(source_path(path, "models/pocket/pocket-q8_0.gguf"));
    sp_error err = {0};
    const void *bytes = NULL;
    uint64_t size;
    assert_int_equal(sp_model_get_program(model, &(sp_program_wish){.type_k = 4711, .type_v = SP_TYPE_F16}, &bytes, &size, &err), SP_ERR_ARGUMENT);
    assert_null(bytes);
    must(sp_model_get_program(model, &(sp_program_wish){.type_k = SP_TYPE_Q8_0, .type_v = SP_TYPE_Q8_0}, &bytes, &size, &err), &err);
    assert_non_null(bytes);
    sp_model_close(model);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pocket),        cmocka_unit_test(test_pocket_on_separate_memory),
        cmocka_unit_test(test_architectures), cmocka_unit_test(test_longrope),
        cmocka_unit_test(test_cache),         cmocka_unit_test(test_reads_no_weights),
        cmocka_unit_test(test_cache_types),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
