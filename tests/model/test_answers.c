/*
 * What the language-model guest does beyond talking: drafts that change nothing, scores, likeliest tokens, requests with tools, grammars, and drafts
 * after a fork in the middle.
 *     DIALOGUES=50   those that are compared with two threads (the suite: 10)
 */
#include <math.h>

#include "model/synthetic.h"
#include "support.h"

#include "samepage/abi.h"
#include "samepage/program.h"
#include "threads.h"

enum { PROMPTS = 50, THREADS = SOME_THREADS(2), REPEATED = 256 };

static char *pocket(void) {
    return in_folder("SOURCE_DIR", "models/pocket/pocket-q8_0.gguf");
}

static sp_llm_config usual(void) {
    return (sp_llm_config){.kind = SP_LLM_CONFIG, .n_ctx = 1024, .max_tokens = 40, .type_k = 1, .type_v = 1, .top_p = 1, .repeat_penalty = 1};
}

/* ---- prompt lookup ---- */

/* A dialogue that says things again, so that there is something to draft from; how many drafted tokens were evaluated. */
static uint32_t dialogue(session *s, int i, char *out, size_t size) {
    static const char *const things[] = {"red key", "blue lamp", "green book", "old map", "silver ring"};
    static const char *const places[] = {"attic", "garden", "kitchen", "cellar", "tower"};
    char text[256];
    session_say(s, SP_LLM_RESET, NULL);
    snprintf(text, sizeof text, "The %s is in the %s. The %s is in the %s.", things[i % 5], places[i / 10], things[(i + 1) % 5],
             places[(i / 10 + 1) % 5]);
    session_say(s, SP_LLM_USER, text);
    uint32_t drafted = s->done.n_drafted;
    snprintf(out, size, "%.200s", s->text);
    snprintf(text, sizeof text, "Where is the %s?", things[(i + i / 5 % 2) % 5]);
    session_say(s, SP_LLM_USER, text);
    drafted += s->done.n_drafted;
    snprintf(out + strlen(out), size - strlen(out), "|%.200s", s->text);
    session_say(s, SP_LLM_COMPLETE, text);
    snprintf(out + strlen(out), size - strlen(out), "|%.200s", s->text);
    return drafted + s->done.n_drafted;
}

static void set_lookup(session *s, int32_t max_tokens, uint32_t n_lookup, bool always) {
    sp_llm_config config = usual();
    config.max_tokens = max_tokens;
    config.n_lookup = n_lookup;
    config.lookup_always = always;
    config.ignore_end = max_tokens > 40;
    session_ask(s, &config, sizeof config);
    assert_string_equal(s->problem, "");
}

/* The same text with drafts and without; how many drafted tokens were evaluated. */
static uint32_t compare_dialogues(session *s, int n) {
    char with[700], without[700];
    uint32_t drafted = 0;
    for (int i = 0; i < n; i++) {
        set_lookup(s, 40, 0, false);
        assert_int_equal(dialogue(s, i, without, sizeof without), 0);
        set_lookup(s, 40, 31, true);
        drafted += dialogue(s, i, with, sizeof with);
        assert_string_equal(with, without);
    }
    return drafted;
}

/* Text that says the same again and again, far enough into the context that a CPU shares the keys of one token among its threads. */
static void repetition(const char *what, char *out, size_t size) {
    *out = 0;
    while (strlen(out) + 100 < size) {
        snprintf(out + strlen(out), size - strlen(out), "The %s is in the attic. ", what);
    }
}

static uint32_t compare_repetition(session *s, const char *what) {
    char text[2000];
    repetition(what, text, sizeof text);
    set_lookup(s, REPEATED, 0, false);
    session_say(s, SP_LLM_COMPLETE, text);
    int32_t tokens[REPEATED];
    assert_int_equal(s->n_tokens, REPEATED);
    assert_true(s->done.n_past > 512);
    memcpy(tokens, s->tokens, sizeof tokens);
    set_lookup(s, REPEATED, 31, true);
    session_say(s, SP_LLM_COMPLETE, text);
    assert_int_equal(s->n_tokens, REPEATED);
    assert_memory_equal(s->tokens, tokens, sizeof tokens);
    return s->done.n_drafted;
}

/* Forks go on in the middle of drafts, and of comparisons. */
static void test_lookup_forked(void **state) {
    (void)state;
    char *path = pocket(), text[2000];
    session *s = session_open(path, "cpu", 1);
    free(path);
    repetition("red key", text, sizeof text);
    set_lookup(s, REPEATED, 0, false);
    session_say(s, SP_LLM_COMPLETE, text);
    int32_t tokens[REPEATED];
    memcpy(tokens, s->tokens, sizeof tokens);
    set_lookup(s, REPEATED, 31, true);
    const sp_llm_text head = {.kind = SP_LLM_COMPLETE, .length = (uint32_t)strlen(text)};
    uint8_t message[sizeof head + sizeof text];
    memcpy(message, &head, sizeof head);
    memcpy(message + sizeof head, text, head.length);
    sp_error err = {0};
    assert_int_equal(sp_actor_send(s->actor, message, sizeof head + head.length, &err), SP_OK);
    s->finished = false;
    s->n_tokens = 0;
    for (int step = 1, next = 10; !s->finished; step++) {
        sp_step_result result;
        assert_int_equal(sp_actor_step(s->actor, &result, &err), SP_OK);
        if (step == next) {
            sp_actor *fork;
            assert_int_equal(sp_actor_fork(s->actor, NULL, &fork, &err), SP_OK);
            sp_actor_close(s->actor);
            s->actor = fork;
            next += 7 + next % 13;
        }
    }
    assert_int_equal(s->n_tokens, REPEATED);
    assert_memory_equal(s->tokens, tokens, sizeof tokens);
    session_close(s);
}

static void test_lookup(void **state) {
    (void)state;
    const char *all = getenv("DIALOGUES");
    const struct {
        const char *device;
        int threads, dialogues;
    } cases[] = {{"cpu", 1, PROMPTS}, {"cpu", THREADS, all ? atoi(all) : 10}, {"discrete", 1, 5}};
    char *path = pocket();
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        session *s = session_open(path, cases[i].device, cases[i].threads);
        const uint32_t in_dialogues = compare_dialogues(s, cases[i].dialogues);
        const uint32_t repeating = compare_repetition(s, i % 2 ? "big old silver box" : "red key");
        print_message("prompt lookup on %s with %d threads: the same text in %d dialogues, %u tokens drafted; repeating itself, %u drafted\n",
                      cases[i].device, cases[i].threads, cases[i].dialogues, in_dialogues, repeating);
        assert_true(in_dialogues + repeating > 0);
        session_close(s);
    }
    free(path);
}

/* Other kinds and types of models, with random weights: their text soon says the same again. */
static void test_lookup_kinds(void **state) {
    (void)state;
    static const sp_synthetic models[] = {
        {.architecture = "llama", .type = SP_TYPE_F16},
        {.architecture = "llama", .type = SP_TYPE_Q4_0},
        {.architecture = "llama", .type = SP_TYPE_Q4_K},
        {.architecture = "gemma3", .type = SP_TYPE_Q8_0, .n_window = 64},
        {.architecture = "qwen3moe", .type = SP_TYPE_Q8_0, .n_expert = 8, .n_expert_used = 2},
        {.architecture = "qwen3moe", .type = SP_TYPE_Q4_K, .n_expert = 8, .n_expert_used = 2},
        {.architecture = "lfm2", .type = SP_TYPE_Q8_0},
    };
    char *vocabulary = pocket(), *path = in_folder("BUILD_DIR", "lookup.gguf"), text[1200];
    repetition("red key", text, sizeof text);
    for (size_t i = 0; i < sizeof models / sizeof models[0]; i++) {
        sp_synthetic what = models[i];
        what.vocabulary = vocabulary;
        what.n_layer = 6, what.n_embd = 256, what.n_head = 8, what.n_head_kv = 2, what.n_ff = 512, what.n_ctx = 4096, what.seed = 7;
        sp_error err;
        if (sp_synthetic_write(&what, path, &err) != SP_OK) {
            fail_msg("%s", err.message);
        }
        session *s = session_open(path, "cpu", 1);
        int32_t tokens[120];
        set_lookup(s, 120, 0, false);
        session_say(s, SP_LLM_COMPLETE, text);
        assert_int_equal(s->n_tokens, 120);
        memcpy(tokens, s->tokens, sizeof tokens);
        set_lookup(s, 120, 31, true);
        session_say(s, SP_LLM_COMPLETE, text);
        assert_int_equal(s->n_tokens, 120);
        assert_memory_equal(s->tokens, tokens, sizeof tokens);
        print_message("prompt lookup, %s in type %u: the same text, %u tokens drafted, %u of them right\n", what.architecture, what.type,
                      s->done.n_drafted, s->done.n_draft_right);
        assert_true(strcmp(what.architecture, "lfm2") != 0 || s->done.n_drafted == 0); /* recurrent state can't go back */
        session_close(s);
    }
    remove(path);
    free(path);
    free(vocabulary);
}

/* ---- scores ---- */

typedef struct heard {
    float logprobs[2048];
    uint32_t n, first;
    sp_llm_likely top[SP_LLM_MAX_TOP];
    uint32_t n_top;
    float chosen;
    int32_t token;
    char message[4096];
    int partials;
} heard;
static heard got;

static void hear(void *user, const void *bytes, size_t size) {
    uint32_t kind;
    memcpy(&kind, bytes, sizeof kind);
    if (kind == SP_LLM_LOGPROBS) {
        const sp_llm_logprobs *head = bytes;
        got.first = got.n ? got.first : head->position;
        memcpy(got.logprobs + got.n, head + 1, head->n * sizeof(float));
        got.n += head->n;
    } else if (kind == SP_LLM_TOP) {
        const sp_llm_top *head = bytes;
        got.n_top = head->n;
        memcpy(got.top, head + 1, head->n * sizeof *got.top);
    } else if (kind == SP_LLM_MESSAGE) {
        const sp_llm_message *head = bytes;
        got.partials += head->partial != 0;
        snprintf(got.message, sizeof got.message, "%.*s", (int)head->length, (const char *)(head + 1));
    } else if (kind == SP_LLM_TOKEN && ((const sp_llm_token *)bytes)->token >= 0) {
        got.chosen = ((const sp_llm_token *)bytes)->logprob;
        got.token = ((const sp_llm_token *)bytes)->token;
    }
    session_hear(user, bytes, size);
}

/* A session whose messages are heard here too. */
static session *open_heard(void) {
    char *path = pocket();
    session *s = session_open(path, "cpu", THREADS);
    sp_actor_close(s->actor);
    sp_actor_options options = {
        .device = s->device, .models = &s->model, .n_models = 1, .on_message = hear, .on_message_user = s, .inherit_stderr = true};
    sp_error err;
    assert_int_equal(sp_actor_spawn(s->host, s->module, &options, &s->actor, &err), SP_OK);
    free(path);
    memset(&got, 0, sizeof got);
    return s;
}

static double oracle_logprob(const float *logits, int n, int32_t token) {
    float most = logits[0];
    double sum = 0;
    for (int i = 1; i < n; i++) {
        most = logits[i] > most ? logits[i] : most;
    }
    for (int i = 0; i < n; i++) {
        sum += exp((double)(logits[i] - most));
    }
    return (double)(logits[token] - most) - log(sum);
}

/* A chunk's second half, against libllama on the same tokens in the same batches. */
static void test_score(void **state) {
    (void)state;
    enum { N = 300, BATCH = 128 };
    session *s = open_heard();
    sp_llm_config config = usual();
    config.n_batch = BATCH;
    session_ask(s, &config, sizeof config);
    char *path = pocket();
    oracle o = oracle_open(path, 1024, THREADS);
    struct {
        sp_llm_score head;
        int32_t tokens[N];
    } m = {.head = {.kind = SP_LLM_SCORE, .n_tokens = N, .from = N / 2}};
    for (int i = 0; i < N; i++) {
        m.tokens[i] = 300 + (i * 37 + i / 7) % 900;
    }
    session_ask(s, &m, sizeof m);
    assert_string_equal(s->problem, "");
    assert_int_equal(got.first, N / 2);
    assert_int_equal(got.n, N - 1 - N / 2);
    double worst = 0;
    for (int at = 0; at < N; at += BATCH) {
        int n = N - at < BATCH ? N - at : BATCH;
        oracle_eval(&o, m.tokens + at, n, at);
        for (int i = 0; i < n; i++) {
            int position = at + i;
            if (position >= N / 2 && position < N - 1) {
                double wanted = oracle_logprob(llama_get_logits_ith(o.context, i), o.n_vocab, m.tokens[position + 1]);
                worst = fmax(worst, fabs(wanted - (double)got.logprobs[position - N / 2]));
            }
        }
    }
    print_message("scores: %u log-probabilities, at most %.1e from libllama's\n", got.n, worst);
    assert_true(worst < 1e-4);
    oracle_close(&o);
    session_close(s);
    free(path);
}

static void test_top(void **state) {
    (void)state;
    session *s = open_heard();
    sp_llm_config config = usual();
    config.max_tokens = 1;
    config.logprobs = 1;
    config.n_top = 5;
    session_ask(s, &config, sizeof config);
    session_say(s, SP_LLM_COMPLETE, "The red key is");
    char *path = pocket();
    oracle o = oracle_open(path, 512, THREADS);
    int32_t tokens[32];
    int n = llama_tokenize(llama_model_get_vocab(o.model), "The red key is", 14, tokens, 32, true, false);
    oracle_eval(&o, tokens, n, 0);
    const float *logits = llama_get_logits_ith(o.context, -1);
    assert_int_equal(got.n_top, 5);
    assert_int_equal(got.top[0].token, got.token); /* greedy */
    for (uint32_t i = 0; i < got.n_top; i++) {
        int better = 0;
        for (int t = 0; t < o.n_vocab; t++) {
            better += logits[t] > logits[got.top[i].token];
        }
        assert_int_equal(better, i);
        assert_true(fabs(oracle_logprob(logits, o.n_vocab, got.top[i].token) - (double)got.top[i].logprob) < 1e-4);
    }
    assert_true(fabsf(got.chosen - got.top[0].logprob) < 1e-5f);
    oracle_close(&o);
    session_close(s);
    free(path);
}

/* ---- requests and grammars ---- */

static void ask_json(session *s, const char *json, uint32_t partial) {
    size_t length = strlen(json);
    uint8_t *m = malloc(sizeof(sp_llm_chat) + length);
    *(sp_llm_chat *)(void *)m = (sp_llm_chat){.kind = SP_LLM_CHAT, .length = (uint32_t)length, .partial = partial};
    memcpy(m + sizeof(sp_llm_chat), json, length);
    session_ask(s, m, sizeof(sp_llm_chat) + length);
    free(m);
}

static void set_grammar(session *s, uint32_t kind, const char *text) {
    size_t length = strlen(text);
    uint8_t *m = malloc(sizeof(sp_llm_grammar) + length);
    *(sp_llm_grammar *)(void *)m = (sp_llm_grammar){.kind = SP_LLM_GRAMMAR, .grammar = kind, .length = (uint32_t)length};
    memcpy(m + sizeof(sp_llm_grammar), text, length);
    session_ask(s, m, sizeof(sp_llm_grammar) + length);
    free(m);
}

static void test_request(void **state) {
    (void)state;
    session *s = open_heard();
    sp_llm_config config = usual();
    session_ask(s, &config, sizeof config);
    const char *plain =
        "{\"messages\":[{\"role\":\"user\",\"content\":\"The red key is in the attic.\"},{\"role\":\"assistant\",\"content\":\"Okay.\"},"
        "{\"role\":\"user\",\"content\":\"Where is the red key?\"}]}";
    ask_json(s, plain, 1);
    assert_string_equal(s->problem, "");
    assert_non_null(strstr(got.message, "{\"role\":\"assistant\",\"content\":\""));
    assert_non_null(strstr(got.message, "The red key is in"));
    assert_true(got.partials > 3);
    session_say(s, SP_LLM_REGENERATE, NULL);
    assert_non_null(strstr(s->text, "The red key is in"));
    ask_json(s, "{\"messages\":7}", 0);
    assert_non_null(strstr(s->problem, "messages"));
    /* The answer to a request that wants JSON is JSON. */
    ask_json(s,
             "{\"messages\":[{\"role\":\"user\",\"content\":\"Where?\"}],\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"schema\":"
             "{\"enum\":[\"attic\",\"cellar\"]}}}}",
             0);
    assert_string_equal(s->problem, "");
    assert_true(strstr(s->text, "\"attic\"") || strstr(s->text, "\"cellar\""));
    session_close(s);
}

static void test_grammar(void **state) {
    (void)state;
    session *s = open_heard();
    sp_llm_config config = usual();
    session_ask(s, &config, sizeof config);
    set_grammar(s, SP_GRAMMAR_GBNF, "root ::= \"(\" [0-9]{3} \")\"");
    assert_string_equal(s->problem, "");
    session_say(s, SP_LLM_USER, "Where is the red key?");
    assert_int_equal(strlen(s->text), 5);
    assert_true(s->text[0] == '(' && s->text[4] == ')');
    assert_int_equal(s->done.reason, SP_LLM_END_TOKEN);
    set_grammar(s, SP_GRAMMAR_GBNF, "root ::= nowhere");
    assert_non_null(strstr(s->problem, "nowhere"));
    session_say(s, SP_LLM_USER, "Where is the red key?"); /* the one before still holds */
    assert_int_equal(s->text[0], '(');
    set_grammar(s, SP_GRAMMAR_GBNF, "");
    session_say(s, SP_LLM_USER, "Where is the red key?");
    assert_int_not_equal(s->text[0], '(');
    session_close(s);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_lookup), cmocka_unit_test(test_lookup_forked), cmocka_unit_test(test_lookup_kinds),
                                       cmocka_unit_test(test_score),  cmocka_unit_test(test_top),           cmocka_unit_test(test_request),
                                       cmocka_unit_test(test_grammar)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
