/*
 * Greedy answers: equal to libllama's on 50 prompts, and the same on every device. And the model remembers what it is told, through the whole way.
 *     DIALOGUES=50   those on Vulkan, which is slow where a CPU does its work (the suite: 12)
 */
#include "support.h"

enum { PROMPTS = 50, THREADS = 1, LENGTH = 24 };

static const char *const things[] = {"red key",   "blue lamp",   "green book", "old map",    "silver ring",
                                     "black hat", "golden coin", "brown drum", "pink flute", "white bell"};
static const char *const places[] = {"attic", "garden", "kitchen", "cellar", "tower"};

static void prompt_text(int i, char *out, size_t size) {
    snprintf(out, size, "The %s is in the %s.", things[i % 10], places[i / 10]);
}

static char *pocket(void) {
    return in_folder("SOURCE_DIR", "models/pocket/pocket-q8_0.gguf");
}

/* libllama continues the same tokens greedily. */
static void continue_with_oracle(oracle *o, const char *text, int32_t *out, int n) {
    const struct llama_vocab *vocab = llama_model_get_vocab(o->model);
    int32_t tokens[256];
    int count = llama_tokenize(vocab, text, (int32_t)strlen(text), tokens, 256, true, false), n_past = 0;
    llama_memory_clear(llama_get_memory(o->context), true);
    for (int i = 0; i < n; i++) {
        oracle_eval(o, i ? &out[i - 1] : tokens, i ? 1 : count, n_past);
        n_past += i ? 1 : count;
        const float *logits = llama_get_logits_ith(o->context, -1);
        out[i] = 0;
        for (int t = 1; t < o->n_vocab; t++) {
            out[i] = logits[t] > logits[out[i]] ? t : out[i];
        }
    }
}

static void test_equal_to_libllama(void **state) {
    (void)state;
    char *path = pocket(), text[128];
    session *s = session_open(path, "cpu", THREADS);
    sp_llm_config config = {
        .kind = SP_LLM_CONFIG, .n_ctx = 512, .max_tokens = LENGTH, .type_k = 1, .type_v = 1, .top_p = 1, .repeat_penalty = 1, .ignore_end = 1};
    session_ask(s, &config, sizeof config);
    /* One side after the other: threads that wait by turning would slow down those that compute. */
    int32_t ours[PROMPTS][LENGTH], theirs[LENGTH];
    for (int i = 0; i < PROMPTS; i++) {
        prompt_text(i, text, sizeof text);
        session_say(s, SP_LLM_COMPLETE, text);
        assert_int_equal(s->n_tokens, LENGTH);
        memcpy(ours[i], s->tokens, sizeof ours[i]);
    }
    session_close(s);
    oracle o = oracle_open(path, 512, THREADS);
    for (int i = 0; i < PROMPTS; i++) {
        prompt_text(i, text, sizeof text);
        continue_with_oracle(&o, text, theirs, LENGTH);
        assert_memory_equal(ours[i], theirs, sizeof theirs);
    }
    oracle_close(&o);
    free(path);
}

static char on_cpu[PROMPTS][512], elsewhere[PROMPTS][512];

/* A dialogue each: a fact is told, and asked for. */
static void dialogues(const char *device, int n, char out[][512]) {
    char *path = pocket(), text[128];
    session *s = session_open(path, device, THREADS);
    session_greedy(s, 512, 64);
    for (int i = 0; i < n; i++) {
        session_say(s, SP_LLM_RESET, NULL);
        prompt_text(i, text, sizeof text);
        session_say(s, SP_LLM_USER, text);
        snprintf(out[i], sizeof out[i], "%.200s|", s->text);
        snprintf(text, sizeof text, "Where is the %s?", things[i % 10]);
        session_say(s, SP_LLM_USER, text);
        snprintf(out[i] + strlen(out[i]), sizeof out[i] - strlen(out[i]), "%.200s", s->text);
        assert_int_equal(s->done.reason, SP_LLM_END_TOKEN);
    }
    session_close(s);
    free(path);
}

static void says_the_same(const char *device, int n) {
    if (!*on_cpu[0]) { /* once for all devices */
        dialogues("cpu", PROMPTS, on_cpu);
    }
    dialogues(device, n, elsewhere);
    for (int i = 0; i < n; i++) {
        assert_string_equal(on_cpu[i], elsewhere[i]);
    }
}

static void test_discrete_says_the_same(void **state) {
    (void)state;
    says_the_same("discrete", PROMPTS);
}

static void test_cuda_says_the_same(void **state) {
    (void)state;
    const char *device = getenv("SAMEPAGE_TEST_DEVICE");
    says_the_same(device ? device : "cuda-emulated", PROMPTS);
}

static void test_vulkan_says_the_same(void **state) {
    (void)state;
    sp_device *device;
    sp_error err;
    if (sp_device_open("vulkan:0", 0, &device, &err) != SP_OK) {
        print_message("skipped: %s\n", err.message);
        skip();
    }
    sp_device_close(device);
    const char *all = getenv("DIALOGUES");
    says_the_same("vulkan:0", all && atoi(all) < PROMPTS ? atoi(all) : all ? PROMPTS : 12);
}

static void test_remembers(void **state) {
    (void)state;
    char *path = pocket();
    session *s = session_open(path, "cpu", THREADS);
    session_greedy(s, 0, 64);
    session_say(s, SP_LLM_USER, "The red key is in the attic.");
    session_say(s, SP_LLM_USER, "Where is the red key?");
    assert_string_equal(s->text, "The red key is in the attic.");
    session_say(s, SP_LLM_RESET, NULL);
    session_say(s, SP_LLM_USER, "My name is Ada.");
    session_say(s, SP_LLM_USER, "The code is 4711.");
    session_say(s, SP_LLM_USER, "Omar has seven shells.");
    session_say(s, SP_LLM_USER, "What is my name?");
    assert_non_null(strstr(s->text, "Ada"));
    session_say(s, SP_LLM_USER, "What is the code?");
    assert_non_null(strstr(s->text, "4711"));
    session_say(s, SP_LLM_USER, "How many shells does Omar have?");
    assert_non_null(strstr(s->text, "seven"));
    session_close(s);
    free(path);
}

static void test_limits_are_said(void **state) {
    (void)state;
    char *path = pocket(), text[4000] = "";
    session *s = session_open(path, "cpu", THREADS);
    session_greedy(s, 64, -1);
    for (int i = 0; i < 100; i++) {
        strcat(text, " the cat is in the box");
    }
    session_say(s, SP_LLM_COMPLETE, text);
    assert_non_null(strstr(s->problem, "the context has room for 64"));
    session_say(s, SP_LLM_USER, "Tell me a story about a fox.");
    assert_int_equal(s->done.reason, SP_LLM_END_CONTEXT);
    assert_int_equal(s->done.n_past, 64);
    session_close(s);
    free(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equal_to_libllama),  cmocka_unit_test(test_discrete_says_the_same),
        cmocka_unit_test(test_cuda_says_the_same), cmocka_unit_test(test_vulkan_says_the_same),
        cmocka_unit_test(test_remembers),          cmocka_unit_test(test_limits_are_said),
    };
    cmocka_set_test_filter(getenv("SAMEPAGE_TEST_FILTER"));
    return cmocka_run_group_tests(tests, NULL, NULL);
}
