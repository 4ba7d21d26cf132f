/*
 * `samepage bench lookup`: decoding with drafts from the context against decoding without, in turns, on a text that says things again. Both generate
 * the same tokens, which is checked.
 */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "cli/bench.h"
#include "cli/cmd.h"
#include "cli/llm_client.h"

enum { MAX_ROUNDS = 99, MAX_TOKENS = 2048 };

typedef struct lookup_bench {
    sp_llm_client *client;
    sp_llm_settings settings;
    int32_t rounds, draft;
    bool json;
    const char *prompt;
    int32_t tokens[2][MAX_TOKENS];
    uint32_t n[2];
    int which;
    double rate[2][MAX_ROUNDS];
    uint64_t runs[2];
    uint32_t drafted, right;
} lookup_bench;

/* Pocket repeats this. */
static const char usual_prompt[] = "The red key is in the attic. The red key is in the attic. The red key is in the attic. The red key is in the "
                                   "attic. The red key is in the attic. "
                                   "The red key is in the attic. The red key is in the attic. The red key is in the attic. The red key is in the "
                                   "attic. The red key is in the attic. "
                                   "The red key is in the attic. The red key is in the attic. The red key is in the attic. The red key is in the "
                                   "attic. The red key is in the attic. "
                                   "The red key is in the attic. The red key is in the attic. The red key is in the attic. The red key is in the "
                                   "attic. The red key is in the attic. ";

static void on_token(void *user, const sp_llm_token *token, const char *text) {
    lookup_bench *b = user;
    (void)text;
    if (token->token >= 0 && b->n[b->which] < MAX_TOKENS) {
        b->tokens[b->which][b->n[b->which]++] = token->token;
    }
}

static sp_status measure(lookup_bench *b, int which, int round, sp_error *err) {
    b->settings.n_lookup = which ? b->draft : 0;
    b->which = which;
    b->n[which] = 0;
    sp_actor_stats before, after;
    sp_llm_done done;
    sp_llm_events events = {.on_token = on_token, .user = b};
    sp_status status = sp_llm_configure(b->client, &b->settings, err);
    sp_actor_get_stats(sp_llm_actor(b->client), &before);
    if (status == SP_OK) {
        status = sp_llm_ask(b->client, SP_LLM_COMPLETE, b->prompt, strlen(b->prompt), &events, &done, err);
    }
    if (status != SP_OK) {
        return status;
    }
    sp_actor_get_stats(sp_llm_actor(b->client), &after);
    if (round >= 0) {
        b->rate[which][round] = (double)done.n_answer / ((double)done.answer_ns * 1e-9);
        b->runs[which] = after.runs - before.runs;
        b->drafted = which ? done.n_drafted : b->drafted;
        b->right = which ? done.n_draft_right : b->right;
    }
    return SP_OK;
}

static sp_status measure_all(lookup_bench *b, sp_error *err) {
    for (int round = -1; round < b->rounds; round++) { /* the first one warms up */
        for (int i = 0; i < 2; i++) {
            sp_status status = measure(b, (round + i) & 1, round, err);
            if (status != SP_OK) {
                return status;
            }
        }
        if (b->n[0] != b->n[1] || memcmp(b->tokens[0], b->tokens[1], b->n[0] * sizeof *b->tokens[0]) != 0) {
            return sp_fail(err, SP_ERR_STATE, "drafts changed the text");
        }
    }
    return SP_OK;
}

static void print(lookup_bench *b) {
    double ratios[MAX_ROUNDS];
    for (int r = 0; r < b->rounds; r++) {
        ratios[r] = b->rate[1][r] / b->rate[0][r];
    }
    double ratio = sp_bench_median(ratios, b->rounds), with = sp_bench_median(b->rate[1], b->rounds),
           without = sp_bench_median(b->rate[0], b->rounds);
    if (b->json) {
        json_t *root = json_pack("{s:s, s:i, s:i, s:i, s:f, s:f, s:f, s:f, s:f, s:I, s:I, s:i, s:i}", "model",
                                 b->settings.model ? b->settings.model : "pocket", "draft", (int)b->draft, "tokens", (int)b->n[0], "rounds",
                                 (int)b->rounds, "with_tokens_per_second", with, "without_tokens_per_second", without, "ratio", ratio, "ratio_min",
                                 ratios[0], "ratio_max", ratios[b->rounds - 1], "with_runs", (json_int_t)b->runs[1], "without_runs",
                                 (json_int_t)b->runs[0], "drafted_tokens", (int)b->drafted, "drafted_tokens_right", (int)b->right);
        json_dumpf(root, stdout, JSON_INDENT(2));
        putchar('\n');
        json_decref(root);
        return;
    }
    printf("prompt lookup, drafts of up to %d, %u tokens, greedy, %d rounds; the same tokens\n", b->draft, b->n[0], b->rounds);
    printf("  with     %9.1f tokens/s, %llu runs, %u tokens drafted, %u of them right\n", with, (unsigned long long)b->runs[1], b->drafted, b->right);
    printf("  without  %9.1f tokens/s, %llu runs\n", without, (unsigned long long)b->runs[0]);
    printf("  ratio    %9.2f (%.2f to %.2f)\n", ratio, ratios[0], ratios[b->rounds - 1]);
}

int sp_bench_lookup(int argc, char **argv) {
    static lookup_bench b;
    b = (lookup_bench){.settings = sp_llm_defaults, .rounds = 5, .draft = 31, .prompt = usual_prompt};
    b.settings.temperature = 0;
    b.settings.max_tokens = 256;
    b.settings.ignore_end = true;
    const sp_option table[] = {
        {'m', "model", SP_OPT_TEXT, &b.settings.model, 0, 0, "FILE", "GGUF file (default: the embedded pocket model)"},
        {0, "device", SP_OPT_TEXT, &b.settings.device, 0, 0, "NAME", "see samepage devices (default: cpu)"},
        {'t', "threads", SP_OPT_INT, &b.settings.threads, 0, 512, "N", "CPU threads (default: all cores)"},
        {'p', "prompt", SP_OPT_TEXT, &b.prompt, 0, 0, "TEXT", "the text to continue (default: one that says the same again and again)"},
        {'n', "predict", SP_OPT_INT, &b.settings.max_tokens, 1, MAX_TOKENS, "N", "tokens to generate (default: 256)"},
        {0, "prompt-lookup", SP_OPT_INT, &b.draft, 1, 32, "N", "tokens drafted at once, at most (default: 31)"},
        {0, "always", SP_OPT_FLAG, &b.settings.lookup_always, 0, 0, NULL, "evaluate every draft, not only where it saves time"},
        {0, "rounds", SP_OPT_INT, &b.rounds, 1, MAX_ROUNDS, "N", "rounds (default: 5)"},
        {0, "json", SP_OPT_FLAG, &b.json, 0, 0, NULL, "the figures as JSON"},
        {0}};
    int at = sp_options_parse(table, "bench lookup", "[OPTION...]", "Measures prompt lookup: decoding with drafts from the context, against without.",
                              argc, argv);
    if (at < 0) {
        return -1 - at;
    }
    if (at < argc) {
        return sp_usage_error("bench lookup", "%s: bench lookup takes no operands", argv[at]);
    }
    sp_error err;
    sp_status status = sp_llm_open(&b.settings, &b.client, &err);
    if (status == SP_OK) {
        status = measure_all(&b, &err);
        sp_llm_close(b.client);
    }
    if (status == SP_OK) {
        print(&b);
    }
    return status == SP_OK ? SP_EXIT_OK : sp_failed(&err);
}
