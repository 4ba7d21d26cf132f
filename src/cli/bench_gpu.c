/*
 * `samepage bench gpu`: the guest on a GPU against llama.cpp on the same card, side by side: llama-bench is run before and after each of our
 * measurements' rows. Tokens a second as the guest's tokens arrive on this side of the sandbox; the median of several rounds.
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "cli/bench.h"
#include "cli/bench_gpu.h"
#include "cli/cmd.h"
#include "cli/open_device.h"
#include "device/cuda/cuda.h"
#include "model/model.h"
#include "model/synthetic.h"
#include "program/program.h"

enum { MAX_TYPES = 3 };

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

FILE *sp_gpu_run_peer(const char *command) {
    FILE *pipe = popen(command, "r"); /* NOLINT(cert-env33-c): the user named the program */
    if (!pipe) {
        fprintf(stderr, "samepage: can't run %s\n", command);
    }
    return pipe;
}

/* The rows of one run of llama-bench; NULL: it gave none. */
static json_t *peer_rows(const gpu_options *o, const char *model, const char *what) {
    char command[8192];
    snprintf(command, sizeof command, "'%s' -m '%s' -ngl 99 -fa 1 -r %d -o json %s 2>/dev/null", o->llama_bench, model, o->rounds, what);
    FILE *pipe = sp_gpu_run_peer(command);
    json_t *rows = pipe ? json_loadf(pipe, 0, NULL) : NULL;
    if (pipe && pclose(pipe) != 0) {
        json_decref(rows);
        return NULL;
    }
    return rows;
}

/* Runs llama-bench on the model; its rows, or NULL with a word on standard error. */
static json_t *run_peer(const gpu_options *o, const char *model) {
    char what[128];
    if (!o->llama_bench) {
        return NULL;
    }
    snprintf(what, sizeof what, "-p 512,%d -n %d -d 0", o->depth, o->tokens);
    json_t *rows = peer_rows(o, model, what);
    snprintf(what, sizeof what, "-p 0 -n %d -d %d", o->tokens, o->depth);
    json_t *deep = rows ? peer_rows(o, model, what) : NULL;
    if (deep) {
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

enum { LONGEST_WORD = 6 };

/* The first n words; returns the text's length. */
static size_t write_words(char *text, uint32_t n) {
    static const char *const words[] = {" the", " cat", " is", " in", " box", " and", " a", " key"};
    size_t length = 0;
    for (uint32_t i = 0; i < n; i++) {
        length += (size_t)snprintf(text + length, LONGEST_WORD, "%s", words[(i * 5 + i / 7) % 8]);
    }
    text[length] = 0;
    return length;
}

/* As many words as give n tokens at most: found by halves, since reading a long text takes a while. */
char *sp_gpu_text(const sp_model *model, uint32_t n, size_t *count) {
    uint32_t least = 1, most = n;
    char *text = malloc((size_t)n * LONGEST_WORD + 1);
    int32_t *tokens = malloc(((size_t)n * LONGEST_WORD + 16) * sizeof *tokens);
    while (text && tokens && least < most) {
        uint32_t words = (least + most + 1) / 2;
        size_t found = 0, length = write_words(text, words);
        bool fits =
            sp_model_tokenize(model, text, length, SP_TOKENIZE_ADD_SPECIAL, tokens, n * LONGEST_WORD + 16, &found, NULL) == SP_OK && found <= n;
        least = fits ? words : least;
        most = fits ? most : words - 1;
    }
    if (text && tokens) {
        size_t length = write_words(text, least);
        sp_model_tokenize(model, text, length, SP_TOKENIZE_ADD_SPECIAL, tokens, n * LONGEST_WORD + 16, count, NULL);
    }
    free(tokens);
    return text;
}

sp_llm_settings sp_gpu_settings(const gpu_options *o, const char *model, int32_t n_ctx) {
    sp_llm_settings settings = sp_llm_defaults;
    settings.model = model;
    settings.device = o->device;
    settings.temperature = 0;
    settings.ignore_end = true;
    settings.n_ctx = n_ctx;
    return settings;
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
    double rates[GPU_MAX_ROUNDS];
    char *text = sp_gpu_text(sp_llm_model(guest), context, &n);
    sp_status status = text ? SP_OK : sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
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

/* A number of the table; below 0 or 0: there is none. */
static void print_cell(int width, int decimals, double value) {
    if (value > 0) {
        printf(" %*.*f", width, decimals, value);
    } else {
        printf(" %*s", width, "-");
    }
}

void sp_gpu_report(const gpu_options *o, json_t *results, const gpu_row *row) {
    char what[32];
    double ratio = row->llama_cpp > 0 ? row->samepage / row->llama_cpp : 0;
    json_array_append_new(results, json_pack("{s:s, s:s, s:i, s:i, s:f, s:f, s:f, s:f}", "model", row->model, "phase", row->phase, "actors",
                                             row->actors, "context", row->context, "samepage", row->samepage, "llama_cpp", row->llama_cpp, "ratio",
                                             ratio, "of_memory_limit", row->limit));
    if (o->json) {
        return;
    }
    if (strcmp(row->phase, "actors") == 0) {
        snprintf(what, sizeof what, "%d %s", row->actors, row->phase);
    } else {
        snprintf(what, sizeof what, "%s", row->phase);
    }
    printf("%-12s %-14s %7d", row->model, what, row->context);
    print_cell(12, 1, row->samepage);
    print_cell(9, 3, row->limit);
    print_cell(12, 1, row->llama_cpp);
    print_cell(8, 3, ratio);
    putchar('\n');
    fflush(stdout);
}

/* Bytes that a token reads: every matrix once, of an embedding that is not the output's too a row, and the cache. */
static double bytes_a_token(sp_llm_client *guest, const gpu_options *o, int context) {
    const sp_weight_table *table = sp_model_weight_table(sp_llm_model(guest));
    const sp_llm_ready *ready = sp_llm_ready_info(guest);
    double bytes = 0, embedding = 0;
    bool untied = false;
    for (uint32_t i = 0; i < table->n; i++) {
        const struct sp_weight_entry *e = &table->entries[i];
        const sp_type_traits *traits = sp_type_get(e->type);
        double size = (double)e->ne[0] / traits->block * traits->size * (double)(e->ne[1] * e->ne[2] * e->ne[3]);
        bytes += size;
        embedding += strcmp(e->name, "token_embd.weight") == 0 ? size : 0;
        untied |= strcmp(e->name, "output.weight") == 0;
    }
    return bytes - (untied ? embedding : 0) + (double)ready->state_bytes / ready->n_ctx * (context + o->tokens * 0.5);
}

static sp_status bench_model(const gpu_options *o, const char *name, const char *path, double bandwidth, json_t *results, sp_error *err) {
    sp_llm_settings settings = sp_gpu_settings(o, path, o->depth + o->tokens + 16);
    json_t *peer = run_peer(o, path);
    sp_llm_client *guest = NULL;
    sp_status status = sp_llm_open(&settings, &guest, err);
    const struct {
        const char *what;
        int context;
        bool prefill;
    } rows[] = {
        {"decode", GPU_SHORT, false}, {"decode", o->depth, false}, {"prefill", o->depth < 512 ? o->depth : 512, true}, {"prefill", o->depth, true}};
    for (size_t i = 0; status == SP_OK && i < sizeof rows / sizeof rows[0]; i++) {
        double ours = 0;
        status = measure(guest, o, &settings, (uint32_t)rows[i].context, rows[i].prefill, &ours, err);
        if (status == SP_OK) {
            bool deep = rows[i].context != GPU_SHORT;
            double theirs = rows[i].prefill ? peer_rate(peer, rows[i].context, 0, 0) : peer_rate(peer, 0, o->tokens, deep ? rows[i].context : 0);
            double limit = rows[i].prefill || bandwidth <= 0 ? 0 : ours * bytes_a_token(guest, o, rows[i].context) / bandwidth;
            sp_gpu_report(o, results, &(gpu_row){name, rows[i].what, 1, rows[i].context, ours, theirs, limit});
        }
    }
    sp_llm_close(guest);
    json_decref(peer);
    return status;
}

/* ---- all of it ---- */

/* Synthetic models by their size. */
static bool shape_of(const char *size, uint32_t type, sp_synthetic *out) {
    *out = sp_synthetic_llama_1b(type);
    if (strcmp(size, "8b") == 0) {
        *out = sp_synthetic_llama_8b(type);
    } else if (strcmp(size, "tiny") == 0) {
        out->n_vocab = 512, out->n_layer = 2, out->n_embd = 256, out->n_head = 4, out->n_head_kv = 2, out->n_ff = 512, out->n_ctx = 512;
    } else {
        return strcmp(size, "1b") == 0;
    }
    return true;
}

static sp_status model_file(const gpu_options *o, const char *type, char *path, size_t size, sp_error *err) {
    uint32_t number = strcmp(type, "q4_0") == 0 ? SP_TYPE_Q4_0 : strcmp(type, "q8_0") == 0 ? SP_TYPE_Q8_0 : SP_TYPE_F16;
    sp_synthetic what;
    if (!shape_of(o->size, number, &what)) {
        return sp_fail(err, SP_ERR_ARGUMENT, "--size %s: must be 1b, 8b or tiny", o->size);
    }
    snprintf(path, size, "%s/samepage-llama-%s-%s.gguf", o->folder, o->size, type);
    if (access(path, R_OK) == 0) {
        return SP_OK;
    }
    fprintf(stderr, "writing %s\n", path);
    return sp_synthetic_write(&what, path, err);
}

static sp_status bench_one(const gpu_options *o, const char *type, double bandwidth, json_t *results, sp_error *err) {
    char path[4096];
    sp_status status = model_file(o, type, path, sizeof path, err);
    if (status == SP_OK && !o->actors && !o->forks) {
        return bench_model(o, type, path, bandwidth, results, err);
    }
    if (status == SP_OK && o->actors) {
        status = sp_gpu_bench_actors(o, type, path, results, err);
    }
    return status == SP_OK && o->forks ? sp_gpu_bench_forks(o, type, path, results, err) : status;
}

/* The device alone: its answer's time, and what its memory allows: the faster of what the driver copies and what a product reads. */
static sp_status bench_device(const gpu_options *o, double *bandwidth, json_t *results, sp_error *err) {
    sp_device *device = NULL;
    sp_device_info info = {0};
    double us = 0, product = 0, copies = 0;
    uint64_t bytes = strcmp(o->device, "cuda-emulated") == 0 ? 1 << 20 : 2ull << 30;
    sp_status status = sp_cli_open_device(o->device, 0, &device, err);
    if (status == SP_OK) {
        sp_device_describe(device, &info);
        status = sp_gpu_round_trip(device, &us, err);
    }
    status = status == SP_OK ? sp_gpu_product_bandwidth(device, bytes, &product, err) : status;
    status = status == SP_OK && strncmp(o->device, "cuda", 4) == 0 ? sp_cuda_copy_bandwidth(device, bytes, &copies, err) : status;
    sp_device_close(device);
    *bandwidth = product > copies ? product : copies;
    if (status == SP_OK && !o->json) {
        printf("%s: %s\nempty program, there and back: %.2f us\nmemory: a product reads %.0f GB/s; copies read and write %.0f GB/s\n", info.name,
               info.description, us, product * 1e-9, copies * 1e-9);
        printf("%-12s %-14s %7s %12s %9s %12s %8s\n", "model", "phase", "context", "samepage t/s", "of memory", "llama.cpp", "ratio");
    }
    json_array_append_new(results, json_pack("{s:s, s:f}", "phase", "round trip", "us", us));
    json_array_append_new(results, json_pack("{s:s, s:f, s:f}", "phase", "memory", "product_bytes_a_second", product, "copy_bytes_a_second", copies));
    return status;
}

static sp_status bench_gpu(const gpu_options *o, json_t *results, sp_error *err) {
    double bandwidth = 0;
    bool any = false;
    sp_status status = bench_device(o, &bandwidth, results, err);
    static const char *const types[MAX_TYPES] = {"q4_0", "q8_0", "f16"};
    for (int i = 0; status == SP_OK && i < MAX_TYPES; i++) {
        bool wanted = strstr(o->types, types[i]) != NULL;
        any |= wanted;
        status = wanted ? bench_one(o, types[i], bandwidth, results, err) : SP_OK;
    }
    return status == SP_OK && !any ? sp_fail(err, SP_ERR_ARGUMENT, "--types %s: must be of q4_0, q8_0 and f16", o->types) : status;
}

int sp_bench_gpu(int argc, char **argv) {
    gpu_options o = {.device = "cuda:0", .folder = "/tmp", .types = "q4_0,q8_0,f16", .size = "1b", .rounds = 5, .tokens = 128, .depth = 4096};
    const sp_option table[] = {
        {0, "device", SP_OPT_TEXT, &o.device, 0, 0, "NAME", "the device (default: cuda:0)"},
        {0, "llama-bench", SP_OPT_TEXT, &o.llama_bench, 0, 0, "FILE", "llama.cpp's llama-bench, built for this card: the peer"},
        {0, "llama-batched-bench", SP_OPT_TEXT, &o.batched_bench, 0, 0, "FILE", "llama.cpp's llama-batched-bench, the peer of --actors"},
        {0, "actors", SP_OPT_TEXT, &o.actors, 0, 0, "N,N,...", "only so many actors that decode at once: tokens a second of all, such as 8,32,128"},
        {0, "forks", SP_OPT_INT, &o.forks, 1, GPU_MAX_ACTORS, "N", "only so many forks of a session of --depth tokens: time and memory of each"},
        {'t', "threads", SP_OPT_INT, &o.threads, 1, 64, "N", "threads that step the actors (default: all cores)"},
        {0, "size", SP_OPT_TEXT, &o.size, 0, 0, "SIZE",
         "of the models: 1b (1.24 billion parameters, the default), 8b, or tiny, to see that it works"},
        {0, "types", SP_OPT_TEXT, &o.types, 0, 0, "LIST", "of q4_0, q8_0 and f16 (default: all)"},
        {0, "rounds", SP_OPT_INT, &o.rounds, 1, GPU_MAX_ROUNDS, "N", "measurements of each (default: 5); medians are shown"},
        {'n', "tokens", SP_OPT_INT, &o.tokens, 1, 4096, "N", "tokens decoded for each (default: 128)"},
        {0, "depth", SP_OPT_INT, &o.depth, 64, 65536, "N", "the long context (default: 4096)"},
        {0, "folder", SP_OPT_TEXT, &o.folder, 0, 0, "DIR", "where synthetic models are written and kept (default: /tmp; 5 GB, 8b 30 GB)"},
        {0, "json", SP_OPT_FLAG, &o.json, 0, 0, NULL, "as JSON"},
        {0},
    };
    int at = sp_options_parse(
        table, "bench", "gpu [OPTION...]",
        "Measures the guest on a GPU against llama.cpp on the same card: synthetic Llamas, decoding and prefill, with an empty and with\n"
        "a long context; and the way to the device and back. Or many actors at once, or forks.",
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
