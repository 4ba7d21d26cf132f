/*
 * `samepage bench decode`: the guest against libllama, on the same file, with the same threads, in turns within one run. Ratios are what counts: the
 * machine's own speed drifts, and both sides drift with it.
 */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/error.h"
#include "cli/bench.h"
#include "cli/bench_peer.h"
#include "cli/cmd.h"
#include "cli/llm_client.h"
#include "model/model.h"
#include "samepage/program.h"

enum { MAX_ROUNDS = 31, CONTEXT = 4096, DECODE_FROM = 8, PREFILL = 512, MAX_SUBJECTS = 13 };

typedef struct bench_options {
    const char *model, *folder, *kind, *type;
    int32_t threads, rounds, depth;
    bool json, small;
    double bandwidth; /* bytes per second that the machine reads */
} bench_options;

typedef struct subject {
    const char *name, *type, *path;
    const char *kind;  /* of a synthetic model that is written when its turn comes; NULL: the file is there */
    int decode_tokens; /* a measurement long enough to be one */
} subject;

typedef struct phase {
    const char *name;
    uint32_t context; /* tokens before what is measured */
    bool prefill;
} phase;

/*
 * A text of exactly n tokens: whole words of the vocabulary, one after the other, as many as it takes. Both sides get the same ids. Returns a
 * malloc'ed string, and the ids in *tokens, or NULL.
 */
static char *text_of(const sp_model *model, uint32_t n, int32_t **tokens, sp_error *err) {
    static const char *const words[] = {" the", " cat", " is", " in", " box", " and", " a", " key"};
    size_t capacity = (size_t)n * 8 + 64, length = 0, count = 0;
    char *text = calloc(1, capacity);
    *tokens = malloc((n + 64) * sizeof **tokens);
    for (uint32_t i = 0; text && *tokens && i < n * 2; i++) {
        const char *word = words[(i * 5 + i / 7) % 8];
        size_t before = length;
        length += (size_t)snprintf(text + length, capacity - length, "%s", word);
        if (sp_model_tokenize(model, text, length, SP_TOKENIZE_ADD_SPECIAL, *tokens, n + 64, &count, err) != SP_OK || length + 16 > capacity) {
            break;
        }
        if (count == n) {
            return text;
        }
        if (count > n) { /* this word has more tokens than there is room for: single characters instead */
            for (length = before; length + 2 < capacity; length++) {
                text[length] = '.', text[length + 1] = 0;
                if (sp_model_tokenize(model, text, length + 1, SP_TOKENIZE_ADD_SPECIAL, *tokens, n + 64, &count, err) != SP_OK || count > n) {
                    break;
                }
                if (count == n) {
                    return text;
                }
            }
            break;
        }
    }
    free(text);
    free(*tokens);
    *tokens = NULL;
    sp_fail(err, SP_ERR_UNSUPPORTED, "the vocabulary gives no text of exactly %u tokens", n);
    return NULL;
}

/* When tokens arrived, on this side of the sandbox. */
typedef struct clock_marks {
    uint64_t first, last;
} clock_marks;

static void on_token(void *user, const sp_llm_token *token, const char *text) {
    (void)text;
    clock_marks *marks = user;
    if (token->token >= 0) {
        marks->last = sp_bench_now_ns();
        marks->first = marks->first ? marks->first : marks->last;
    }
}

/* What one measurement found: tokens per second of each side, and the share of the guest's step that is not the device's computation. */
typedef struct sample {
    double ours, theirs, guest_share, guest_us;
} sample;

static sp_status measure_guest(sp_llm_client *guest, const char *text, uint32_t n_tokens, bool prefill, sp_llm_settings *settings, int n_decode,
                               sample *out, sp_error *err) {
    clock_marks marks = {0};
    sp_llm_events events = {.on_token = on_token, .user = &marks};
    sp_llm_done done;
    sp_actor_stats before, after;
    settings->max_tokens = prefill ? 1 : n_decode + 1;
    sp_status status = sp_llm_configure(guest, settings, err);
    sp_actor_get_stats(sp_llm_actor(guest), &before);
    uint64_t start = sp_bench_now_ns();
    if (status == SP_OK) {
        status = sp_llm_ask(guest, SP_LLM_COMPLETE, text, strlen(text), &events, &done, err);
    }
    sp_actor_get_stats(sp_llm_actor(guest), &after);
    if (status != SP_OK) {
        return status;
    }
    out->ours = prefill ? n_tokens / ((double)(marks.first - start) * 1e-9) : n_decode / ((double)(marks.last - marks.first) * 1e-9);
    double guest_ns = (double)(after.guest_ns - before.guest_ns), device_ns = (double)(after.device_ns - before.device_ns);
    out->guest_share = guest_ns / (guest_ns + device_ns);
    out->guest_us = guest_ns * 1e-3 / (double)(after.steps - before.steps);
    return SP_OK;
}

static sp_status measure_peer(sp_peer *peer, const int32_t *tokens, uint32_t n_tokens, bool prefill, int n_decode, sample *out, sp_error *err) {
    uint64_t start = sp_bench_now_ns();
    int32_t next = sp_peer_prefill(peer, tokens, n_tokens);
    uint64_t middle = sp_bench_now_ns();
    for (int i = 0; next >= 0 && !prefill && i < n_decode; i++) {
        next = sp_peer_decode(peer, next);
    }
    uint64_t end = sp_bench_now_ns();
    out->theirs = prefill ? n_tokens / ((double)(middle - start) * 1e-9) : n_decode / ((double)(end - middle) * 1e-9);
    return next >= 0 ? SP_OK : sp_fail(err, SP_ERR_DEVICE, "libllama failed to evaluate");
}

/* ggml's threads poll for some 60 ms after their last work. The other side's turn begins when they sleep, or it would share the cores with them. */
static void let_threads_sleep(void) {
    nanosleep(&(struct timespec){.tv_nsec = 200000000}, NULL);
}

/* Both sides, in an order that changes from round to round. */
static sp_status measure(sp_llm_client *guest, sp_peer *peer, const char *text, const int32_t *tokens, uint32_t n_tokens, bool prefill,
                         sp_llm_settings *settings, int n_decode, int round, sample *out, sp_error *err) {
    sp_status status = SP_OK;
    for (int side = 0; status == SP_OK && side < 2; side++) {
        let_threads_sleep();
        status = (side + round) % 2 ? measure_peer(peer, tokens, n_tokens, prefill, n_decode, out, err)
                                    : measure_guest(guest, text, n_tokens, prefill, settings, n_decode, out, err);
    }
    return status;
}

/* Bytes of weights that a token needs: all but the table of embeddings, unless it is the output's too, and of experts those that are used. */
static double bytes_per_token(sp_llm_client *guest) {
    const sp_weight_table *table = sp_model_weight_table(sp_llm_model(guest));
    const char *value = NULL, *name = NULL;
    char key[96];
    double experts = 0, used = 0, bytes = 0;
    sp_error err;
    if (sp_model_meta(sp_llm_model(guest), "general.architecture", &name, &err) == SP_OK) {
        snprintf(key, sizeof key, "%s.expert_count", name);
        experts = sp_model_meta(sp_llm_model(guest), key, &value, &err) == SP_OK ? atof(value) : 0;
        snprintf(key, sizeof key, "%s.expert_used_count", name);
        used = sp_model_meta(sp_llm_model(guest), key, &value, &err) == SP_OK ? atof(value) : 0;
    }
    for (uint32_t i = 0; i < table->n; i++) {
        const struct sp_weight_entry *e = &table->entries[i];
        const sp_type_traits *type = sp_type_get(e->type);
        const double size = type ? (double)e->ne[0] / type->block * type->size * (double)e->ne[1] * (double)e->ne[2] : 0;
        bytes += e->ne[2] > 1 && experts > 0 ? size * used / experts : size;
    }
    return bytes;
}

static sp_status bench_phase(sp_llm_client *guest, sp_peer *peer, const subject *s, const phase *what, const bench_options *options,
                             sp_llm_settings *settings, json_t *results, sp_error *err) {
    uint32_t n_tokens = what->prefill ? PREFILL : what->context ? what->context : DECODE_FROM;
    uint32_t room = sp_llm_ready_info(guest)->n_ctx - (uint32_t)s->decode_tokens - 8;
    n_tokens = n_tokens < room ? n_tokens : room;
    int32_t *tokens;
    char *text = text_of(sp_llm_model(guest), n_tokens, &tokens, err);
    if (!text) {
        return SP_ERR_UNSUPPORTED;
    }
    double ours[MAX_ROUNDS], theirs[MAX_ROUNDS], ratios[MAX_ROUNDS], shares[MAX_ROUNDS], guest_us[MAX_ROUNDS];
    sp_status status = SP_OK;
    for (int round = -1; status == SP_OK && round < options->rounds; round++) { /* the first warms up */
        sample one = {0};
        status = measure(guest, peer, text, tokens, n_tokens, what->prefill, settings, s->decode_tokens, round + 1, &one, err);
        if (round >= 0) {
            ours[round] = one.ours, theirs[round] = one.theirs, ratios[round] = one.ours / one.theirs;
            shares[round] = one.guest_share, guest_us[round] = one.guest_us;
        }
    }
    free(text);
    free(tokens);
    if (status != SP_OK) {
        return status;
    }
    int n = options->rounds, context = what->prefill ? 0 : (int)n_tokens;
    double ratio = sp_bench_median(ratios, n), share = sp_bench_median(shares, n), us = sp_bench_median(guest_us, n),
           us_per_token = sp_bench_median(ours, n), peer_tps = sp_bench_median(theirs, n);
    /* The share of the memory's bandwidth that reading every weight for each token takes. */
    const double reached = what->prefill || options->bandwidth <= 0 ? 0 : us_per_token * bytes_per_token(guest) / options->bandwidth;
    json_array_append_new(results, json_pack("{s:s, s:s, s:s, s:i, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f}", "model", s->name, "type", s->type,
                                             "phase", what->name, "context", context, "samepage_tps", us_per_token, "libllama_tps", peer_tps, "ratio",
                                             ratio, "ratio_min", ratios[0], "ratio_max", ratios[n - 1], "guest_us_per_step", us, "guest_share", share,
                                             "bandwidth_share", reached));
    if (!options->json) {
        printf("%-12s %-6s %-8s %7d %10.1f %10.1f %7.3f  %.3f-%.3f %8.1f %7.2f %% %7.1f %%\n", s->name, s->type, what->name, context, us_per_token,
               peer_tps, ratio, ratios[0], ratios[n - 1], us, share * 100, reached * 100);
        fflush(stdout);
    }
    return SP_OK;
}

static sp_status bench_subject(const subject *s, const bench_options *options, json_t *results, sp_error *err) {
    sp_llm_settings settings = sp_llm_defaults;
    settings.model = s->path;
    settings.threads = options->threads;
    settings.temperature = 0;
    settings.ignore_end = true;
    settings.n_ctx = CONTEXT;
    sp_llm_client *guest = NULL;
    sp_peer *peer = NULL;
    sp_status status = sp_llm_open(&settings, &guest, err);
    if (status == SP_OK) {
        status = sp_peer_open(s->path, CONTEXT, options->threads, &peer, err);
    }
    const phase phases[] = {{"prefill", 0, true}, {"decode", 0, false}, {"decode", (uint32_t)options->depth, false}};
    const size_t n = options->depth ? 3 : 2;
    for (size_t i = 0; status == SP_OK && i < n; i++) {
        status = bench_phase(guest, peer, s, &phases[i], options, &settings, results, err);
    }
    sp_peer_close(peer);
    sp_llm_close(guest);
    return status;
}

static const char *const kinds[] = {"dense", "mixture", "window", "hybrid"};
static const struct {
    const char *name;
    uint32_t type;
} types[] = {{"q4_0", SP_TYPE_Q4_0}, {"q4_K_M", SP_TYPE_Q4_K}, {"q8_0", SP_TYPE_Q8_0}};
enum { N_KINDS = sizeof kinds / sizeof kinds[0], N_TYPES = sizeof types / sizeof types[0] };

static bool wanted(const char *asked, const char *name, const char *usual) {
    return asked ? strcmp(asked, "all") == 0 || strcmp(asked, name) == 0 : strstr(usual, name) != NULL;
}

/* The models to measure. */
static sp_status choose(const bench_options *options, subject out[MAX_SUBJECTS], size_t *n, sp_error *err) {
    static char paths[MAX_SUBJECTS][4096];
    *n = 0;
    if (options->model) {
        out[(*n)++] = (subject){.name = "file", .type = "", .path = options->model, .decode_tokens = 64};
        return SP_OK;
    }
    sp_status status = SP_OK;
    if (!options->kind) {
        snprintf(paths[0], sizeof paths[0], "%s/samepage-pocket.gguf", options->folder);
        status = sp_bench_write_pocket(paths[0], err);
        out[(*n)++] = (subject){.name = "pocket", .type = "q8_0", .path = paths[0], .decode_tokens = 256};
    }
    for (int k = 0; k < N_KINDS && !options->small; k++) {
        for (int t = 0; t < N_TYPES; t++) {
            if (wanted(options->kind, kinds[k], "dense") && wanted(options->type, types[t].name, options->kind ? "q4_0 q4_K_M q8_0" : "q4_0 q8_0")) {
                char *path = paths[*n];
                /* The dense ones are the Llama of `bench state`. */
                snprintf(path, sizeof paths[0], "%s/samepage-%s-1b-%s.gguf", options->folder, k == 0 ? "llama" : kinds[k], types[t].name);
                out[(*n)++] = (subject){.name = kinds[k], .type = types[t].name, .path = path, .kind = kinds[k], .decode_tokens = 32};
            }
        }
    }
    return status == SP_OK && *n == 0
               ? sp_fail(err, SP_ERR_ARGUMENT, "no such model: kinds are dense, mixture, window, hybrid and all; types q4_0, q4_K_M, q8_0 and all")
               : status;
}

static sp_status write_subject(const subject *s, sp_error *err) {
    for (int t = 0; s->kind && t < N_TYPES; t++) {
        if (strcmp(types[t].name, s->type) == 0) {
            return sp_bench_write_synthetic(s->path, s->kind, types[t].type, err);
        }
    }
    return SP_OK;
}

static sp_status bench_decode(bench_options *options, json_t *results, sp_error *err) {
    subject subjects[MAX_SUBJECTS];
    size_t n;
    sp_status status = choose(options, subjects, &n, err);
    options->bandwidth = status == SP_OK ? sp_bench_bandwidth(options->threads) : 0;
    if (status == SP_OK && !options->json) {
        printf("reading memory: %.1f GB/s with %d threads\n", options->bandwidth * 1e-9, options->threads);
        printf("%-12s %-6s %-8s %7s %10s %10s %7s  %-11s %8s %9s %9s\n", "model", "type", "phase", "context", "samepage", "libllama", "ratio",
               "spread", "guest us", "share", "bandwidth");
    }
    for (size_t i = 0; status == SP_OK && i < n; i++) {
        status = write_subject(&subjects[i], err);
        status = status == SP_OK ? bench_subject(&subjects[i], options, results, err) : status;
    }
    return status;
}

int sp_bench_decode(int argc, char **argv) {
    bench_options o = {.folder = "/tmp", .rounds = 5, .depth = 2048};
    const sp_option table[] = {
        {'m', "model", SP_OPT_TEXT, &o.model, 0, 0, "FILE", "measure this GGUF (default: pocket, and a synthetic Llama of 1.24 B in Q4_0 and Q8_0)"},
        {0, "model-kind", SP_OPT_TEXT, &o.kind, 0, 0, "KIND", "synthetic models of about 1 B parameters: dense, mixture, window, hybrid or all"},
        {0, "model-type", SP_OPT_TEXT, &o.type, 0, 0, "TYPE", "of their weights: q4_0, q4_K_M, q8_0 or all (default: with a kind, all)"},
        {'t', "threads", SP_OPT_INT, &o.threads, 1, 512, "N", "CPU threads of both sides (default: all cores)"},
        {0, "rounds", SP_OPT_INT, &o.rounds, 1, MAX_ROUNDS, "N", "measurements of each side, in turns (default: 5); medians are shown"},
        {0, "depth", SP_OPT_INT, &o.depth, 0, CONTEXT - 512, "N",
         "tokens of context at which decoding is measured too; 0: at its beginning alone (default: 2048)"},
        {0, "folder", SP_OPT_TEXT, &o.folder, 0, 0, "DIR", "where synthetic models are written and kept (default: /tmp; 2 GB)"},
        {0, "small", SP_OPT_FLAG, &o.small, 0, 0, NULL, "the embedded model alone"},
        {0, "json", SP_OPT_FLAG, &o.json, 0, 0, NULL, "as JSON"},
        {0},
    };
    int at =
        sp_options_parse(table, "bench decode", "[OPTION...]",
                         "Measures the guest against libllama on the same file with the same threads, in turns: tokens per second, their ratio, and\n"
                         "what a step of the guest costs outside of the device's computation.",
                         argc, argv);
    if (at < 0) {
        return -1 - at;
    }
    if (at < argc) {
        return sp_usage_error("bench decode", "%s: bench decode takes no operands", argv[at]);
    }
    o.threads = o.threads ? o.threads : (int32_t)sysconf(_SC_NPROCESSORS_ONLN);
    json_t *results = json_array();
    sp_error err;
    sp_status status = bench_decode(&o, results, &err);
    if (status == SP_OK && o.json) {
        json_t *root = json_pack("{s:i, s:O}", "threads", o.threads, "results", results);
        json_dumpf(root, stdout, JSON_INDENT(2));
        putchar('\n');
        json_decref(root);
    }
    json_decref(results);
    return status == SP_OK ? SP_EXIT_OK : sp_failed(&err);
}
