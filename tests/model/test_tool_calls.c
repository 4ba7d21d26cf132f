/* A request with tools that must be called: whatever a model would rather say, Qwen 3's template makes a grammar of the tools, and what comes out of
 * it parses back into a call of one of them. */
#include "support.h"

#include <gguf.h>
#include <jansson.h>
#include <unistd.h>

#include "model/model.h"
#include "test_data.h"

enum { SEEDS = 40, MOST_TOKENS = 600 };

/* pocket with another template. */
static char *write_model(const char *template) {
    char *from = in_folder("SOURCE_DIR", "models/pocket/pocket-q8_0.gguf"), *path = in_folder("BUILD_DIR", "tool-calls.gguf"), file[600];
    snprintf(file, sizeof file, "%s/models/templates/%s", test_data_folder(), template);
    FILE *source = fopen(file, "rb");
    assert_non_null(source);
    static char text[1 << 16];
    text[fread(text, 1, sizeof text - 1, source)] = 0;
    fclose(source);
    struct ggml_context *tensors = NULL;
    struct gguf_context *pocket = gguf_init_from_file(from, (struct gguf_init_params){.ctx = &tensors}), *gguf = gguf_init_empty();
    assert_non_null(pocket);
    gguf_set_kv(gguf, pocket);
    gguf_set_val_str(gguf, "tokenizer.chat_template", text);
    for (struct ggml_tensor *t = ggml_get_first_tensor(tensors); t; t = ggml_get_next_tensor(tensors, t)) {
        if (gguf_find_tensor(pocket, t->name) >= 0) { /* the context has one more, of all the data */
            gguf_add_tensor(gguf, t);
        }
    }
    assert_true(gguf_write_to_file(gguf, path, false));
    gguf_free(gguf);
    gguf_free(pocket);
    ggml_free(tensors);
    free(from);
    return path;
}

static const char request[] =
    "{\"messages\":[{\"role\":\"user\",\"content\":\"Will it rain in Ghent?\"}],\"tool_choice\":\"required\",\"enable_thinking\":false,\"tools\":["
    "{\"type\":\"function\",\"function\":{\"name\":\"weather\",\"description\":\"Tells the "
    "weather\",\"parameters\":{\"type\":\"object\",\"properties\":{"
    "\"place\":{\"enum\":[\"Ghent\",\"Oslo\"]},\"days\":{\"type\":\"integer\",\"minimum\":1,\"maximum\":7}},\"required\":[\"place\",\"days\"]}}},"
    "{\"type\":\"function\",\"function\":{\"name\":\"lamp\",\"description\":\"Switches the "
    "lamp\",\"parameters\":{\"type\":\"object\",\"properties\":{"
    "\"on\":{\"type\":\"boolean\"}},\"required\":[\"on\"]}}}]}";

/*
 * The answer of a model that says a random token of those that may come next, once the call has begun: before it the template lets a model say what
 * it likes. It ends as soon as it may.
 */
static void answer(const sp_model *model, uint64_t seed, char *out, size_t capacity) {
    static const char begins[] = "<tool_call>\n{\"name\": \"";
    sp_model_info info;
    sp_grammar *grammar = NULL;
    sp_error err = {0};
    int32_t tokens[64];
    size_t n = 0, length = 0;
    sp_model_get_info(model, &info);
    float *logits = malloc(info.n_vocab * sizeof *logits);
    assert_int_equal(sp_grammar_open(model, SP_GRAMMAR_CHAT, request, strlen(request), &grammar, &err), SP_OK);
    assert_int_equal(sp_model_tokenize(model, begins, strlen(begins), SP_TOKENIZE_PARSE_SPECIAL, tokens, 64, &n, &err), SP_OK);
    assert_int_equal(sp_grammar_accept(grammar, model, tokens, n, &err), SP_OK);
    length = (size_t)snprintf(out, capacity, "%s", begins);
    for (int i = 0; i < MOST_TOKENS; i++) {
        bool done = false;
        assert_int_equal(sp_grammar_allows(grammar, model, info.token_eos, &done, &err), SP_OK);
        if (done) {
            break;
        }
        for (uint32_t t = 0; t < info.n_vocab; t++) {
            seed = seed * 6364136223846793005u + 1442695040888963407u; /* Knuth's MMIX generator */
            logits[t] = (float)(seed >> 40);
        }
        assert_int_equal(sp_grammar_mask(grammar, model, logits, info.n_vocab, &err), SP_OK);
        int32_t best = 0;
        for (uint32_t t = 1; t < info.n_vocab; t++) {
            best = logits[t] > logits[best] ? (int32_t)t : best;
        }
        size_t piece = 0;
        assert_int_equal(sp_model_detokenize(model, &best, 1, SP_DETOKENIZE_SPECIAL, out + length, capacity - length, &piece, &err), SP_OK);
        length += piece;
        assert_true(length < capacity);
        assert_int_equal(sp_grammar_accept(grammar, model, &best, 1, &err), SP_OK);
    }
    out[length] = 0;
    sp_grammar_close(grammar);
    free(logits);
}

static bool is_one_of(const json_t *value, const char *a, const char *b) {
    const char *text = json_string_value(value);
    return text && (strcmp(text, a) == 0 || strcmp(text, b) == 0);
}

/* Exactly what the schema allows. The index of the tool. */
static int check_call(const json_t *call) {
    const json_t *function = json_object_get(call, "function"), *name = json_object_get(function, "name");
    json_t *arguments = json_loads(json_string_value(json_object_get(function, "arguments")), 0, NULL);
    assert_true(is_one_of(name, "weather", "lamp"));
    assert_true(json_is_object(arguments));
    const bool lamp = strcmp(json_string_value(name), "lamp") == 0;
    if (lamp) {
        assert_true(json_is_boolean(json_object_get(arguments, "on")));
        assert_int_equal(json_object_size(arguments), 1);
    } else {
        assert_true(is_one_of(json_object_get(arguments, "place"), "Ghent", "Oslo"));
        assert_true(json_is_integer(json_object_get(arguments, "days")));
        assert_int_equal(json_object_size(arguments), 2);
    }
    json_decref(arguments);
    return lamp;
}

static void test_qwen3(void **state) {
    (void)state;
    char *path = write_model("Qwen-Qwen3-0.6B.jinja"), said[16384];
    sp_model *model = NULL;
    sp_error err = {0};
    assert_int_equal(sp_model_open_cached(NULL, path, NULL, &model, &err), SP_OK);
    int called[2] = {0};
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        answer(model, seed, said, sizeof said);
        char *text = NULL;
        size_t size = 0;
        if (sp_model_chat_parse(model, request, strlen(request), said, strlen(said), false, &text, &size, &err) != SP_OK) {
            fail_msg("seed %llu: %s in %s", (unsigned long long)seed, err.message, said);
        }
        json_t *message = json_loadb(text, size, 0, NULL), *calls = json_object_get(message, "tool_calls");
        if (json_array_size(calls) < 1) {
            fail_msg("seed %llu: no call in %s", (unsigned long long)seed, said);
        }
        for (size_t i = 0; i < json_array_size(calls); i++) {
            called[check_call(json_array_get(calls, i))]++;
        }
        json_decref(message);
        free(text);
    }
    print_message("tool calls: %d of weather and %d of lamp in %d answers\n", called[0], called[1], SEEDS);
    assert_true(called[0] > 0 && called[1] > 0);
    sp_model_close(model);
    unlink(path);
    free(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_qwen3)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
