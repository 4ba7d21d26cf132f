/*
 * `samepage bench decode`: the guest against libllama, on the same file, with the same threads, in turns within one run. Ratios are what counts: the machine's
 * own speed drifts, and both sides drift with it.
 */
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/error.h"
#include "cli/bench.h"
#include "cli/bench_guest.h"
#include "cli/bench_peer.h"
#include "cli/embedded.h"
#include "model/model.h"
#include "model/synthetic.h"

enum { MAX_ROUNDS = 31 };

typedef struct subject {
    const char *name, *type, *path;
    int decode_tokens; /* a measurement long enough to be one */
} subject;

typedef struct phase {
    const char *name;
    uint32_t context; /* tokens before what is measured */
    bool prefill;
} phase;

static const phase phases[] = {{"prefill", 0, true}, {"decode", 0, false}, {"decode", 2048, false}};

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, int n) {
    qsort(values, (size_t)n, sizeof *values, by_value);
    return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

/*
 * A text of exactly n tokens: whole words of the vocabulary, one after the other, as many as it takes. Both sides get the same ids. Returns a malloc'ed string, and
 * the ids in *tokens, or NULL.
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
        if (count > n) { /* this word has more tokens than there is room for: take a single character instead */
            length = before;
            length += (size_t)snprintf(text + length, capacity - length, ".");
            if (sp_model_tokenize(model, text, length, SP_TOKENIZE_ADD_SPECIAL, *tokens, n + 64, &count, err) == SP_OK && count == n) {
                return text;
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

/* One measurement of each side; tokens per second. */
static sp_status measure(sp_bench_guest *guest, sp_peer *peer, const char *text, const int32_t *tokens, uint32_t n_tokens, const phase *what, int n_decode,
                         double out[2], sp_error *err) {
    sp_bench_answer answer;
    sp_status status = sp_bench_guest_complete(guest, text, what->prefill ? 1 : n_decode + 1, &answer, err);
    if (status != SP_OK) {
        return status;
    }
    out[0] = what->prefill ? n_tokens / (answer.prompt_ns * 1e-9) : n_decode / (answer.answer_ns * 1e-9);
    uint64_t start = now_ns();
    int32_t next = sp_peer_prefill(peer, tokens, n_tokens);
    uint64_t middle = now_ns();
    for (int i = 0; next >= 0 && !what->prefill && i < n_decode; i++) {
        next = sp_peer_decode(peer, next);
    }
    if (next < 0) {
        return sp_fail(err, SP_ERR_DEVICE, "libllama failed to evaluate");
    }
    uint64_t end = now_ns();
    out[1] = what->prefill ? n_tokens / ((middle - start) * 1e-9) : n_decode / ((end - middle) * 1e-9);
    return SP_OK;
}

static sp_status bench_phase(sp_bench_guest *guest, sp_peer *peer, const subject *s, const phase *what, const sp_bench_options *options, json_t *results,
                             sp_error *err) {
    uint32_t n_tokens = what->prefill ? 512 : what->context ? what->context : 8;
    uint32_t room = sp_bench_n_ctx(options);
    if (n_tokens + (uint32_t)s->decode_tokens + 8 > room) {
        n_tokens = room - (uint32_t)s->decode_tokens - 8;
    }
    int32_t *tokens;
    char *text = text_of(sp_bench_guest_model(guest), n_tokens, &tokens, err);
    if (!text) {
        return err ? err->status : SP_ERR_UNSUPPORTED;
    }
    double speeds[2][MAX_ROUNDS], ratios[MAX_ROUNDS];
    sp_status status = SP_OK;
    for (int round = -1; status == SP_OK && round < options->rounds; round++) { /* the first warms up */
        double speed[2];
        status = measure(guest, peer, text, tokens, n_tokens, what, s->decode_tokens, speed, err);
        if (status == SP_OK && round >= 0) {
            speeds[0][round] = speed[0], speeds[1][round] = speed[1];
            ratios[round] = speed[0] / speed[1];
        }
    }
    free(text);
    free(tokens);
    if (status != SP_OK) {
        return status;
    }
    double ours = median(speeds[0], options->rounds), theirs = median(speeds[1], options->rounds), ratio = median(ratios, options->rounds);
    json_array_append_new(results, json_pack("{s:s, s:s, s:s, s:i, s:f, s:f, s:f, s:f, s:f}", "model", s->name, "type", s->type, "phase", what->name, "context",
                                             what->prefill ? 0 : (int)n_tokens, "samepage_tps", ours, "libllama_tps", theirs, "ratio", ratio, "ratio_min", ratios[0],
                                             "ratio_max", ratios[options->rounds - 1]));
    if (!options->json) {
        printf("%-16s %-6s %-8s %8u %12.1f %12.1f %8.3f   %.3f to %.3f\n", s->name, s->type, what->name, what->prefill ? 0 : n_tokens, ours, theirs, ratio, ratios[0],
               ratios[options->rounds - 1]);
        fflush(stdout);
    }
    return SP_OK;
}

static sp_status bench_subject(const subject *s, const sp_bench_options *options, json_t *results, sp_error *err) {
    sp_bench_guest *guest = NULL;
    sp_peer *peer = NULL;
    sp_status status = sp_bench_guest_open(s->path, "cpu", sp_bench_n_ctx(options), options->threads, &guest, err);
    if (status == SP_OK) {
        status = sp_peer_open(s->path, sp_bench_n_ctx(options), options->threads, &peer, err);
    }
    for (size_t i = 0; status == SP_OK && i < sizeof phases / sizeof phases[0]; i++) {
        status = bench_phase(guest, peer, s, &phases[i], options, results, err);
    }
    sp_peer_close(peer);
    sp_bench_guest_close(guest);
    return status;
}

/* Writes the embedded model into a file that libllama can open too. */
static sp_status write_pocket(const char *path, sp_error *err) {
    FILE *file = fopen(path, "wb");
    bool ok = file && fwrite(sp_embedded_pocket, 1, sp_embedded_pocket_size, file) == sp_embedded_pocket_size;
    if (file && fclose(file) != 0) {
        ok = false;
    }
    return ok ? SP_OK : sp_fail(err, SP_ERR_IO, "can't write %s: %s", path, strerror(errno));
}

sp_status sp_bench_decode(const sp_bench_options *options, json_t *results, sp_error *err) {
    char pocket[4096], paths[2][4096];
    snprintf(pocket, sizeof pocket, "%s/bench-pocket.gguf", options->folder);
    subject subjects[3];
    size_t n = 0;
    sp_status status = SP_OK;
    if (options->model) {
        subjects[n++] = (subject){options->model, "file", options->model, 64};
    } else {
        status = write_pocket(pocket, err);
        subjects[n++] = (subject){"pocket", "q8_0", pocket, 256};
        static const struct {
            uint32_t type;
            const char *name;
        } types[] = {{SP_TYPE_Q4_0, "q4_0"}, {SP_TYPE_Q8_0, "q8_0"}};
        for (int i = 0; status == SP_OK && !options->small && i < 2; i++) {
            snprintf(paths[i], sizeof paths[i], "%s/bench-llama-1b-%s.gguf", options->folder, types[i].name);
            status = sp_bench_synthetic(paths[i], types[i].type, err);
            subjects[n++] = (subject){"llama-1.24b", types[i].name, paths[i], 32};
        }
    }
    if (status == SP_OK && !options->json) {
        printf("%-16s %-6s %-8s %8s %12s %12s %8s   %s\n", "model", "type", "phase", "context", "samepage t/s", "libllama t/s", "ratio", "spread");
    }
    for (size_t i = 0; status == SP_OK && i < n; i++) {
        status = bench_subject(&subjects[i], options, results, err);
    }
    return status;
}
