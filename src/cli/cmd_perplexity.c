/* `samepage perplexity`: how well a model expects a text, chunk by chunk as llama.cpp's tool does it: the figure by which the field checks a port. */
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "cli/cmd.h"
#include "cli/llm_client.h"
#include "model/model.h"
#include "samepage/abi.h"

typedef struct scoring {
    sp_llm_client *client;
    double nll, nll2; /* sums of negative log-probabilities and of their squares */
    uint64_t count;
    bool json;
    int32_t n_ctx, n_chunks;
} scoring;

static void on_logprobs(void *user, const void *bytes, size_t size) {
    scoring *s = user;
    sp_llm_logprobs head;
    if (size < sizeof head) {
        return;
    }
    memcpy(&head, bytes, sizeof head);
    for (uint32_t i = 0; head.kind == SP_LLM_LOGPROBS && i < head.n; i++) {
        float logprob;
        memcpy(&logprob, (const char *)bytes + sizeof head + i * sizeof logprob, sizeof logprob);
        s->nll -= (double)logprob;
        s->nll2 += (double)logprob * (double)logprob;
        s->count++;
    }
}

/* The second half of a chunk counts: there the model has some context to go by. */
static sp_status score_chunk(scoring *s, const int32_t *tokens, int32_t first_token, sp_error *err) {
    uint32_t n = (uint32_t)s->n_ctx;
    sp_llm_score head = {.kind = SP_LLM_SCORE, .n_tokens = n, .from = n / 2};
    size_t size = sizeof head + n * sizeof *tokens;
    uint8_t *message = malloc(size);
    if (!message) {
        return sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    }
    memcpy(message, &head, sizeof head);
    memcpy(message + sizeof head, tokens, n * sizeof *tokens);
    if (first_token >= 0) {
        memcpy(message + sizeof head, &first_token, sizeof first_token);
    }
    sp_llm_events events = {.on_other = on_logprobs, .user = s};
    sp_llm_done done = {0};
    sp_status status = sp_llm_ask_bytes(s->client, message, size, &events, &done, err);
    free(message);
    return status == SP_OK && done.reason == SP_LLM_END_INTERRUPTED ? sp_fail(err, SP_ERR_INTERRUPTED, "interrupted") : status;
}

static sp_status score(scoring *s, const int32_t *tokens, size_t n, sp_error *err) {
    sp_model_info info;
    sp_model_get_info(sp_llm_model(s->client), &info);
    size_t chunks = n / (size_t)s->n_ctx;
    if (n < 2 * (size_t)s->n_ctx) {
        return sp_fail(err, SP_ERR_ARGUMENT, "the text has %zu tokens; two chunks of %d are the least (a smaller -c, or a longer text)", n, s->n_ctx);
    }
    chunks = s->n_chunks >= 0 && (size_t)s->n_chunks < chunks ? (size_t)s->n_chunks : chunks;
    s->n_chunks = (int32_t)chunks;
    for (size_t i = 0; i < chunks; i++) {
        sp_status status = score_chunk(s, tokens + i * (size_t)s->n_ctx, info.add_bos ? info.token_bos : -1, err);
        if (status != SP_OK) {
            return status;
        }
        if (!s->json) {
            printf("[%zu]%.4f,", i + 1, exp(s->nll / (double)s->count));
            fflush(stdout);
        }
    }
    return SP_OK;
}

static void print_result(const scoring *s, size_t n_tokens) {
    double mean = s->nll / (double)s->count, variance = s->nll2 / (double)s->count - mean * mean;
    double perplexity = exp(mean), error = s->count > 1 && variance > 0 ? sqrt(variance / (double)(s->count - 1)) * perplexity : 0;
    if (!s->json) {
        printf("\nFinal estimate: PPL = %.4f +/- %.5f\n", perplexity, error);
        return;
    }
    json_t *root = json_pack("{s:f, s:f, s:f, s:i, s:i, s:I, s:I, s:s}", "perplexity", perplexity, "error", error, "nll", mean, "chunks", s->n_chunks,
                             "n_ctx", s->n_ctx, "scored_tokens", (json_int_t)s->count, "tokens", (json_int_t)n_tokens, "fingerprint",
                             sp_model_fingerprint(sp_llm_model(s->client)));
    json_dumpf(root, stdout, JSON_INDENT(2));
    putchar('\n');
    json_decref(root);
}

static sp_status score_text(scoring *s, const char *text, size_t length, sp_error *err) {
    size_t n = 0, capacity = length + 16;
    int32_t *tokens = malloc(capacity * sizeof *tokens);
    if (!tokens) {
        return sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    }
    sp_status status = sp_model_tokenize(sp_llm_model(s->client), text, length, SP_TOKENIZE_ADD_SPECIAL, tokens, capacity, &n, err);
    if (status == SP_OK) {
        status = score(s, tokens, n, err);
    }
    if (status == SP_OK) {
        print_result(s, n);
    } else if (s->count && !s->json) {
        putchar('\n');
    }
    free(tokens);
    return status;
}

int sp_cmd_perplexity(int argc, char **argv) {
    scoring s = {.n_ctx = 512, .n_chunks = -1};
    sp_llm_settings settings = sp_llm_defaults;
    const sp_option own[] = {{'c', "ctx-size", SP_OPT_INT, &s.n_ctx, 8, 1 << 20, "N", "tokens of a chunk (default: 512)"},
                             {0, "chunks", SP_OPT_INT, &s.n_chunks, -1, 1e9, "N", "chunks at most (default: -1, all)"},
                             {0, "json", SP_OPT_FLAG, &s.json, 0, 0, NULL, "the figures as JSON"},
                             {0}};
    sp_option table[SP_LLM_MODEL_ROWS + sizeof own / sizeof own[0]];
    memcpy(table + sp_llm_model_rows(&settings, table), own, sizeof own);
    int at = sp_options_parse(table, "perplexity", "[OPTION...] FILE",
                              "Measures how well a model expects a text: e to the mean negative log-probability of the second half of each chunk.",
                              argc, argv);
    if (at < 0) {
        return -1 - at;
    }
    if (at != argc - 1) {
        return sp_usage_error("perplexity", at == argc ? "name a file with a text" : "%s: one file is enough", argv[at == argc ? at - 1 : argc - 1]);
    }
    sp_error err;
    size_t length;
    char *text = sp_read_file(argv[at], &length, &err);
    if (!text) {
        return sp_failed(&err);
    }
    settings.n_ctx = s.n_ctx;
    sp_status status = sp_llm_open(&settings, &s.client, &err);
    if (status == SP_OK) {
        sp_llm_catch_interrupts(s.client);
        status = score_text(&s, text, length, &err);
        sp_llm_close(s.client);
    }
    free(text);
    if (status == SP_OK && fflush(stdout) != 0) {
        status = sp_fail(&err, SP_ERR_IO, "standard output can't be written");
    }
    return status == SP_OK ? SP_EXIT_OK : sp_failed(&err);
}
