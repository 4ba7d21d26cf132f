/*
 * `samepage bench state`: what it costs to put a conversation away and to take it up again, by the length of its context: freeze, commit and thaw,
 * beside libllama's sequence state files and beside reading the prompt again. One run, one model, one machine.
 *
 * A cache that long need not be computed to be moved: beyond the first tokens its cells are filled with finite random values, on both sides.
 */
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "abi/abi.h"
#include "cli/bench.h"
#include "cli/bench_peer.h"
#include "cli/cmd.h"
#include "cli/llm_client.h"
#include "cli/plot.h"
#include "memory/os.h"

enum { MAX_CONTEXTS = SP_PLOT_POINTS, MAX_ROUNDS = 15, REAL = 64, TURN = 32, STEPS = 5, PREFILL_MOST = 1024, CELL_STEP = 256 };

typedef struct state_options {
    const char *model, *folder, *plot, *contexts;
    int32_t threads, rounds;
    bool json;
} state_options;

/* What is measured at one context; milliseconds, medians. */
typedef struct figures {
    double freeze, commit, commit_cold, thaw, thaw_cold, first, first_cold, decode, save, load, load_cold, prefill;
    uint64_t commit_bytes, file_bytes, peer_bytes;
    bool prefill_by_rate;
} figures;

typedef struct bench {
    const state_options *options;
    const char *name, *path;
    char session[4096], peer_file[4096];
    uint32_t contexts[MAX_CONTEXTS], n_contexts, n_ctx, n_cells, n_vocab;
    sp_llm_client *guest;
    sp_peer *peer;
    int32_t *tokens; /* n_ctx of them, for both sides */
    figures results[MAX_CONTEXTS];
} bench;

static double ms_since(uint64_t start) {
    return (double)(sp_bench_now_ns() - start) * 1e-6;
}

/* ---- the page cache ---- */

/* Takes a file's pages out of memory; what was written to it is on the disk first. */
static sp_status drop_cache(const char *path, sp_error *err) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    bool dropped = fd >= 0 && fsync(fd) == 0 && sp_os_drop_cached(fd);
    int failed = errno;
    if (fd >= 0) {
        close(fd);
    }
    return dropped ? SP_OK : sp_fail(err, SP_ERR_IO, "%s: its pages can't be dropped from memory: %s", path, strerror(failed));
}

/* ---- the guest's side ---- */

/* Evaluates tokens after what is there, or takes them as evaluated. */
static sp_status evaluate(sp_llm_client *client, const int32_t *tokens, uint32_t n, bool assume, sp_error *err) {
    size_t size = sizeof(sp_llm_eval) + n * sizeof *tokens;
    sp_llm_eval *message = malloc(size);
    if (!message) {
        return sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    }
    *message = (sp_llm_eval){.kind = SP_LLM_EVAL, .n_tokens = n, .assume = assume};
    memcpy(message + 1, tokens, n * sizeof *tokens);
    sp_status status = sp_llm_ask_bytes(client, message, size, NULL, NULL, err);
    free(message);
    return status;
}

static sp_status forget(sp_llm_client *client, sp_error *err) {
    sp_llm_simple reset = {.kind = SP_LLM_RESET};
    return sp_llm_ask_bytes(client, &reset, sizeof reset, NULL, NULL, err);
}

/* Finite F16 values between 1/8 and 2 that no file system finds equal. bytes: a multiple of 4. */
static void fill_random(uint8_t *at, uint64_t bytes, uint64_t *random) {
    for (uint64_t i = 0; i + 4 <= bytes; i += 4) {
        *random ^= *random << 13, *random ^= *random >> 7, *random ^= *random << 17;
        uint32_t pair = (uint32_t)*random;
        pair = (pair & 0x8fff8fffu) | 0x30003000u; /* sign and mantissa by chance, exponent 12 to 15 of 31 */
        memcpy(at + i, &pair, sizeof pair);
    }
}

/* The cells [from, to) of every state that the model's program has: a row for each cell, in the slots that it is bound to. */
static sp_status fill_cells(bench *b, uint32_t from, uint32_t to, sp_error *err) {
    sp_actor *actor = sp_llm_actor(b->guest);
    uint64_t size, cells = b->n_cells, random = 0x9e3779b97f4a7c15u, filled = 0;
    uint8_t *memory = sp_actor_memory(actor, &size);
    for (uint32_t p = 0; p < actor->limits.programs; p++) {
        const sp_loaded *loaded = &actor->programs[p];
        uint32_t n_slots = loaded->program ? sp_program_get_header(loaded->program)->n_slots : 0;
        for (uint32_t i = 0; i < n_slots; i++) {
            const sp_bound_slot *slot = &loaded->slots[i];
            if (!(sp_program_slots(loaded->program)[i].flags & SP_SLOT_STATE) || slot->region < 0 || slot->length % cells != 0) {
                continue;
            }
            uint64_t row = slot->length / cells;
            fill_random(memory + actor->regions[slot->region].start + slot->offset + from * row, (to - from) * row, &random);
            filled += (to - from) * row;
        }
    }
    return filled || from == to ? SP_OK : sp_fail(err, SP_ERR_UNSUPPORTED, "the model has no attention cache to fill");
}

static sp_status reach(bench *b, uint32_t context, sp_error *err) {
    uint32_t real = context < REAL ? context : REAL;
    sp_status status = forget(b->guest, err);
    status = status ? status : evaluate(b->guest, b->tokens, real, false, err);
    if (status == SP_OK && context > real) {
        status = fill_cells(b, real, context, err);
        status = status ? status : evaluate(b->guest, b->tokens + real, context - real, true, err);
    }
    return status;
}

static sp_status new_session(bench *b, sp_session **out, sp_error *err) {
    sp_model *model = sp_llm_model(b->guest);
    unlink(b->session);
    return sp_session_create(b->session, sp_llm_module(b->guest), &model, 1, out, err);
}

/* A whole freeze into a new file; then a turn of 32 tokens, committed; then, if asked for, another with the file out of memory. */
static sp_status freeze_round(bench *b, int round, double *freeze, double *commit, double *commit_cold, figures *f, sp_error *err) {
    sp_session *session;
    uint64_t start, number = 0;
    sp_status status = new_session(b, &session, err);
    if (status != SP_OK) {
        return status;
    }
    start = sp_bench_now_ns();
    status = sp_actor_freeze(sp_llm_actor(b->guest), session, NULL, NULL, err);
    freeze[round] = ms_since(start);
    for (int cold = 0; status == SP_OK && cold < 2; cold++) {
        /* Other tokens each time: the same ones would make the same cells, which are no change. */
        status = evaluate(b->guest, b->tokens + 2 * round + cold, TURN, false, err);
        status = status || !cold ? status : drop_cache(b->session, err);
        start = sp_bench_now_ns();
        status = status ? status : sp_actor_freeze(sp_llm_actor(b->guest), session, NULL, &number, err);
        (cold ? commit_cold : commit)[round] = ms_since(start);
        if (status == SP_OK && !cold) {
            f->commit_bytes = sp_session_get(session, number)->file_bytes;
        }
    }
    sp_session_info info;
    sp_session_get_info(session, &info);
    f->file_bytes = info.own_bytes;
    sp_session_close(session);
    return status;
}

/* The commit before the turns, thawed from the file in another actor, and its first token. */
static sp_status thaw_round(bench *b, uint32_t context, sp_llm_client *into, double *thaw, double *first, sp_error *err) {
    sp_session *session;
    uint64_t start = sp_bench_now_ns();
    sp_status status = sp_session_open(b->session, true, &session, err);
    if (status != SP_OK) {
        return status;
    }
    status = sp_llm_thaw(into, session, 1, err);
    *thaw = ms_since(start);
    status = status ? status : evaluate(into, b->tokens + context, 1, false, err);
    *first = ms_since(start);
    sp_session_close(session);
    return status;
}

static sp_status measure_guest(bench *b, uint32_t context, figures *f, sp_error *err) {
    double freeze[MAX_ROUNDS], commit[MAX_ROUNDS], commit_cold[MAX_ROUNDS], decode[MAX_ROUNDS * STEPS], thaw[2][MAX_ROUNDS], first[2][MAX_ROUNDS];
    int n = b->options->rounds;
    sp_llm_client *into = NULL; /* another conversation with the same model in one process */
    sp_status status = SP_OK;
    for (int round = 0; status == SP_OK && round < n; round++) {
        status = reach(b, context, err);
        status = status ? status : freeze_round(b, round, freeze, commit, commit_cold, f, err);
        for (int cold = 0; status == SP_OK && cold < 2; cold++) {
            sp_llm_close(into); /* so that nothing maps the file */
            status = sp_llm_prepare_beside(b->guest, &into, err);
            status = status || !cold ? status : drop_cache(b->session, err);
            status = status ? status : thaw_round(b, context, into, &thaw[cold][round], &first[cold][round], err);
        }
        for (int step = 0; status == SP_OK && step < STEPS; step++) {
            uint64_t start = sp_bench_now_ns();
            status = evaluate(into, b->tokens + context + 1 + step, 1, false, err);
            decode[round * STEPS + step] = ms_since(start);
        }
    }
    sp_llm_close(into);
    if (status == SP_OK) {
        f->freeze = sp_bench_median(freeze, n), f->commit = sp_bench_median(commit, n), f->commit_cold = sp_bench_median(commit_cold, n);
        f->thaw = sp_bench_median(thaw[0], n), f->thaw_cold = sp_bench_median(thaw[1], n), f->decode = sp_bench_median(decode, n * STEPS);
        f->first = sp_bench_median(first[0], n) - f->decode, f->first_cold = sp_bench_median(first[1], n) - f->decode;
    }
    return status;
}

/* ---- libllama's side ---- */

static sp_status measure_peer(bench *b, uint32_t context, figures *f, sp_error *err) {
    double save[MAX_ROUNDS], load[2][MAX_ROUNDS];
    int n = b->options->rounds;
    int32_t *back = malloc(b->n_ctx * sizeof *back);
    sp_status status = back ? SP_OK : sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    if (status == SP_OK && sp_peer_prefill(b->peer, b->tokens, context < REAL ? context : REAL) < 0) {
        status = sp_fail(err, SP_ERR_DEVICE, "libllama failed to evaluate");
    }
    status = status ? status : sp_peer_assume(b->peer, context, err);
    for (int round = 0; status == SP_OK && round < n; round++) {
        uint64_t start = sp_bench_now_ns();
        status = sp_peer_save(b->peer, b->peer_file, b->tokens, context, err);
        save[round] = ms_since(start);
        for (int cold = 0; status == SP_OK && cold < 2; cold++) {
            status = cold ? drop_cache(b->peer_file, err) : SP_OK;
            start = sp_bench_now_ns();
            status = status ? status : sp_peer_load(b->peer, b->peer_file, back, b->n_ctx, err);
            load[cold][round] = ms_since(start);
        }
    }
    struct stat st;
    f->peer_bytes = stat(b->peer_file, &st) == 0 ? (uint64_t)st.st_size : 0;
    if (status == SP_OK) {
        f->save = sp_bench_median(save, n), f->load = sp_bench_median(load[0], n), f->load_cold = sp_bench_median(load[1], n);
    }
    free(back);
    return status;
}

/* ---- reading the prompt again ---- */

/* Short prompts are read; for longer ones the rate of the longest that was read counts, which flatters prefill: attention grows. */
static sp_status measure_prefill(bench *b, sp_error *err) {
    double rate = 0; /* tokens per ms */
    sp_status status = SP_OK;
    for (uint32_t i = 0; status == SP_OK && i < b->n_contexts; i++) {
        uint32_t n = b->contexts[i] < PREFILL_MOST ? b->contexts[i] : PREFILL_MOST;
        figures *f = &b->results[i];
        f->prefill_by_rate = b->contexts[i] > PREFILL_MOST;
        if (!f->prefill_by_rate || rate == 0) {
            status = forget(b->guest, err);
            uint64_t start = sp_bench_now_ns();
            status = status ? status : evaluate(b->guest, b->tokens, n, false, err);
            rate = n / ms_since(start);
        }
        f->prefill = b->contexts[i] / rate;
    }
    return status;
}

/* ---- the whole ---- */

static void print_head(const bench *b) {
    printf("%s, %d threads; milliseconds, medians of %d; cold: the file's pages dropped from memory before\n", b->name, b->options->threads,
           b->options->rounds);
    printf("%8s | %9s %9s %9s %9s | %9s %9s %9s %11s | %9s %9s %9s | %10s\n", "", "thaw", "cold", "1st token", "cold", "freeze", "commit", "cold", "",
           "libllama", "", "cold", "");
    printf("%8s | %9s %9s %9s %9s | %9s %9s %9s %11s | %9s %9s %9s | %10s\n", "context", "", "", "- decode", "", "", "32 tokens", "", "bytes", "save",
           "load", "load", "prefill");
}

static void print_row(uint32_t context, const figures *f) {
    printf("%8u | %9.3f %9.3f %9.3f %9.3f | %9.2f %9.2f %9.2f %11llu | %9.2f %9.2f %9.2f | %9.0f%s\n", context, f->thaw, f->thaw_cold, f->first,
           f->first_cold, f->freeze, f->commit, f->commit_cold, (unsigned long long)f->commit_bytes, f->save, f->load, f->load_cold, f->prefill,
           f->prefill_by_rate ? "*" : "");
}

static json_t *to_json(uint32_t context, const figures *f) {
    return json_pack("{s:i, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:I, s:f, s:f, s:f, s:I, s:I, s:f, s:b}", "context", (int)context, "thaw_ms",
                     f->thaw, "thaw_cold_ms", f->thaw_cold, "first_token_ms", f->first, "first_token_cold_ms", f->first_cold, "decode_ms", f->decode,
                     "freeze_ms", f->freeze, "commit_ms", f->commit, "commit_cold_ms", f->commit_cold, "commit_bytes", (json_int_t)f->commit_bytes,
                     "save_ms", f->save, "load_ms", f->load, "load_cold_ms", f->load_cold, "file_bytes", (json_int_t)f->file_bytes,
                     "libllama_file_bytes", (json_int_t)f->peer_bytes, "prefill_ms", f->prefill, "prefill_by_rate", f->prefill_by_rate);
}

static sp_status draw(const bench *b, sp_error *err) {
    char note[300];
    snprintf(note, sizeof note, "%.150s, CPU threads: %d; files in the page cache; reading more than 1,024 tokens by the rate there", b->name,
             b->options->threads);
    sp_plot plot = {.title = "Taking up a conversation again",
                    .x_name = "tokens of context",
                    .note = note,
                    .n_points = (int)b->n_contexts,
                    .n_lines = 3,
                    .lines = {{.name = "read the prompt again", .colour = "#b3402e"},
                              {.name = "libllama: load its state", .colour = "#8a6d1b"},
                              {.name = "samepage: thaw", .colour = "#1b7f5a"}}};
    for (uint32_t i = 0; i < b->n_contexts; i++) {
        plot.x[i] = b->contexts[i];
        plot.lines[0].y[i] = b->results[i].prefill;
        plot.lines[1].y[i] = b->results[i].load;
        plot.lines[2].y[i] = b->results[i].thaw;
    }
    return sp_plot_write(&plot, b->options->plot, err);
}

static void say(const bench *b, const char *what, uint32_t context) {
    if (isatty(STDERR_FILENO)) {
        fprintf(stderr, "\r%s %u (%s)\033[K", what, context, b->name);
    }
}

static sp_status run_all(bench *b, sp_error *err) {
    sp_llm_settings settings = sp_llm_defaults;
    settings.model = b->path;
    settings.threads = b->options->threads;
    settings.n_ctx = (int32_t)b->n_ctx;
    sp_status status = sp_llm_open(&settings, &b->guest, err);
    status = status ? status : sp_peer_open(b->path, b->n_ctx, b->options->threads, &b->peer, err);
    b->n_vocab = status ? 1 : sp_llm_ready_info(b->guest)->n_vocab;
    for (uint32_t i = 0; status == SP_OK && i < b->n_ctx; i++) {
        b->tokens[i] = (int32_t)((i * 7919u + 11u) % (b->n_vocab / 2) + b->n_vocab / 4);
    }
    for (uint32_t i = 0; status == SP_OK && i < b->n_contexts; i++) {
        say(b, "context", b->contexts[i]);
        status = measure_guest(b, b->contexts[i], &b->results[i], err);
        status = status ? status : measure_peer(b, b->contexts[i], &b->results[i], err);
    }
    say(b, "prefill", 0);
    status = status ? status : measure_prefill(b, err);
    if (isatty(STDERR_FILENO)) {
        fputs("\r\033[K", stderr);
    }
    sp_peer_close(b->peer);
    sp_llm_close(b->guest);
    unlink(b->session);
    unlink(b->peer_file);
    return status;
}

static void print_results(const bench *b) {
    json_t *results = json_array();
    for (uint32_t i = 0; i < b->n_contexts; i++) {
        json_array_append_new(results, to_json(b->contexts[i], &b->results[i]));
    }
    if (b->options->json) {
        json_t *root =
            json_pack("{s:s, s:i, s:i, s:O}", "model", b->name, "threads", b->options->threads, "rounds", b->options->rounds, "results", results);
        json_dumpf(root, stdout, JSON_INDENT(2));
        putchar('\n');
        json_decref(root);
    } else {
        print_head(b);
        for (uint32_t i = 0; i < b->n_contexts; i++) {
            print_row(b->contexts[i], &b->results[i]);
        }
        puts("* by the rate measured at 1024 tokens. Caches beyond 64 tokens are filled, not computed, on both sides. A commit is durable; "
             "libllama's save\n"
             "is not synced.");
    }
    json_decref(results);
}

/* "64,1024,4096": ascending. */
static bool parse_contexts(const char *text, bench *b) {
    uint32_t before = 0;
    while (*text && b->n_contexts < MAX_CONTEXTS) {
        char *end;
        unsigned long n = strtoul(text, &end, 10);
        if (end == text || (*end && *end != ',') || n <= before || n > 1000000) {
            return false;
        }
        b->contexts[b->n_contexts++] = before = (uint32_t)n;
        text = end + (*end == ',');
    }
    b->n_ctx = before + 2 * TURN + 64;
    b->n_cells = (b->n_ctx + CELL_STEP - 1) / CELL_STEP * CELL_STEP;
    return b->n_contexts > 0 && !*text;
}

static sp_status choose_model(bench *b, char path[4096], sp_error *err) {
    const state_options *o = b->options;
    bool pocket = strcmp(o->model, "pocket") == 0, synthetic = strcmp(o->model, "synthetic") == 0;
    b->name = pocket ? "pocket" : synthetic ? "llama-1.24b q4_0 (synthetic)" : o->model;
    b->path = pocket || synthetic ? path : o->model;
    snprintf(path, 4096, "%s/samepage-%s.gguf", o->folder, pocket ? "pocket" : "llama-1b-q4_0");
    snprintf(b->session, sizeof b->session, "%s/samepage-bench-%ld.session", o->folder, (long)getpid());
    snprintf(b->peer_file, sizeof b->peer_file, "%s/samepage-bench-%ld.state", o->folder, (long)getpid());
    return pocket ? sp_bench_write_pocket(path, err) : synthetic ? sp_bench_write_synthetic(path, "dense", SP_TYPE_Q4_0, err) : SP_OK;
}

int sp_bench_state(int argc, char **argv) {
    state_options o = {.model = "synthetic", .folder = "/tmp", .contexts = "64,1024,4096,16384", .rounds = 5};
    const sp_option table[] = {
        {'m', "model", SP_OPT_TEXT, &o.model, 0, 0, "FILE", "a GGUF, or pocket, or synthetic: a Llama of 1.24 B in Q4_0 (default)"},
        {0, "contexts", SP_OPT_TEXT, &o.contexts, 0, 0, "N,N,...", "tokens of context, ascending (default: 64,1024,4096,16384)"},
        {'t', "threads", SP_OPT_INT, &o.threads, 1, 512, "N", "CPU threads of both sides (default: all cores)"},
        {0, "rounds", SP_OPT_INT, &o.rounds, 1, MAX_ROUNDS, "N", "measurements of each (default: 5); medians are shown"},
        {0, "folder", SP_OPT_TEXT, &o.folder, 0, 0, "DIR",
         "where models and state files are written (default: /tmp; 1 GB and twice the longest context)"},
        {0, "plot", SP_OPT_TEXT, &o.plot, 0, 0, "FILE.svg", "draw time over context"},
        {0, "json", SP_OPT_FLAG, &o.json, 0, 0, NULL, "as JSON"},
        {0},
    };
    int at = sp_options_parse(
        table, "bench state", "[OPTION...]",
        "Measures what it costs to put a conversation away and to take it up again: freeze, commit of a turn of 32 tokens, thaw to ready, thaw\n"
        "to the first token less a decode step; libllama's save and load of the same state; and reading the prompt again.",
        argc, argv);
    if (at < 0) {
        return -1 - at;
    }
    bench *b = calloc(1, sizeof *b);
    char path[4096];
    sp_error err;
    if (!b) {
        return SP_EXIT_FAILED;
    }
    o.threads = o.threads ? o.threads : (int32_t)sysconf(_SC_NPROCESSORS_ONLN);
    b->options = &o;
    if (at < argc || !parse_contexts(o.contexts, b)) {
        free(b);
        return at < argc ? sp_usage_error("bench state", "%s: bench state takes no operands", argv[at])
                         : sp_usage_error("bench state", "--contexts %s: must be whole numbers, ascending, with commas between", o.contexts);
    }
    b->tokens = malloc(b->n_ctx * sizeof *b->tokens);
    sp_status status = b->tokens ? choose_model(b, path, &err) : sp_fail(&err, SP_ERR_NO_MEMORY, "out of memory");
    status = status ? status : run_all(b, &err);
    if (status == SP_OK) {
        print_results(b);
        status = o.plot ? draw(b, &err) : SP_OK;
    }
    free(b->tokens);
    free(b);
    return status ? sp_failed(&err) : SP_EXIT_OK;
}
