/*
 * `samepage bench start`: from nothing to the first token, each in a process of its own: the first start on a machine (the graph is traced), the next
 * one (the trace is in the cache folder), and libllama; with the page cache warm, and what each process holds in memory then.
 */
#include <ftw.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "cli/bench.h"
#include "cli/bench_peer.h"
#include "cli/cmd.h"
#include "cli/llm_client.h"
#include "memory/os.h"
#include "samepage/program.h"

enum { MAX_ROUNDS = 31, CONTEXT = 4096 };

typedef struct start_options {
    const char *model, *folder;
    int32_t threads, rounds;
    bool json;
} start_options;

/* What a process found. */
typedef struct start {
    double ready_ms, token_ms; /* until the model is open; until the first token is there */
    double resident;           /* bytes, at the end */
    bool ok;
} start;

static void start_guest(const start_options *o, start *out) {
    sp_llm_settings settings = sp_llm_defaults;
    sp_llm_client *guest = NULL;
    sp_llm_done done;
    sp_error err = {0};
    const uint64_t from = sp_bench_now_ns();
    settings.model = o->model;
    settings.threads = o->threads;
    settings.temperature = 0;
    settings.ignore_end = true;
    settings.n_ctx = CONTEXT;
    settings.max_tokens = 1;
    sp_status status = sp_llm_open(&settings, &guest, &err);
    out->ready_ms = (double)(sp_bench_now_ns() - from) * 1e-6;
    status = status == SP_OK ? sp_llm_ask(guest, SP_LLM_COMPLETE, "a", 1, NULL, &done, &err) : status;
    out->token_ms = (double)(sp_bench_now_ns() - from) * 1e-6;
    out->resident = (double)sp_os_resident_bytes();
    out->ok = status == SP_OK;
    if (!out->ok) {
        fprintf(stderr, "samepage: %s\n", err.message);
    }
}

static void start_peer(const start_options *o, start *out) {
    sp_peer *peer = NULL;
    sp_error err = {0};
    const int32_t token = 1;
    const uint64_t from = sp_bench_now_ns();
    sp_status status = sp_peer_open(o->model, CONTEXT, o->threads, &peer, &err);
    out->ready_ms = (double)(sp_bench_now_ns() - from) * 1e-6;
    out->ok = status == SP_OK && sp_peer_prefill(peer, &token, 1) >= 0;
    out->token_ms = (double)(sp_bench_now_ns() - from) * 1e-6;
    out->resident = (double)sp_os_resident_bytes();
}

/* Runs one start in a process of its own, with its own cache folder. */
static sp_status in_process(const start_options *o, void (*run)(const start_options *, start *), const char *cache, start *out, sp_error *err) {
    int ends[2];
    fflush(stdout);
    if (pipe(ends) != 0) {
        return sp_fail(err, SP_ERR_IO, "no pipe");
    }
    const pid_t child = fork();
    if (child == 0) {
        start found = {0};
        setenv("XDG_CACHE_HOME", cache, 1);
        run(o, &found);
        _exit(write(ends[1], &found, sizeof found) == sizeof found && found.ok ? 0 : 1);
    }
    close(ends[1]);
    const bool told = child > 0 && read(ends[0], out, sizeof *out) == sizeof *out && out->ok;
    close(ends[0]);
    if (child > 0) {
        waitpid(child, NULL, 0);
    }
    return told ? SP_OK : sp_fail(err, SP_ERR_DEVICE, "%s could not be started", o->model);
}

static int drop(const char *path, const struct stat *info, int kind, struct FTW *place) {
    (void)info, (void)kind, (void)place;
    return remove(path);
}

static sp_status measure(const start_options *o, json_t *results, sp_error *err) {
    static const struct {
        const char *name;
        void (*run)(const start_options *, start *);
        bool keeps_cache;
    } starts[] = {{"first", start_guest, false}, {"next", start_guest, true}, {"libllama", start_peer, true}};
    char cache[] = "/tmp/samepage-bench-start-XXXXXX";
    start warm;
    if (!mkdtemp(cache)) {
        return sp_fail(err, SP_ERR_IO, "no folder for a cache in /tmp");
    }
    sp_status status = in_process(o, start_peer, cache, &warm, err); /* the page cache is warm after it */
    if (status == SP_OK && !o->json) {
        printf("%-10s %14s %18s %14s\n", "start", "model open, ms", "first token, ms", "resident, MiB");
    }
    for (size_t s = 0; status == SP_OK && s < sizeof starts / sizeof starts[0]; s++) {
        double ready[MAX_ROUNDS], token[MAX_ROUNDS], resident[MAX_ROUNDS];
        for (int i = 0; status == SP_OK && i < o->rounds; i++) {
            start found = {0};
            if (!starts[s].keeps_cache && (nftw(cache, drop, 8, FTW_DEPTH | FTW_PHYS) != 0 || mkdir(cache, 0700) != 0)) {
                status = sp_fail(err, SP_ERR_IO, "%s can't be emptied", cache);
                break;
            }
            status = in_process(o, starts[s].run, cache, &found, err);
            ready[i] = found.ready_ms, token[i] = found.token_ms, resident[i] = found.resident / (1 << 20);
        }
        if (status == SP_OK) {
            const double r = sp_bench_median(ready, o->rounds), t = sp_bench_median(token, o->rounds), m = sp_bench_median(resident, o->rounds);
            json_array_append_new(results,
                                  json_pack("{s:s, s:f, s:f, s:f}", "start", starts[s].name, "open_ms", r, "token_ms", t, "resident_mib", m));
            if (!o->json) {
                printf("%-10s %14.1f %18.1f %14.1f\n", starts[s].name, r, t, m);
            }
        }
    }
    nftw(cache, drop, 8, FTW_DEPTH | FTW_PHYS);
    return status;
}

int sp_bench_start(int argc, char **argv) {
    start_options o = {.folder = "/tmp", .rounds = 5};
    const sp_option table[] = {
        {'m', "model", SP_OPT_TEXT, &o.model, 0, 0, "FILE", "a GGUF (default: the synthetic Llama of 1.24 B in Q4_0)"},
        {'t', "threads", SP_OPT_INT, &o.threads, 1, 512, "N", "CPU threads of both sides (default: all cores)"},
        {0, "rounds", SP_OPT_INT, &o.rounds, 1, MAX_ROUNDS, "N", "starts of each (default: 5); medians are shown"},
        {0, "folder", SP_OPT_TEXT, &o.folder, 0, 0, "DIR", "where the synthetic model is written and kept (default: /tmp; 1 GB)"},
        {0, "json", SP_OPT_FLAG, &o.json, 0, 0, NULL, "as JSON"},
        {0},
    };
    int at = sp_options_parse(
        table, "bench start", "[OPTION...]",
        "Measures a start, from nothing to the first token, in processes of their own: the first on a machine, the next, and libllama's.", argc,
        argv);
    if (at < 0) {
        return -1 - at;
    }
    if (at < argc) {
        return sp_usage_error("bench start", "%s: bench start takes no operands", argv[at]);
    }
    char path[4096];
    sp_error err = {0};
    sp_status status = SP_OK;
    o.threads = o.threads ? o.threads : (int32_t)sysconf(_SC_NPROCESSORS_ONLN);
    if (!o.model) {
        snprintf(path, sizeof path, "%s/samepage-llama-1b-q4_0.gguf", o.folder);
        o.model = path;
        status = sp_bench_write_synthetic(path, "dense", SP_TYPE_Q4_0, &err);
    }
    json_t *results = json_array();
    status = status == SP_OK ? measure(&o, results, &err) : status;
    if (status == SP_OK && o.json) {
        json_dumpf(results, stdout, JSON_INDENT(2));
        putchar('\n');
    }
    json_decref(results);
    return status == SP_OK ? SP_EXIT_OK : sp_failed(&err);
}
