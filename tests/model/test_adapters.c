/* LoRA adapters: logits are libllama's with the same adapters, byte for byte; what is no adapter, or another model's, is refused. */
#define TEST_THREADS 1
#include "model_test.h"

#include <sys/stat.h>

#include "adapter.h"

enum { CONTEXT = 256, PROMPT = 20, DECODED = 8 };

static const adapter_settings usual = {.rank = 4, .alpha = 8, .seed = 1, .size = 0.2f};

static const char *make_adapter(char path[512], const char *model, const char *name, const adapter_settings *settings) {
    assert_true(write_adapter(model, scratch_path(path, name), settings));
    return path;
}

static sp_status open_with(const char *path, const sp_adapter *adapters, size_t n, sp_model **model, sp_error *err) {
    const sp_model_options options = {.adapters = adapters, .n_adapters = n};
    return sp_model_open_cached(NULL, path, &options, model, err);
}

static void set_adapters(oracle *o, const sp_adapter *adapters, size_t n) {
    struct llama_adapter_lora *loaded[SP_MAX_ADAPTERS];
    float scales[SP_MAX_ADAPTERS];
    for (size_t i = 0; i < n; i++) {
        loaded[i] = llama_adapter_lora_init(o->model, adapters[i].path);
        assert_non_null(loaded[i]);
        scales[i] = adapters[i].scale;
    }
    assert_int_equal(llama_set_adapters_lora(o->context, loaded, n, scales), 0);
}

static double difference(const float *a, const float *b, size_t n) {
    double error = 0, squares = 0;
    for (size_t i = 0; i < n; i++) {
        error += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
        squares += (double)b[i] * (double)b[i];
    }
    return error / squares;
}

/* With one adapter the same bytes. Several are added in the order of a hash table of libllama's: near is enough. */
static void compare(const char *path, const char *device, const sp_adapter *adapters, size_t n) {
    sp_model *model = NULL;
    sp_error err = {0};
    must(open_with(path, adapters, n, &model, &err), &err);
    runner r = open_runner(model, device, CONTEXT);
    oracle o = open_oracle(path, CONTEXT), plain = open_oracle(path, CONTEXT);
    set_adapters(&o, adapters, n);
    int32_t tokens[PROMPT];
    for (int32_t i = 0; i < PROMPT; i++) {
        tokens[i] = 7 + 3 * i;
    }
    for (uint32_t past = 0, step = PROMPT; past < PROMPT + DECODED; past += step, step = 1) {
        const float *wanted = oracle_decode(&o, tokens, step, past, 1), *got = runner_decode(&r, tokens, step, past, 1);
        if (n == 1) {
            assert_memory_equal(got, wanted, r.n_vocab * sizeof *got);
        } else {
            assert_true(difference(got, wanted, r.n_vocab) < 1e-9);
        }
        assert_true(difference(got, oracle_decode(&plain, tokens, step, past, 1), r.n_vocab) > 1e-3); /* the adapter matters */
        tokens[0] = (int32_t)(past % 50 + 5);
    }
    close_oracle(&o);
    close_oracle(&plain);
    close_runner(&r);
    sp_model_close(model);
}

static void test_equal_to_libllama(void **state) {
    (void)state;
    static const char *const architectures[] = {"llama", "phi3"};
    for (size_t i = 0; i < sizeof architectures / sizeof architectures[0]; i++) {
        char model[512], path[512];
        write_tiny(model, architectures[i], SP_TYPE_Q8_0);
        make_adapter(path, model, "adapter.gguf", &usual);
        compare(model, "cpu", &(sp_adapter){.path = path, .scale = 1}, 1);
        compare(model, "cpu", &(sp_adapter){.path = path, .scale = -0.5f}, 1);
        unlink(path);
        unlink(model);
    }
}

static void test_converted_weights_and_separate_memory(void **state) {
    (void)state;
    char model[512], path[512];
    adapter_settings settings = usual;
    settings.alpha = 0;
    write_tiny(model, "llama", SP_TYPE_Q4_0);
    make_adapter(path, model, "adapter.gguf", &settings);
    compare(model, "cpu", &(sp_adapter){.path = path, .scale = 0.7f}, 1);
    compare(model, "discrete", &(sp_adapter){.path = path, .scale = 0.7f}, 1);
    settings.rank = 32, settings.type = GGML_TYPE_Q4_0; /* of a type that would be converted if it were the model's */
    make_adapter(path, model, "adapter.gguf", &settings);
    compare(model, "cpu", &(sp_adapter){.path = path, .scale = 1}, 1);
    unlink(path);
    unlink(model);
}

static void test_several(void **state) {
    (void)state;
    char model[512], first[512], second[512];
    adapter_settings settings = usual;
    write_tiny(model, "llama", SP_TYPE_Q8_0);
    make_adapter(first, model, "first.gguf", &settings);
    settings.seed = 2, settings.rank = 3;
    make_adapter(second, model, "second.gguf", &settings);
    compare(model, "cpu", (sp_adapter[]){{first, 1}, {second, 0.5f}}, 2);
    settings.rank = 4; /* now the tensors differ in their values alone */
    make_adapter(second, model, "second.gguf", &settings);
    compare(model, "cpu", (sp_adapter[]){{first, 1}, {second, 0.5f}}, 2);
    unlink(first);
    unlink(second);
    unlink(model);
}

static void take_fingerprint(const char *model, const char *path, float scale, char out[33]) {
    sp_model *opened = NULL;
    sp_error err = {0};
    must(open_with(model, &(sp_adapter){path, scale}, 1, &opened, &err), &err);
    snprintf(out, 33, "%s", sp_model_fingerprint(opened));
    sp_model_close(opened);
}

/* Adapters of one training differ in their values alone. */
static void test_fingerprint(void **state) {
    (void)state;
    char model[512], path[512], a[33], b[33];
    adapter_settings settings = usual;
    write_tiny(model, "llama", SP_TYPE_Q8_0);
    make_adapter(path, model, "adapter.gguf", &settings);
    take_fingerprint(model, path, 1, a);
    take_fingerprint(model, path, 1, b);
    assert_string_equal(a, b);
    take_fingerprint(model, path, 0.5f, b);
    assert_string_not_equal(a, b);
    settings.seed = 9;
    make_adapter(path, model, "adapter.gguf", &settings);
    take_fingerprint(model, path, 1, b);
    assert_string_not_equal(a, b);
    sp_model *plain = open_model(model);
    assert_string_not_equal(a, sp_model_fingerprint(plain));
    sp_model_close(plain);
    unlink(path);
    unlink(model);
}

/* Refused when the model is opened, or else when its program is asked for; with the words. */
static void refuse(const char *model, const char *adapter, float scale, const char *words) {
    sp_model *opened = NULL;
    sp_error err = {0};
    sp_status status = open_with(model, &(sp_adapter){adapter, scale}, 1, &opened, &err);
    if (status == SP_OK) {
        const void *bytes;
        uint64_t size;
        status = sp_model_get_program(opened, &(sp_program_wish){.type_k = SP_TYPE_F16, .type_v = SP_TYPE_F16}, &bytes, &size, &err);
    } else {
        assert_null(opened);
        assert_non_null(strstr(err.message, adapter));
    }
    sp_model_close(opened);
    assert_int_not_equal(status, SP_OK);
    if (!strstr(err.message, words)) {
        fail_msg("not \"%s\" but: %s", words, err.message);
    }
}

static void test_refusals(void **state) {
    (void)state;
    char model[512], path[512];
    write_tiny(model, "llama", SP_TYPE_Q8_0);
    adapter_settings settings = usual;
    refuse(model, "/nowhere/adapter.gguf", 1, "no such file");
    refuse(model, model, 1, "not a LoRA adapter");
    refuse(model, "/dev/null", 1, "not a file");
    make_adapter(path, model, "adapter.gguf", &settings);
    refuse(model, path, NAN, "no number");
    settings.architecture = "qwen2";
    refuse(model, make_adapter(path, model, "adapter.gguf", &settings), 1, "another architecture");
    settings = usual, settings.without = "attn_q.weight.lora_b";
    refuse(model, make_adapter(path, model, "adapter.gguf", &settings), 1, "missing one component");
    settings = usual, settings.wider = 32;
    refuse(model, make_adapter(path, model, "adapter.gguf", &settings), 1, "incorrect shape");
    unlink(path);
    unlink(model);
}

static void test_truncated(void **state) {
    (void)state;
    char model[512], path[512];
    struct stat info;
    write_tiny(model, "llama", SP_TYPE_Q8_0);
    make_adapter(path, model, "adapter.gguf", &usual);
    assert_int_equal(stat(path, &info), 0);
    for (off_t length = info.st_size - 1; length > 0; length = length * 3 / 4) {
        assert_int_equal(truncate(path, length), 0);
        refuse(model, path, 1, "");
    }
    assert_int_equal(truncate(path, 0), 0);
    refuse(model, path, 1, "");
    unlink(path);
    unlink(model);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equal_to_libllama), cmocka_unit_test(test_converted_weights_and_separate_memory),
        cmocka_unit_test(test_several),           cmocka_unit_test(test_fingerprint),
        cmocka_unit_test(test_refusals),          cmocka_unit_test(test_truncated),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
