/*
 * `samepage bench gpu`: the guest on a GPU against llama.cpp on the same card, side by side: llama-bench is run before and after each of our
 * measurements' rows. Tokens a second as the guest's tokens arrive on this side of the sandbox; the median of several rounds.
 */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "cli/bench.h"
#include "cli/cmd.h"
#include "cli/llm_client.h"
#include "device/device.h"
#include "memory/os.h"
#include "model/model.h"
#include "model/synthetic.h"
#include "samepage/graph.h"

enum { MAX_ROUNDS = 31, MAX_ACTORS = 128, MAX_TYPES = 3, SHORT = 8 };

typedef struct gpu_options {
    const char *device, *folder, *llama_bench, *types;
    int32_t rounds, tokens, depth, actors;
    bool json, tiny;
} gpu_options;

/* ---- llama.cpp ---- */

/* What llama-bench says of one test, tokens a second; 0: nothing. depth: tokens in the cache before. */
static double peer_rate(const json_t *rows, int prompt, int generated, int depth) {
    size_t i;
    const json_t *row;
    json_array_foreach(rows, i, row) {
        if (json_integer_value(json_object_get(row, "n_prompt")) == prompt && json_integer_value(json_object_get(row, "n_gen")) == generated &&
            json_integer_value(json_object_get(row, "n_depth")) == depth) {
            return json_number_value(json_object_get(row, "avg_ts"));
        }
    }
    return 0;
}

/* Runs llama-bench on the model; its rows, or NULL with a word on standard error. */
static json_t *run_peer(const gpu_options *o, const char *model) {
    char command[8192];
    if (!o->llama_bench) {
        return NULL;
    }
    snprintf(command, sizeof command, "'%s' -m '%s' -ngl 99 -fa 1 -p 512,%d -n %d -d 0 -r %d -o json 2>/dev/null", o->llama_bench, model, o->depth,
             o->tokens, o->rounds);
    FILE *pipe = popen(command, "r"); /* NOLINT(cert-env33-c): the user named the program */
    json_error_t why;
    json_t *rows = pipe ? json_loadf(pipe, 0, &why) : NULL;
    int ended = pipe ? pclose(pipe) : -1;
    snprintf(command, sizeof command, "'%s' -m '%s' -ngl 99 -fa 1 -p 0 -n %d -d %d -r %d -o json 2>/dev/null", o->llama_bench, model, o->tokens,
             o->depth, o->rounds);
    pipe = ended == 0 ? popen(command, "r") : NULL; /* NOLINT(cert-env33-c) */
    json_t *deep = pipe ? json_loadf(pipe, 0, &why) : NULL;
    if (pipe && pclose(pipe) == 0 && rows && deep) {
        json_array_extend(rows, deep);
    } else {
        fprintf(stderr, "samepage: %s gave no figures for %s\n", o->llama_bench, model);
    }
    json_decref(deep);
    return rows;
}

/* ---- our side ---- */

typedef struct marks {
    uint64_t first, last;
} marks;

static void on_token(void *user, const sp_llm_token *token, const char *text) {
    (void)text;
    marks *m = user;
    if (token->token >= 0) {
        m->last = sp_bench_now_ns();
        m->first = m->first ? m->first : m->last;
    }
}

/* A text of n tokens or a few less. */
static char *text_of(const sp_model *model, uint32_t n, size_t *count, sp_error *err) {
    static const char *const words[] = {" the", " cat", " is", " in", " box", " and", " a", " key"};
    char *text = calloc(1, (size_t)n * 8 + 64);
    int32_t *tokens = malloc(((size_t)n + 64) * sizeof *tokens);
    size_t length = 0;
    for (uint32_t i = 0; text && tokens && i < n * 2; i++) {
        size_t before = length;
        length += (size_t)sprintf(text + length, "%s", words[(i * 5 + i / 7) % 8]);
        if (sp_model_tokenize(model, text, length, SP_TOKENIZE_ADD_SPECIAL, tokens, n + 64, count, err) != SP_OK || *count >= n) {
            text[*count > n ? before : length] = 0;
            break;
        }
    }
    free(tokens);
    return text;
}

static sp_status ask(sp_llm_client *guest, sp_llm_settings *settings, const char *text, int tokens, marks *m, uint64_t *start, sp_error *err) {
    sp_llm_events events = {.on_token = on_token, .user = m};
    sp_llm_done done;
    settings->max_tokens = tokens;
    sp_status status = sp_llm_configure(guest, settings, err);
    *start = sp_bench_now_ns();
    return status == SP_OK ? sp_llm_ask(guest, SP_LLM_COMPLETE, text, strlen(text), &events, &done, err) : status;
}

/* Tokens a second of prefill of `context` tokens, or of decoding after them. */
static sp_status measure(sp_llm_client *guest, const gpu_options *o, sp_llm_settings *settings, uint32_t context, bool prefill, double *out,
                         sp_error *err) {
    size_t n = 0;
    double rates[MAX_ROUNDS];
    char *text = text_of(sp_llm_model(guest), context, &n, err);
    sp_status status = text ? SP_OK : SP_ERR_NO_MEMORY;
    for (int round = -1; status == SP_OK && round < o->rounds; round++) { /* the first warms up */
        marks m = {0};
        uint64_t start = 0;
        status = ask(guest, settings, text, prefill ? 1 : o->tokens + 1, &m, &start, err);
        double rate = prefill ? (double)n / ((double)(m.first - start) * 1e-9) : o->tokens / ((double)(m.last - m.first) * 1e-9);
        if (round >= 0) {
            rates[round] = rate;
        }
    }
    free(text);
    *out = status == SP_OK ? sp_bench_median(rates, o->rounds) : 0;
    return status;
}

static void report(const gpu_options *o, json_t *results, const char *model, const char *what, int context, double ours, double theirs) {
    json_array_append_new(results, json_pack("{s:s, s:s, s:i, s:f, s:f, s:f}", "model", model, "phase", what, "context", context, "samepage", ours,
                                             "llama_cpp", theirs, "ratio", theirs > 0 ? ours / theirs : 0));
    if (!o->json) {
        printf("%-12s %-14s %7d %12.1f", model, what, context, ours);
        if (theirs > 0) {
            printf(" %12.1f %8.3f\n", theirs, ours / theirs);
        } else {
            printf(" %12s %8s\n", "-", "-");
        }
        fflush(stdout);
    }
}

static sp_status bench_model(const gpu_options *o, const char *name, const char *path, json_t *results, sp_error *err) {
    sp_llm_settings settings = sp_llm_defaults;
    settings.model = path;
    settings.device = o->device;
    settings.temperature = 0;
    settings.ignore_end = true;
    settings.n_ctx = o->depth + o->tokens + 16;
    json_t *peer = run_peer(o, path);
    sp_llm_client *guest = NULL;
    sp_status status = sp_llm_open(&settings, &guest, err);
    const struct {
        const char *what;
        int context;
        bool prefill;
    } rows[] = {
        {"decode", SHORT, false}, {"decode", o->depth, false}, {"prefill", o->depth < 512 ? o->depth : 512, true}, {"prefill", o->depth, true}};
    for (size_t i = 0; status == SP_OK && i < sizeof rows / sizeof rows[0]; i++) {
        double ours = 0;
        status = measure(guest, o, &settings, (uint32_t)rows[i].context, rows[i].prefill, &ours, err);
        if (status == SP_OK) {
            bool deep = rows[i].context != SHORT;
            double theirs = rows[i].prefill ? peer_rate(peer, rows[i].context, 0, 0) : peer_rate(peer, 0, o->tokens, deep ? rows[i].context : 0);
            report(o, results, name, rows[i].what, rows[i].context, ours, theirs);
        }
    }
    sp_llm_close(guest);
    json_decref(peer);
    return status;
}

/* ---- the way to the device and back ---- */

/* Microseconds that the smallest program takes, from here to the device and back. */
static sp_status round_trip(sp_device *device, double *us, sp_error *err) {
    sp_graph g;
    sp_graph_init(&g);
    uint32_t slot = sp_graph_slot(&g, "x", SP_SLOT_STATE), size = 0;
    sp_tensor x = sp_graph_memory_1d(&g, "x", slot, SP_TYPE_F32, sp_dim(1), sp_dim(0));
    sp_graph_into(&g, sp_scale(&g, x, 1), x);
    const void *bytes = sp_graph_bytes(&g, &size);
    sp_program *program = NULL;
    sp_spec *spec = NULL;
    sp_device_memory *memory = NULL;
    sp_workspace *workspace = NULL;
    sp_executable *executable = NULL;
    uint64_t page = sp_os_page_size();
    void *pages = sp_os_reserve(page);
    sp_status status = pages && sp_os_commit(pages, page) ? SP_OK : sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    status = status ? status : sp_program_load(bytes, size, NULL, &program, err);
    status = status ? status : sp_program_specialise(program, NULL, 0, NULL, &spec, err);
    status = status ? status : sp_device_memory_open(device, pages, page, &memory, err);
    status = status ? status : sp_workspace_open(device, 1 << 20, &workspace, err);
    sp_slot_binding binding = {memory, 0, page};
    status = status ? status : sp_device_prepare(workspace, spec, &binding, NULL, 0, &executable, err);
    double times[501];
    for (int i = -20; status == SP_OK && i < 501; i++) {
        uint64_t start = sp_bench_now_ns();
        status = sp_device_execute(executable, err);
        if (i >= 0) {
            times[i] = (double)(sp_bench_now_ns() - start) * 1e-3;
        }
    }
    *us = status == SP_OK ? sp_bench_median(times, 501) : 0;
    sp_executable_close(executable);
    sp_workspace_close(workspace);
    sp_device_memory_close(memory);
    sp_spec_free(spec);
    sp_program_free(program);
    sp_graph_free(&g);
    if (pages) {
        sp_os_release(pages, page);
    }
    return status;
}

/* ---- all of it ---- */

static sp_status model_file(const gpu_options *o, const char *type, char *path, size_t size, sp_error *err) {
    uint32_t number = strcmp(type, "q4_0") == 0 ? SP_TYPE_Q4_0 : strcmp(type, "q8_0") == 0 ? SP_TYPE_Q8_0 : SP_TYPE_F16;
    snprintf(path, size, "%s/samepage-llama-%s-%s.gguf", o->folder, o->tiny ? "tiny" : "1b", type);
    if (access(path, R_OK) == 0) {
        return SP_OK;
    }
    fprintf(stderr, "writing %s\n", path);
    sp_synthetic what = sp_synthetic_llama_1b(number);
    if (o->tiny) {
        what.n_vocab = 512, what.n_layer = 2, what.n_embd = 256, what.n_head = 4, what.n_head_kv = 2, what.n_ff = 512, what.n_ctx = 512;
    }
    return sp_synthetic_write(&what, path, err);
}

static sp_status bench_gpu(const gpu_options *o, json_t *results, sp_error *err) {
    sp_device *device = NULL;
    sp_device_info info;
    double us = 0;
    sp_status status = sp_device_open(o->device, 0, &device, err);
    if (status == SP_OK) {
        sp_device_describe(device, &info);
        status = round_trip(device, &us, err);
    }
    sp_device_close(device);
    if (status == SP_OK && !o->json) {
        printf("%s: %s\nempty program, there and back: %.2f us\n%-12s %-14s %7s %12s %12s %8s\n", info.name, info.description, us, "model", "phase",
               "context", "samepage t/s", "llama.cpp", "ratio");
    }
    json_array_append_new(results, json_pack("{s:s, s:f}", "phase", "round trip", "us", us));
    static const char *const types[MAX_TYPES] = {"q4_0", "q8_0", "f16"};
    for (int i = 0; status == SP_OK && i < MAX_TYPES; i++) {
        char path[4096];
        if (!strstr(o->types, types[i])) {
            continue;
        }
        status = model_file(o, types[i], path, sizeof path, err);
        status = status == SP_OK ? bench_model(o, types[i], path, results, err) : status;
    }
    return status;
}

int sp_bench_gpu(int argc, char **argv) {
    gpu_options o = {.device = "cuda:0", .folder = "/tmp", .types = "q4_0,q8_0,f16", .rounds = 5, .tokens = 128, .depth = 4096};
    const sp_option table[] = {
        {0, "device", SP_OPT_TEXT, &o.device, 0, 0, "NAME", "the device (default: cuda:0)"},
        {0, "llama-bench", SP_OPT_TEXT, &o.llama_bench, 0, 0, "FILE", "llama.cpp's llama-bench, built for this card: the peer"},
        {0, "types", SP_OPT_TEXT, &o.types, 0, 0, "LIST", "of q4_0, q8_0 and f16 (default: all)"},
        {0, "rounds", SP_OPT_INT, &o.rounds, 1, MAX_ROUNDS, "N", "measurements of each (default: 5); medians are shown"},
        {'n', "tokens", SP_OPT_INT, &o.tokens, 1, 4096, "N", "tokens decoded for each (default: 128)"},
        {0, "depth", SP_OPT_INT, &o.depth, 64, 65536, "N", "the long context (default: 4096)"},
        {0, "folder", SP_OPT_TEXT, &o.folder, 0, 0, "DIR", "where synthetic models are written and kept (default: /tmp; 5 GB)"},
        {0, "tiny", SP_OPT_FLAG, &o.tiny, 0, 0, NULL, "a tiny model, to see that it works"},
        {0, "json", SP_OPT_FLAG, &o.json, 0, 0, NULL, "as JSON"},
        {0},
    };
    int at = sp_options_parse(
        table, "bench", "gpu [OPTION...]",
        "Measures the guest on a GPU against llama.cpp on the same card: a synthetic Llama of 1.24 B, decoding and prefill, with an empty\n"
        "and with a long context; and the way to the device and back.",
        argc, argv);
    if (at < 0) {
        return -1 - at;
    }
    if (at < argc) {
        return sp_usage_error("bench gpu", "%s: bench gpu takes no operands", argv[at]);
    }
    json_t *results = json_array();
    sp_error err;
    sp_status status = bench_gpu(&o, results, &err);
    if (status == SP_OK && o.json) {
        json_t *root = json_pack("{s:s, s:O}", "device", o.device, "results", results);
        json_dumpf(root, stdout, JSON_INDENT(2));
        putchar('\n');
        json_decref(root);
    }
    json_decref(results);
    return status == SP_OK ? SP_EXIT_OK : sp_failed(&err);
}
