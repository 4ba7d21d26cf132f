/* Files that are no models, damaged models, and models of other kinds: each refused with the reason, none by an abort. And what a good file says of
 * itself. */
#include "model_test.h"

#include <fcntl.h>
#include <gguf.h>
#include <sys/stat.h>

#include "base/error.h"
#include "model/trace.h"

/* Changes the metadata of a model; the caller takes care of the tensors' bytes. */
typedef void (*change)(struct gguf_context *gguf);

static void write_bytes(const char *path, const void *bytes, size_t size) {
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, size, file), size);
    assert_int_equal(fclose(file), 0);
}

static uint8_t *read_bytes(const char *path, size_t *size) {
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    struct stat info;
    assert_int_equal(fstat(fileno(file), &info), 0);
    *size = (size_t)info.st_size;
    uint8_t *bytes = malloc(*size);
    assert_non_null(bytes);
    assert_int_equal(fread(bytes, 1, *size, file), *size);
    fclose(file);
    return bytes;
}

/* A tiny model with other metadata. */
static void write_changed(const char *from, const char *to, change apply) {
    struct gguf_context *gguf = gguf_init_from_file(from, (struct gguf_init_params){.no_alloc = true});
    assert_non_null(gguf);
    size_t at = gguf_get_data_offset(gguf), size;
    apply(gguf);
    assert_true(gguf_write_to_file(gguf, to, true));
    gguf_free(gguf);
    uint8_t *bytes = read_bytes(from, &size);
    FILE *file = fopen(to, "ab");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes + at, 1, size - at, file), size - at);
    fclose(file);
    free(bytes);
}

/* Opens, traces, and expects an error with these words from either. */
static void expect_refused(const char *path, sp_status status, const char *words) {
    sp_model *model = NULL;
    sp_error err = {0};
    sp_status got = sp_model_open_cached(NULL, path, NULL, &model, &err);
    if (got == SP_OK) {
        const void *bytes;
        uint64_t size;
        got = sp_model_get_program(model, &(sp_program_wish){.type_k = SP_TYPE_F16, .type_v = SP_TYPE_F16}, &bytes, &size, &err);
        assert_null(bytes);
    } else {
        assert_null(model);
    }
    sp_model_close(model);
    if (got != status || !strstr(err.message, words)) {
        fail_msg("wanted %s with \"%s\", got %s: %s", sp_status_name(status), words, sp_status_name(got), err.message);
    }
    assert_null(strchr(err.message, '\n'));
}

static void test_no_gguf(void **state) {
    (void)state;
    char path[512];
    expect_refused("/nonexistent/model.gguf", SP_ERR_NOT_FOUND, "/nonexistent/model.gguf: no such file");
    expect_refused("/", SP_ERR_IO, "not a file");
    scratch_path(path, "not.gguf");
    write_bytes(path, "", 0);
    expect_refused(path, SP_ERR_FORMAT, "not a GGUF file");
    write_bytes(path, "The red key is in the attic. It is not a model.", 47);
    expect_refused(path, SP_ERR_FORMAT, "not a GGUF file");
    unlink(path);
    assert_int_equal(mkfifo(path, 0600), 0);
    expect_refused(path, SP_ERR_IO, "not a file");
    unlink(path);
}

static void test_truncated(void **state) {
    (void)state;
    char whole[512], cut[512];
    write_tiny(whole, "llama", SP_TYPE_F16);
    scratch_path(cut, "cut.gguf");
    size_t size;
    uint8_t *bytes = read_bytes(whole, &size);
    struct gguf_context *gguf = gguf_init_from_file(whole, (struct gguf_init_params){.no_alloc = true});
    size_t data = gguf_get_data_offset(gguf);
    gguf_free(gguf);
    for (size_t length = 0; length < data; length += 1 + length / 7) { /* in the header: anywhere */
        write_bytes(cut, bytes, length);
        expect_refused(cut, SP_ERR_FORMAT, cut);
    }
    char words[64];
    snprintf(words, sizeof words, "the file has %zu", size - 1);
    write_bytes(cut, bytes, size - 1);
    expect_refused(cut, SP_ERR_FORMAT, words);
    write_bytes(cut, bytes, data + 5);
    expect_refused(cut, SP_ERR_FORMAT, "truncated: tensor token_embd.weight ends at byte");
    free(bytes);
    unlink(cut);
    unlink(whole);
}

/* Each byte of the counts and of the first keys, changed: an answer, whatever it is. */
static void test_damaged_header(void **state) {
    (void)state;
    char whole[512], damaged[512];
    write_tiny(whole, "llama", SP_TYPE_F16);
    scratch_path(damaged, "damaged.gguf");
    size_t size;
    uint8_t *bytes = read_bytes(whole, &size);
    unsigned refused = 0;
    for (size_t at = 4; at < 300; at++) {
        uint8_t was = bytes[at];
        bytes[at] ^= at & 1 ? 0xff : 0x80;
        write_bytes(damaged, bytes, size);
        sp_model *model = NULL;
        sp_error err = {0};
        refused += sp_model_open_cached(NULL, damaged, NULL, &model, &err) != SP_OK;
        sp_model_close(model);
        bytes[at] = was;
    }
    assert_true(refused > 100);
    free(bytes);
    unlink(damaged);
    unlink(whole);
}

static void no_architecture(struct gguf_context *g) {
    gguf_remove_key(g, "general.architecture");
}
static void unknown_architecture(struct gguf_context *g) {
    gguf_set_val_str(g, "general.architecture", "nonsense");
}
static void no_layers(struct gguf_context *g) {
    gguf_set_val_u32(g, "phi3.block_count", 0);
}
static void many_layers(struct gguf_context *g) {
    gguf_set_val_u32(g, "phi3.block_count", 3);
}
static void too_many_experts(struct gguf_context *g) {
    gguf_set_val_u32(g, "phi3.expert_count", 1025);
}
static void experts_from_nowhere(struct gguf_context *g) {
    gguf_set_val_u32(g, "phi3.expert_used_count", 2);
}
static void odd_heads(struct gguf_context *g) {
    gguf_set_val_u32(g, "phi3.attention.value_length", 1);
}
static void odd_rotation(struct gguf_context *g) {
    gguf_set_val_u32(g, "phi3.rope.dimension_count", 3);
}
static void twice_the_same_token(struct gguf_context *g) {
    const char *tokens[] = {"a", "b", "a"};
    gguf_set_arr_str(g, "tokenizer.ggml.tokens", tokens, 3);
}
static void unknown_scaling(struct gguf_context *g) {
    gguf_set_val_str(g, "phi3.rope.scaling.type", "nonsense");
}
static void huge_feed_forward(struct gguf_context *g) {
    gguf_set_val_u32(g, "phi3.feed_forward_length", 1 << 20);
}
static void endless_noise(struct gguf_context *g) {
    gguf_set_val_f32(g, "phi3.attention.layer_norm_rms_epsilon", -1);
}

static void test_hostile_metadata(void **state) {
    (void)state;
    static const struct {
        change apply;
        sp_status status;
        const char *words;
    } cases[] = {
        {no_architecture, SP_ERR_FORMAT, "general.architecture"},
        {unknown_architecture, SP_ERR_UNSUPPORTED, "unknown model architecture: 'nonsense'"},
        {no_layers, SP_ERR_FORMAT, "0 layers; 1 to 512"},
        {many_layers, SP_ERR_UNSUPPORTED, "layer 2 of 3"},
        {too_many_experts, SP_ERR_UNSUPPORTED, "LLAMA_MAX_EXPERTS"},
        {experts_from_nowhere, SP_ERR_UNSUPPORTED, "n_expert"},
        {odd_heads, SP_ERR_UNSUPPORTED, "phi3"},
        {odd_rotation, SP_ERR_UNSUPPORTED, "n_dims"},
        {twice_the_same_token, SP_ERR_UNSUPPORTED, "token_to_id"},
        {unknown_scaling, SP_ERR_UNSUPPORTED, "rope_scaling_type"},
        {endless_noise, SP_ERR_UNSUPPORTED, "eps is -1"},
        {huge_feed_forward, SP_ERR_UNSUPPORTED, "has wrong shape"},
    };
    char good[512], changed[512];
    write_tiny(good, "phi3", SP_TYPE_F16);
    scratch_path(changed, "changed.gguf");
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        write_changed(good, changed, cases[i].apply);
        expect_refused(changed, cases[i].status, cases[i].words);
    }
    unlink(changed);
    unlink(good);
}

/* The same numbers under another architecture's name. */
static void rename_architecture(struct gguf_context *g, const char *from, const char *architecture) {
    const size_t length = strlen(from);
    gguf_set_val_str(g, "general.architecture", architecture);
    for (int64_t i = 0, n = gguf_get_n_kv(g); i < n; i++) {
        const char *key = gguf_get_key(g, i);
        char renamed[96];
        if (strncmp(key, from, length) != 0 || key[length] != '.') {
            continue;
        }
        snprintf(renamed, sizeof renamed, "%s%s", architecture, key + length);
        if (gguf_get_kv_type(g, i) == GGUF_TYPE_FLOAT32) {
            gguf_set_val_f32(g, renamed, gguf_get_val_f32(g, i));
        } else {
            gguf_set_val_u32(g, renamed, gguf_get_val_u32(g, i));
        }
    }
}

static void with_encoder(struct gguf_context *g) {
    rename_architecture(g, "llama", "t5");
}
static void without_output(struct gguf_context *g) {
    rename_architecture(g, "llama", "internlm2");
}
static void without_numbers(struct gguf_context *g) {
    gguf_set_val_str(g, "general.architecture", "mamba");
    gguf_set_val_u32(g, "mamba.block_count", 2);
}

/* Architectures that libllama knows, with state, attention or tensors that the program would get wrong. */
static void test_unsupported(void **state) {
    (void)state;
    static const struct {
        change apply;
        sp_status status;
        const char *words;
    } cases[] = {
        {with_encoder, SP_ERR_UNSUPPORTED, "architecture t5"},
        {without_output, SP_ERR_UNSUPPORTED,
         "architecture internlm2: libllama can't make a model of it: error loading model: check_tensor_dims: tensor 'output.weight' not "
         "found"},
        {without_numbers, SP_ERR_UNSUPPORTED, "architecture mamba: libllama can't make a model of it: error loading model"},
    };
    char good[512], changed[512];
    write_tiny(good, "llama", SP_TYPE_F16);
    scratch_path(changed, "changed.gguf");
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        write_changed(good, changed, cases[i].apply);
        expect_refused(changed, cases[i].status, cases[i].words);
    }
    unlink(changed);
    unlink(good);
}

static void with_deep_images(struct gguf_context *g, uint32_t layers) {
    static const int32_t sections[4] = {8, 8, 8, 8};
    rename_architecture(g, "qwen3", "qwen3vl");
    gguf_set_arr_data(g, "qwen3vl.rope.dimension_sections", GGUF_TYPE_INT32, sections, 4);
    gguf_set_val_u32(g, "qwen3vl.n_deepstack_layers", layers);
}
static void with_few(struct gguf_context *g) {
    with_deep_images(g, 1);
}
static void with_many(struct gguf_context *g) {
    with_deep_images(g, 1 << 16);
}
static void with_too_many(struct gguf_context *g) {
    with_deep_images(g, UINT32_MAX / 128);
}

/* What no tensor of the file tells is wrong: how wide the inputs are. */
static void test_untold_sizes(void **state) {
    (void)state;
    char good[512], changed[512];
    write_tiny(good, "qwen3", SP_TYPE_F16);
    scratch_path(changed, "changed.gguf");
    write_changed(good, changed, with_few);
    expect_refused(changed, SP_ERR_UNSUPPORTED, "uses the operation PAD");
    write_changed(good, changed, with_many);
    expect_refused(changed, SP_ERR_UNSUPPORTED, "the header's sizes want");
    write_changed(good, changed, with_too_many);
    expect_refused(changed, SP_ERR_UNSUPPORTED, "libllama makes no context");
    unlink(changed);
    unlink(good);
}

/* Logits of a large vocabulary are larger than a small model's weights, and long windows of a large model too. */
static void test_reservation(void **state) {
    (void)state;
    sp_error err = {0};
    assert_int_equal(sp_trace_check_bytes(UINT64_C(2) << 30, 0, &err), SP_OK);
    assert_int_equal(sp_trace_check_bytes((UINT64_C(2) << 30) + 1, 0, &err), SP_ERR_UNSUPPORTED);
    assert_int_equal(sp_trace_check_bytes(UINT64_C(40) << 30, UINT64_C(40) << 30, &err), SP_OK);
}

static void test_good_file(void **state) {
    (void)state;
    char path[512];
    sp_model *model = open_model(source_path(path, "models/pocket/pocket-q8_0.gguf"));
    sp_model_info info;
    sp_model_get_info(model, &info);
    assert_string_equal(info.architecture, "llama");
    assert_int_equal(info.n_vocab, 1227);
    assert_true(info.n_layer > 0 && info.n_embd > 0 && info.n_ctx_train > 0 && info.n_params > 1000000);
    const char *value = NULL;
    sp_error err = {0};
    must(sp_model_meta(model, "general.architecture", &value, &err), &err);
    assert_string_equal(value, "llama");
    must(sp_model_meta(model, "llama.block_count", &value, &err), &err);
    assert_int_equal(atoi(value), info.n_layer);
    const char *other = NULL;
    must(sp_model_meta(model, "llama.embedding_length", &other, &err), &err);
    assert_int_equal(atoi(other), info.n_embd);
    assert_int_equal(atoi(value), info.n_layer); /* still there */
    assert_int_equal(sp_model_meta(model, "no.such.key", &value, &err), SP_ERR_NOT_FOUND);
    assert_int_equal(sp_model_meta(model, "tokenizer.ggml.tokens", &value, &err), SP_ERR_UNSUPPORTED);
    sp_weight_info weight;
    assert_true(sp_model_find_weight(model, 0, "token_embd.weight", &weight));
    assert_int_equal(weight.ne[0], info.n_embd);
    assert_int_equal(weight.ne[1], info.n_vocab);
    assert_false(sp_model_find_weight(model, 1, "token_embd.weight", &weight));
    assert_false(sp_model_find_weight(model, 0, "no such tensor", &weight));
    sp_model_close(model);
}

/* The same file from memory is the same model; one more byte of metadata is another. */
static void test_fingerprint(void **state) {
    (void)state;
    char path[512], changed[512];
    write_tiny(path, "phi3", SP_TYPE_F16);
    scratch_path(changed, "changed.gguf");
    write_changed(path, changed, many_layers);
    sp_model *file = open_model(path), *other = open_model(changed), *memory = NULL;
    size_t size;
    uint8_t *bytes = read_bytes(path, &size);
    sp_error err = {0};
    must(sp_model_open_bytes_cached(NULL, bytes, size, NULL, &memory, &err), &err);
    free(bytes);
    assert_int_equal(strlen(sp_model_fingerprint(file)), 32);
    assert_string_equal(sp_model_fingerprint(file), sp_model_fingerprint(memory));
    assert_string_not_equal(sp_model_fingerprint(file), sp_model_fingerprint(other));
    sp_model_close(file);
    sp_model_close(other);
    sp_model_close(memory);
    unlink(path);
    unlink(changed);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_no_gguf),          cmocka_unit_test(test_truncated),    cmocka_unit_test(test_damaged_header),
        cmocka_unit_test(test_hostile_metadata), cmocka_unit_test(test_unsupported),  cmocka_unit_test(test_good_file),
        cmocka_unit_test(test_fingerprint),      cmocka_unit_test(test_untold_sizes), cmocka_unit_test(test_reservation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
