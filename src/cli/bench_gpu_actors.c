/*
 * `samepage bench gpu --actors` and `--forks`: many actors on one card. All are forks of one, since that is how one gets many at once; each is
 * stepped by one of a few threads, so that guests sample while the card computes for others.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "abi/abi.h"
#include "base/error.h"
#include "cli/bench.h"
#include "cli/bench_gpu.h"
#include "cli/cmd.h"
#include "memory/os.h"

enum { MAX_COUNTS = 16, MAX_WORKERS = 64 };

/* An actor and what it said since it was last asked. */
typedef struct speaker {
    sp_actor *actor;
    int32_t n_tokens;
    uint64_t logits; /* their hash */
    bool finished;
    char problem[200];
} speaker;

static void hear(void *user, const void *bytes, size_t size) {
    speaker *s = user;
    uint32_t kind;
    memcpy(&kind, bytes, sizeof kind);
    if (kind == SP_LLM_TOKEN) {
        sp_llm_token token;
        memcpy(&token, bytes, sizeof token);
        s->n_tokens += token.token >= 0;
    } else if (kind == SP_LLM_LOGITS) {
        s->logits = XXH3_64bits((const uint8_t *)bytes + sizeof(sp_llm_logits), size - sizeof(sp_llm_logits));
    } else if (kind == SP_LLM_ERROR) {
        snprintf(s->problem, sizeof s->problem, "%.*s", (int)(size - sizeof(sp_llm_text)), (const char *)bytes + sizeof(sp_llm_text));
    }
    s->finished |= kind == SP_LLM_DONE || kind == SP_LLM_ERROR;
}

static sp_status fork_one(sp_actor *parent, speaker *out, sp_error *err) {
    const sp_actor_options options = {.device = parent->device,
                                      .models = parent->models,
                                      .n_models = parent->n_models,
                                      .limits = parent->limits,
                                      .on_message = hear,
                                      .on_message_user = out,
                                      .inherit_stderr = true};
    *out = (speaker){0};
    return sp_actor_fork(parent, &options, &out->actor, err);
}

static void close_all(speaker *speakers, int n) {
    for (int i = 0; speakers && i < n; i++) {
        sp_actor_close(speakers[i].actor);
    }
    free(speakers);
}

/* Nothing runs yet. */
static sp_status ask(speaker *s, const void *message, size_t size, sp_error *err) {
    s->n_tokens = 0;
    s->finished = false;
    return sp_actor_send(s->actor, message, size, err);
}

static sp_status step(speaker *s, sp_error *err) {
    sp_step_result result;
    sp_status status = sp_actor_step(s->actor, &result, err);
    if (status == SP_OK && s->problem[0]) {
        return sp_fail(err, SP_ERR_GUEST, "%s", s->problem);
    }
    return status == SP_OK && result != SP_STEP_AGAIN && !s->finished ? sp_fail(err, SP_ERR_GUEST, "an actor stopped without an answer") : status;
}

/* ---- many that decode at once ---- */

/* Every stride-th speaker from the first on is this thread's. */
typedef struct worker {
    speaker *speakers;
    int first, stride, n;
    int32_t until; /* tokens of each; -1: to the end */
    sp_status status;
    sp_error err;
} worker;

static bool is_there(const speaker *s, int32_t until) {
    return s->finished || (until >= 0 && s->n_tokens >= until);
}

/* Each has its turn, as long as one has not said what it is to say. */
static void *work(void *user) {
    worker *w = user;
    for (bool any = true; any && w->status == SP_OK;) {
        any = false;
        for (int i = w->first; i < w->n && w->status == SP_OK; i += w->stride) {
            if (!is_there(&w->speakers[i], w->until)) {
                w->status = step(&w->speakers[i], &w->err);
                any = true;
            }
        }
    }
    return NULL;
}

static sp_status step_all(speaker *speakers, int n, int threads, int32_t until, sp_error *err) {
    worker workers[MAX_WORKERS];
    pthread_t ids[MAX_WORKERS];
    int started = 0;
    sp_status status = SP_OK;
    for (; started < threads; started++) {
        workers[started] = (worker){.speakers = speakers, .first = started, .stride = threads, .n = n, .until = until};
        if (pthread_create(&ids[started], NULL, work, &workers[started]) != 0) {
            status = sp_fail(err, SP_ERR_NO_MEMORY, "can't start a thread");
            break;
        }
    }
    for (int i = 0; i < started; i++) {
        pthread_join(ids[i], NULL);
        if (status == SP_OK && workers[i].status != SP_OK) {
            status = workers[i].status;
            *err = workers[i].err;
        }
    }
    return status;
}

/* Tokens a second of all: from the second token of each, when what is prepared once is prepared, to the last. */
static sp_status decode_round(speaker *speakers, int n, int threads, const char *text, double *rate, sp_error *err) {
    struct {
        sp_llm_text head;
        char text[GPU_SHORT * 8];
    } message = {.head = {.kind = SP_LLM_COMPLETE, .length = (uint32_t)strlen(text)}};
    memcpy(message.text, text, message.head.length);
    sp_status status = SP_OK;
    for (int i = 0; status == SP_OK && i < n; i++) {
        status = ask(&speakers[i], &message, sizeof message.head + message.head.length, err);
    }
    status = status == SP_OK ? step_all(speakers, n, threads, 2, err) : status;
    int64_t before = 0, after = 0;
    for (int i = 0; i < n; i++) {
        before += speakers[i].n_tokens;
    }
    uint64_t start = sp_bench_now_ns();
    status = status == SP_OK ? step_all(speakers, n, threads, -1, err) : status;
    double seconds = (double)(sp_bench_now_ns() - start) * 1e-9;
    for (int i = 0; i < n; i++) {
        after += speakers[i].n_tokens;
    }
    *rate = (double)(after - before) / seconds;
    return status;
}

static sp_status decode_many(const gpu_options *o, sp_llm_client *parent, int n, const char *text, double *rate, sp_error *err) {
    double rates[GPU_MAX_ROUNDS];
    int threads = o->threads ? o->threads : sp_os_cores();
    threads = threads < n ? threads : n;
    threads = threads < MAX_WORKERS ? threads : MAX_WORKERS;
    speaker *speakers = calloc((size_t)n, sizeof *speakers);
    sp_status status = speakers ? SP_OK : sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    for (int i = 0; status == SP_OK && i < n; i++) {
        status = fork_one(sp_llm_actor(parent), &speakers[i], err);
    }
    for (int round = 0; status == SP_OK && round < o->rounds; round++) {
        status = decode_round(speakers, n, threads, text, &rates[round], err);
    }
    *rate = status == SP_OK ? sp_bench_median(rates, o->rounds) : 0;
    close_all(speakers, n);
    return status;
}

/* llama.cpp's rate for so many sequences in one batch; 0: it gave none. */
static double peer_rate(const gpu_options *o, const char *model, int n) {
    char command[8192], line[2048];
    double rate = 0;
    if (!o->batched_bench) {
        return 0;
    }
    snprintf(command, sizeof command, "'%s' -m '%s' -ngl 99 -fa on -c %d -b 2048 -ub 512 -npp %d -ntg %d -npl %d --output-format jsonl 2>/dev/null",
             o->batched_bench, model, n * (GPU_SHORT + o->tokens + 2), GPU_SHORT, o->tokens, n);
    FILE *pipe = sp_gpu_run_peer(command);
    while (pipe && fgets(line, sizeof line, pipe)) {
        json_t *row = line[0] == '{' ? json_loads(line, 0, NULL) : NULL;
        if (json_integer_value(json_object_get(row, "pl")) == n) {
            rate = json_number_value(json_object_get(row, "speed_tg"));
        }
        json_decref(row);
    }
    if (pipe && (pclose(pipe) != 0 || rate == 0)) {
        fprintf(stderr, "samepage: %s gave no figure for %d sequences of %s\n", o->batched_bench, n, model);
    }
    return rate;
}

/* Whole numbers with commas between; how many, or 0: they are not. */
static int parse_counts(const char *text, int counts[MAX_COUNTS]) {
    int n = 0;
    for (char *end = NULL; n < MAX_COUNTS; text = end + 1) {
        long value = strtol(text, &end, 10);
        if (end == text || value < 1 || value > GPU_MAX_ACTORS || (*end && *end != ',')) {
            return 0;
        }
        counts[n++] = (int)value;
        if (!*end) {
            return n;
        }
    }
    return 0;
}

sp_status sp_gpu_bench_actors(const gpu_options *o, const char *name, const char *path, json_t *results, sp_error *err) {
    int counts[MAX_COUNTS], n = parse_counts(o->actors, counts);
    if (!n) {
        return sp_fail(err, SP_ERR_ARGUMENT, "--actors %s: must be whole numbers up to %d with commas between", o->actors, GPU_MAX_ACTORS);
    }
    sp_llm_settings settings = sp_gpu_settings(o, path, GPU_SHORT + o->tokens + 8);
    settings.max_tokens = o->tokens + 2;
    sp_llm_client *parent = NULL;
    size_t length = 0;
    sp_status status = sp_llm_open(&settings, &parent, err);
    char *text = status == SP_OK ? sp_gpu_text(sp_llm_model(parent), GPU_SHORT, &length) : NULL;
    if (status == SP_OK && !text) {
        status = sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    }
    status = status == SP_OK ? sp_llm_ask(parent, SP_LLM_COMPLETE, text, strlen(text), NULL, NULL, err) : status; /* warms up */
    for (int i = 0; status == SP_OK && i < n; i++) {
        double ours = 0, theirs = peer_rate(o, path, counts[i]);
        status = decode_many(o, parent, counts[i], text, &ours, err);
        if (status != SP_OK) {
            break;
        }
        sp_gpu_report(o, results, &(gpu_row){name, "actors", counts[i], GPU_SHORT, ours, theirs, 0});
    }
    free(text);
    sp_llm_close(parent);
    return status;
}

/* ---- forks of a long session ---- */

enum { DIFFERENT = 7 }; /* forks go on in so many ways */

/* A message that evaluates n tokens; malloc'ed. NULL: no memory. */
static sp_llm_eval *eval_message(uint32_t n, uint32_t first, size_t *size) {
    *size = sizeof(sp_llm_eval) + n * sizeof(int32_t);
    sp_llm_eval *message = malloc(*size);
    if (message) {
        *message = (sp_llm_eval){.kind = SP_LLM_EVAL, .n_tokens = n};
        for (uint32_t i = 0; i < n; i++) {
            int32_t token = (int32_t)(32 + (first + i * 7) % 400);
            memcpy((uint8_t *)(message + 1) + i * sizeof token, &token, sizeof token);
        }
    }
    return message;
}

/* What forks cost; bytes are of each. */
typedef struct fork_costs {
    double first_ms, each_ms, token_ms;
    double device_before, host_before, device_after, host_after;
    uint64_t state_bytes;
} fork_costs;

static uint64_t device_free(const sp_actor *actor) {
    sp_device_info info;
    sp_device_describe(actor->device, &info);
    return info.memory_free;
}

static double each(uint64_t more, uint64_t less, int n) {
    return more > less ? (double)(more - less) / n : 0;
}

static sp_status make_forks(sp_actor *parent, speaker *forks, int n, fork_costs *costs, sp_error *err) {
    double *times = calloc((size_t)n, sizeof *times);
    sp_status status = times ? SP_OK : sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    uint64_t free_before = device_free(parent), host = 0;
    for (int i = 0; status == SP_OK && i < n; i++) {
        uint64_t start = sp_bench_now_ns();
        status = fork_one(parent, &forks[i], err);
        times[i] = (double)(sp_bench_now_ns() - start) * 1e-6;
        host = i ? host : sp_os_proportional_bytes(); /* the first makes what the others share */
    }
    if (status == SP_OK) {
        costs->first_ms = times[0];
        costs->each_ms = n > 1 ? sp_bench_median(times + 1, n - 1) : times[0];
        costs->device_before = each(free_before, device_free(parent), n);
        costs->host_before = n > 1 ? each(sp_os_proportional_bytes(), host, n - 1) : 0;
    }
    free(times);
    return status;
}

/* One more token. */
static sp_status use_fork(speaker *fork, uint32_t token, sp_error *err) {
    size_t size;
    sp_llm_eval *message = eval_message(1, token, &size);
    sp_status status = message ? ask(fork, message, size, err) : sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    while (status == SP_OK && !fork->finished) {
        status = step(fork, err);
    }
    free(message);
    return status;
}

/* Each goes on with one of a few tokens. Those that were given the same one must have the same logits: nothing of what they have in common changed.
 */
static sp_status use_forks(speaker *forks, int n, fork_costs *costs, sp_error *err) {
    double *times = calloc((size_t)n, sizeof *times);
    sp_status status = times ? SP_OK : sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    uint64_t free_before = status == SP_OK ? device_free(forks[0].actor) : 0, host = sp_os_proportional_bytes();
    for (int i = 0; status == SP_OK && i < n; i++) {
        uint64_t start = sp_bench_now_ns();
        status = use_fork(&forks[i], (uint32_t)(i % DIFFERENT), err);
        times[i] = (double)(sp_bench_now_ns() - start) * 1e-6;
    }
    if (status == SP_OK) {
        costs->token_ms = sp_bench_median(times, n);
        costs->device_after = each(free_before, device_free(forks[0].actor), n) + costs->device_before;
        costs->host_after = each(sp_os_proportional_bytes(), host, n) + costs->host_before;
    }
    for (int i = 0; status == SP_OK && i < n; i++) {
        status = use_fork(&forks[i], DIFFERENT, err);
        if (status == SP_OK && (forks[i].logits != forks[i % DIFFERENT].logits || (i % DIFFERENT && forks[i].logits == forks[0].logits))) {
            status = sp_fail(err, SP_ERR_DEVICE, "fork %d does not compute what it should: forks see what others write", i);
        }
    }
    free(times);
    return status;
}

static void report_forks(const gpu_options *o, const char *name, const fork_costs *c, json_t *results) {
    const double mib = 1 << 20;
    json_array_append_new(results, json_pack("{s:s, s:s, s:i, s:i, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:I}", "model", name, "phase", "forks", "forks",
                                             o->forks, "context", o->depth, "first_ms", c->first_ms, "each_ms", c->each_ms, "token_ms", c->token_ms,
                                             "device_bytes_before", c->device_before, "host_bytes_before", c->host_before, "device_bytes_after",
                                             c->device_after, "host_bytes_after", c->host_after, "state_bytes", (json_int_t)c->state_bytes));
    if (!o->json) {
        printf("%-12s %d forks of %d tokens, whose cache has %.1f MiB: %.3f ms each, the first %.1f ms\n", name, o->forks, o->depth,
               (double)c->state_bytes / mib, c->each_ms, c->first_ms);
        printf("%-12s   before they write: %.2f MiB of the card's memory and %.2f MiB of the host's each\n", "", c->device_before / mib,
               c->host_before / mib);
        printf("%-12s   their first token: %.2f ms; then %.2f MiB of the card's and %.2f MiB of the host's each\n", "", c->token_ms,
               c->device_after / mib, c->host_after / mib);
        fflush(stdout);
    }
}

sp_status sp_gpu_bench_forks(const gpu_options *o, const char *name, const char *path, json_t *results, sp_error *err) {
    sp_llm_settings settings = sp_gpu_settings(o, path, o->depth + o->tokens + 16);
    sp_llm_client *parent = NULL;
    size_t size = 0;
    fork_costs costs = {0};
    speaker *forks = calloc((size_t)o->forks, sizeof *forks);
    sp_llm_eval *message = eval_message((uint32_t)o->depth, 0, &size);
    sp_status status = forks && message ? SP_OK : sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    status = status == SP_OK ? sp_llm_open(&settings, &parent, err) : status;
    status = status == SP_OK ? sp_llm_ask_bytes(parent, message, size, NULL, NULL, err) : status;
    status = status == SP_OK ? make_forks(sp_llm_actor(parent), forks, o->forks, &costs, err) : status;
    status = status == SP_OK ? use_forks(forks, o->forks, &costs, err) : status;
    if (status == SP_OK) {
        costs.state_bytes = sp_llm_ready_info(parent)->state_bytes;
        report_forks(o, name, &costs, results);
    }
    close_all(forks, o->forks);
    free(message);
    sp_llm_close(parent);
    return status;
}
