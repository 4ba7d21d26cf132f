/*
 * `samepage bench check`: what checking a model's program costs: once when it is loaded, once for each set of symbol values, and before each run;
 * beside the time of a decode step on the same machine.
 */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "cli/bench.h"
#include "cli/cmd.h"
#include "cli/options.h"
#include "memory/memory.h"
#include "model/model.h"
#include "samepage/inputs.h"

enum { MAX_ROUNDS = 101, CONTEXT = 4096, PAGE = 65536 };

typedef struct check_options {
    const char *model, *folder;
    int32_t threads, rounds, past;
    bool json, small;
} check_options;

/* A model's program, ready to run one token at position `past`. */
typedef struct subject {
    sp_model *model;
    const void *bytes;
    uint64_t size;
    sp_inputs inputs;
    sp_inputs_batch batch;
    uint64_t symbols[SP_PROGRAM_MAX_SYMBOLS];
    sp_program *program;
    sp_spec *spec;
    sp_device *device;
    sp_device_weights *weights;
    sp_workspace *workspace;
    sp_memory *memory;
    sp_device_memory *region;
    sp_slot_binding *bindings;
    sp_executable *executable;
} subject;

typedef struct costs {
    double load, specialise, prepare, checks, step; /* nanoseconds, medians */
    uint64_t checked_ids;
} costs;

/* The median time of `rounds` calls; *status is the first failure. */
static double measure(int rounds, sp_status (*call)(subject *s, sp_error *err), subject *s, sp_status *status, sp_error *err) {
    double times[MAX_ROUNDS];
    for (int i = 0; i < rounds; i++) {
        uint64_t start = sp_bench_now_ns();
        if (*status == SP_OK) {
            *status = call(s, err);
        }
        times[i] = (double)(sp_bench_now_ns() - start);
    }
    return sp_bench_median(times, rounds);
}

static sp_status load(subject *s, sp_error *err) {
    const sp_weight_source weights = {.find = sp_model_find_weight, .context = s->model};
    sp_program_free(s->program);
    return sp_program_load(s->bytes, s->size, &weights, &s->program, err);
}

static sp_status specialise(subject *s, sp_error *err) {
    sp_spec_free(s->spec);
    s->spec = NULL;
    return sp_program_specialise(s->program, s->symbols, sp_program_get_header(s->program)->n_symbols, NULL, &s->spec, err);
}

static sp_status prepare(subject *s, sp_error *err) {
    sp_executable_close(s->executable);
    s->executable = NULL;
    return sp_device_prepare(s->workspace, s->spec, s->bindings, &s->weights, 1, &s->executable, err);
}

/* What every run checks: a copy of each window of row ids, against its bounds. */
static sp_status check_ids(subject *s, sp_error *err) {
    static int64_t copy[1 << 16];
    sp_status status = SP_OK;
    for (uint32_t i = 0; status == SP_OK && i < s->spec->n_indices; i++) {
        const sp_spec_tensor *t = &s->spec->tensors[s->spec->indices[i].tensor];
        const uint64_t bytes = (uint64_t)(t->ne[0] * t->ne[1] * t->ne[2] * t->ne[3]) * t->nb[0];
        if (bytes <= sizeof copy) {
            memcpy(copy, sp_memory_base(s->memory) + s->bindings[t->slot].offset + t->offset, bytes);
            status = sp_spec_check_index(s->spec, &s->spec->indices[i], copy, err);
        }
    }
    return status;
}

static sp_status step(subject *s, sp_error *err) {
    return sp_device_execute(s->executable, err);
}

/* Memory for every slot, with the inputs of the token in it. */
static sp_status place_slots(subject *s, sp_error *err) {
    uint64_t total = 0;
    s->bindings = calloc(s->spec->n_slots, sizeof *s->bindings);
    if (!s->bindings) {
        return sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    }
    for (uint32_t i = 0; i < s->spec->n_slots; i++) {
        s->bindings[i] = (sp_slot_binding){.offset = total, .length = s->spec->slots[i].size};
        total += (s->spec->slots[i].size + PAGE - 1) / PAGE * PAGE;
    }
    sp_status status = sp_memory_create(total, total, PAGE, &s->memory, err);
    status = status ? status : sp_device_memory_open(s->device, sp_memory_base(s->memory), total, &s->region, err);
    for (uint32_t i = 0; status == SP_OK && i < s->spec->n_slots; i++) {
        s->bindings[i].memory = s->region;
        void *at = sp_memory_base(s->memory) + s->bindings[i].offset;
        if (sp_inputs_is_input(&s->inputs, i) && !sp_inputs_fill(&s->inputs, i, &s->batch, at)) {
            status = sp_fail(err, SP_ERR_UNSUPPORTED, "input %s of the model is not known", s->spec->slots[i].name);
        }
    }
    return status;
}

static sp_status open_subject(sp_host *host, const char *path, const check_options *o, subject *s, sp_error *err) {
    static const int32_t token = 1;
    sp_status status = sp_model_open(host, path, NULL, &s->model, err);
    status =
        status ? status : sp_model_get_program(s->model, &(sp_program_wish){.type_k = SP_TYPE_F16, .type_v = SP_TYPE_F16}, &s->bytes, &s->size, err);
    if (status != SP_OK) {
        return status;
    }
    sp_model_info info;
    sp_model_get_info(s->model, &info);
    const uint32_t context = info.n_ctx_train && info.n_ctx_train < CONTEXT ? info.n_ctx_train : CONTEXT;
    const char *wrong = sp_inputs_open(&s->inputs, s->bytes, context, 1);
    if (wrong) {
        return sp_fail(err, SP_ERR_UNSUPPORTED, "%s", wrong);
    }
    s->batch =
        (sp_inputs_batch){.tokens = &token, .n_tokens = 1, .n_past = (uint32_t)o->past < context ? (uint32_t)o->past : context - 1, .n_outputs = 1};
    sp_inputs_symbols(&s->inputs, &s->batch, s->symbols);
    status = load(s, err);
    status = status ? status : specialise(s, err);
    status = status ? status : sp_device_open("cpu", o->threads, &s->device, err);
    status = status ? status : sp_device_weights_open(s->device, sp_model_weight_table(s->model), NULL, NULL, &s->weights, err);
    status = status ? status : sp_workspace_open(s->device, UINT64_MAX, &s->workspace, err);
    status = status ? status : place_slots(s, err);
    status = status ? status : prepare(s, err);
    return status ? status : step(s, err); /* once, so that no page is new */
}

static void close_subject(subject *s) {
    sp_executable_close(s->executable);
    sp_spec_free(s->spec);
    sp_program_free(s->program);
    if (s->region) {
        sp_device_memory_close(s->region);
    }
    sp_memory_destroy(s->memory);
    sp_workspace_close(s->workspace);
    sp_device_weights_close(s->weights);
    sp_device_close(s->device);
    sp_model_close(s->model);
    free(s->bindings);
}

/* What is measured: a file of the user's, or the embedded model and synthetic ones. */
typedef struct bench_model {
    const char *name, *type, *file;
    uint32_t synthetic; /* SP_TYPE_*; 0: it is there, or embedded */
} bench_model;

static void show(const bench_model *m, const check_options *o, const subject *s, const costs *c, json_t *results) {
    /* One specialisation serves as many tokens as libllama pads its cache by. */
    const double often = c->checks / c->step, all = (c->checks + c->specialise / SP_INPUTS_PAD) / c->step;
    if (o->json) {
        json_array_append_new(results, json_pack("{s:s, s:s, s:i, s:I, s:i, s:f, s:f, s:f, s:f, s:I, s:f, s:f, s:f}", "model", m->name, "type",
                                                 m->type, "tensors", (int)s->spec->n_tensors, "program_bytes", (json_int_t)s->size, "past",
                                                 (int)s->batch.n_past, "load_ms", c->load / 1e6, "specialise_ms", c->specialise / 1e6, "prepare_ms",
                                                 c->prepare / 1e6, "checks_us", c->checks / 1e3, "checked_ids", (json_int_t)c->checked_ids, "step_ms",
                                                 c->step / 1e6, "share_of_step", often, "share_with_specialise", all));
        return;
    }
    printf("%s %s: %u tensors, %llu bytes of program, one token at %u\n", m->name, m->type, s->spec->n_tensors, (unsigned long long)s->size,
           s->batch.n_past);
    printf("  load        %9.3f ms   once\n", c->load / 1e6);
    printf("  specialise  %9.3f ms   once in %d tokens\n", c->specialise / 1e6, SP_INPUTS_PAD);
    printf("  prepare     %9.3f ms   once in %d tokens; the device's part\n", c->prepare / 1e6, SP_INPUTS_PAD);
    printf("  checks      %9.3f us   each run: %llu row ids\n", c->checks / 1e3, (unsigned long long)c->checked_ids);
    printf("  step        %9.3f ms   checks are %.4f%% of it; with specialise, %.4f%%\n", c->step / 1e6, 100 * often, 100 * all);
}

static sp_status bench_one(sp_host *host, const bench_model *m, const char *path, const check_options *o, json_t *results, sp_error *err) {
    subject s = {0};
    costs c = {0};
    sp_status status = open_subject(host, path, o, &s, err);
    if (status == SP_OK) {
        c.load = measure(o->rounds, load, &s, &status, err);
        status = status ? status : specialise(&s, err); /* names of a specialised program lie in the program that it was made of */
        c.specialise = measure(o->rounds, specialise, &s, &status, err);
        c.prepare = measure(o->rounds, prepare, &s, &status, err);
        c.checks = measure(o->rounds, check_ids, &s, &status, err);
        c.step = measure(o->rounds, step, &s, &status, err);
    }
    if (status == SP_OK) {
        for (uint32_t i = 0; i < s.spec->n_indices; i++) {
            const int64_t *ne = s.spec->tensors[s.spec->indices[i].tensor].ne;
            c.checked_ids += (uint64_t)(ne[0] * ne[1] * ne[2] * ne[3]);
        }
        show(m, o, &s, &c, results);
    }
    close_subject(&s);
    return status;
}

static sp_status bench_all(sp_host *host, const check_options *o, json_t *results, sp_error *err) {
    static const bench_model models[] = {{"pocket", "q8_0", "samepage-pocket.gguf", 0},
                                         {"llama-1.24b", "q4_0", "samepage-llama-1b-q4_0.gguf", SP_TYPE_Q4_0},
                                         {"llama-1.24b", "q8_0", "samepage-llama-1b-q8_0.gguf", SP_TYPE_Q8_0}};
    if (o->model) {
        return bench_one(host, &(bench_model){.name = o->model, .type = ""}, o->model, o, results, err);
    }
    sp_status status = SP_OK;
    for (size_t i = 0; status == SP_OK && i < (o->small ? 1 : sizeof models / sizeof models[0]); i++) {
        char path[4096];
        snprintf(path, sizeof path, "%s/%s", o->folder, models[i].file);
        status = models[i].synthetic ? sp_bench_write_synthetic(path, "dense", models[i].synthetic, err) : sp_bench_write_pocket(path, err);
        status = status ? status : bench_one(host, &models[i], path, o, results, err);
    }
    return status;
}

int sp_bench_check(int argc, char **argv) {
    check_options o = {.folder = "/tmp", .rounds = 21, .past = 2048};
    const sp_option table[] = {
        {'m', "model", SP_OPT_TEXT, &o.model, 0, 0, "FILE", "measure this GGUF (default: pocket, and a synthetic Llama of 1.24 B in Q4_0 and Q8_0)"},
        {'t', "threads", SP_OPT_INT, &o.threads, 1, 512, "N", "CPU threads of a step (default: all cores)"},
        {0, "rounds", SP_OPT_INT, &o.rounds, 1, MAX_ROUNDS, "N", "measurements of each part (default: 21); medians are shown"},
        {0, "past", SP_OPT_INT, &o.past, 0, CONTEXT - 1, "N", "tokens before the one that is decoded (default: 2048)"},
        {0, "folder", SP_OPT_TEXT, &o.folder, 0, 0, "DIR", "where synthetic models are written and kept (default: /tmp; 2 GB)"},
        {0, "small", SP_OPT_FLAG, &o.small, 0, 0, NULL, "the embedded model alone"},
        {0, "json", SP_OPT_FLAG, &o.json, 0, 0, NULL, "as JSON"},
        {0},
    };
    int at =
        sp_options_parse(table, "bench", "check [OPTION...]",
                         "Measures what checking a model's program costs: loading and specialising it, and the checks before each run, beside the\n"
                         "time of a decode step.",
                         argc, argv);
    if (at < 0) {
        return -1 - at;
    }
    if (at < argc) {
        return sp_usage_error("bench", "check takes no argument: \"%s\"", argv[at]);
    }
    o.threads = o.threads ? o.threads : (int32_t)sysconf(_SC_NPROCESSORS_ONLN);
    sp_error err = {0};
    sp_host *host = NULL;
    json_t *results = json_array();
    sp_status status = sp_host_open(NULL, &host, &err);
    status = status ? status : bench_all(host, &o, results, &err);
    sp_host_close(host);
    if (status == SP_OK && o.json) {
        json_t *root = json_pack("{s:i, s:O}", "threads", o.threads, "results", results);
        json_dumpf(root, stdout, JSON_INDENT(2));
        putchar('\n');
        json_decref(root);
    }
    json_decref(results);
    return status == SP_OK ? SP_EXIT_OK : sp_failed(&err);
}
