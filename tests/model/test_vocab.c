/* Tokens and text: equal to libllama's on pocket's vocabulary and on a made-up one of bytes and words; bad arguments and a model without a
 * vocabulary. */
#include "model_test.h"

static const char *const texts[] = {"",
                                    " ",
                                    "The red key is in the attic.",
                                    "Wo ist der Schl\xc3\xbcssel? \xe6\x97\xa5\xe6\x9c\xac\xe8\xaa\x9e \xf0\x9f\x97\x9d",
                                    "<|start_header_id|>user<|end_header_id|>\n\nHello<|eot_id|>",
                                    "  many   spaces\t\ttabs\n\n\nlines",
                                    "4711 + 1 = 4712; x_1 != y[2]",
                                    "broken \xff\xfe\xc3 bytes"};
enum { N_TEXTS = sizeof texts / sizeof texts[0], MOST = 256 };

static void compare_tokens(const sp_model *model, const struct llama_vocab *vocab, const char *text, uint32_t flags) {
    int32_t got[MOST], wanted[MOST];
    size_t count = 0, length = 0;
    sp_error err = {0};
    must(sp_model_tokenize(model, text, strlen(text), flags, got, MOST, &count, &err), &err);
    int32_t n = llama_tokenize(vocab, text, (int32_t)strlen(text), wanted, MOST, flags & SP_TOKENIZE_ADD_SPECIAL, flags & SP_TOKENIZE_PARSE_SPECIAL);
    assert_int_equal(count, n);
    assert_memory_equal(got, wanted, count * sizeof *got);
    /* Too small a buffer: the whole count, nothing beyond. */
    if (count > 1) {
        int32_t few[MOST];
        memset(few, 0x55, sizeof few);
        must(sp_model_tokenize(model, text, strlen(text), flags, few, 1, &length, &err), &err);
        assert_int_equal(length, count);
        assert_int_equal(few[1], 0x55555555);
    }
    char back[1024] = "", piece[256], whole[1024] = "";
    must(sp_model_detokenize(model, got, count, SP_DETOKENIZE_SPECIAL, back, sizeof back, &length, &err), &err);
    size_t at = 0;
    for (size_t i = 0; i < count; i++) {
        int32_t size = llama_token_to_piece(vocab, wanted[i], piece, sizeof piece, 0, true);
        assert_true(size >= 0);
        memcpy(whole + at, piece, (size_t)size);
        at += (size_t)size;
    }
    assert_int_equal(length, at);
    assert_memory_equal(back, whole, at);
}

static void compare_with_libllama(const char *path) {
    sp_model *model = open_model(path);
    struct llama_model_params params = llama_model_default_params();
    params.vocab_only = true;
    struct llama_model *llama = llama_model_load_from_file(path, params);
    assert_non_null(llama);
    const struct llama_vocab *vocab = llama_model_get_vocab(llama);
    for (int t = 0; t < N_TEXTS; t++) {
        for (uint32_t flags = 0; flags < 4; flags++) {
            compare_tokens(model, vocab, texts[t], flags);
        }
    }
    int32_t n = llama_vocab_n_tokens(vocab);
    sp_model_info info;
    sp_model_get_info(model, &info);
    assert_int_equal(info.n_vocab, n);
    assert_int_equal(info.token_bos, llama_vocab_bos(vocab));
    assert_int_equal(info.token_eos, llama_vocab_eos(vocab));
    assert_int_equal(info.token_eot, llama_vocab_eot(vocab));
    unsigned ends = 0;
    for (int32_t i = 0; i < n; i++) {
        assert_int_equal(sp_model_is_end(model, i), llama_vocab_is_eog(vocab, i));
        ends += sp_model_is_end(model, i);
    }
    assert_true(ends > 0);
    llama_model_free(llama);
    sp_model_close(model);
}

static void test_pocket(void **state) {
    (void)state;
    char path[512];
    compare_with_libllama(source_path(path, "models/pocket/pocket-q8_0.gguf"));
}

static void test_made_up(void **state) {
    (void)state;
    char path[512];
    sp_synthetic what = {.architecture = "llama",
                         .n_vocab = 5000,
                         .n_layer = 1,
                         .n_embd = 64,
                         .n_head = 2,
                         .n_head_kv = 1,
                         .n_ff = 64,
                         .n_ctx = 512,
                         .type = SP_TYPE_F16};
    sp_error err = {0};
    must(sp_synthetic_write(&what, scratch_path(path, "words.gguf"), &err), &err);
    compare_with_libllama(path);
    unlink(path);
}

/* Any vocabularies that the user names: GGUF files with the texts and tokens that llama.cpp expects beside them are compared with libllama alike. */
static void test_given(void **state) {
    (void)state;
    const char *list = getenv("SAMEPAGE_TEST_VOCABULARIES");
    if (!list) {
        skip();
    }
    char *copy = strdup(list), *rest = copy;
    for (char *path; (path = strsep(&rest, ":"));) {
        compare_with_libllama(path);
    }
    free(copy);
}

static void test_bad_tokens(void **state) {
    (void)state;
    char path[512], text[16];
    sp_model *model = open_model(source_path(path, "models/pocket/pocket-q8_0.gguf"));
    const int32_t bad[] = {-1, 1227, INT32_MAX, INT32_MIN};
    for (size_t i = 0; i < 4; i++) {
        size_t length = 1;
        sp_error err = {0};
        assert_int_equal(sp_model_detokenize(model, &bad[i], 1, 0, text, sizeof text, &length, &err), SP_ERR_RANGE);
        assert_false(sp_model_is_end(model, bad[i]));
    }
    sp_model_close(model);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_pocket), cmocka_unit_test(test_made_up), cmocka_unit_test(test_given),
                                       cmocka_unit_test(test_bad_tokens)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
