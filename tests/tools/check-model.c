/*
 * Runs a model's traced program and libllama on the same file, tokens and batches, and compares the logits.
 *
 *   check-model FILE [prefill [decode [batch [context [type_k type_v]]]]]     default 64 32 64 512 f16 f16
 *
 * The program runs on the CPU, or on the device that SAMEPAGE_TEST_DEVICE says (cuda:0); libllama always on its CPU backend. On the CPU the
 * normalised mean squared error of all logits may be 1e-6; elsewhere, where products round otherwise, 1e-4.
 *
 * Prints one line: "equal", "within NMSE", "differs NMSE", or "refused REASON". Status 0 for the first two, 3 for a refusal, else 1.
 */
#include <llama.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "memory/memory.h"
#include "model/model.h"
#include "samepage/inputs.h"

enum { THREADS = 1, MAX_SLOTS = 1024, REFUSED = 3 };

typedef struct options {
    uint32_t n_prefill, n_decode, n_batch, n_ctx, type_k, type_v;
} options;

typedef struct run {
    sp_model *model;
    sp_model_info info;
    const void *bytes; /* the program */
    sp_inputs inputs;
    sp_device *device;
    sp_device_weights *weights;
    sp_workspace *workspace;
    sp_program *program;
    sp_memory *memory;
    sp_device_memory *region;
    sp_slot_binding bindings[MAX_SLOTS];
} run;

static void must(sp_status status, const sp_error *err) {
    if (status != SP_OK) {
        printf("failed %s\n", err->message);
        exit(1);
    }
}

static const char *device_name(void) {
    const char *device = getenv("SAMEPAGE_TEST_DEVICE");
    return device && *device ? device : "cpu";
}

static sp_spec *specialise(const run *r, const sp_inputs_batch *batch) {
    uint64_t symbols[SP_PROGRAM_MAX_SYMBOLS];
    sp_error err = {0};
    sp_spec *spec = NULL;
    const sp_spec_limits limits = {.flops = UINT64_MAX, .temporary_bytes = UINT64_MAX};
    sp_inputs_symbols(&r->inputs, batch, symbols);
    must(sp_program_specialise(r->program, symbols, sp_program_get_header(r->program)->n_symbols, &limits, &spec, &err), &err);
    return spec;
}

static void place_slots(run *r) {
    const sp_inputs_batch most = {.n_tokens = r->inputs.n_batch, .n_past = r->inputs.n_ctx - r->inputs.n_batch, .n_outputs = r->inputs.n_batch};
    sp_spec *spec = specialise(r, &most);
    sp_error err = {0};
    uint64_t total = 0;
    for (uint32_t i = 0; i < spec->n_slots; i++) {
        r->bindings[i] = (sp_slot_binding){.offset = total, .length = spec->slots[i].size};
        total += (spec->slots[i].size + 65535) / 65536 * 65536;
    }
    must(sp_memory_create(total, total, 65536, &r->memory, &err), &err);
    must(sp_device_memory_open(r->device, sp_memory_base(r->memory), total, &r->region, &err), &err);
    must(sp_device_memory_sync(r->region, 0, total, SP_SYNC_TO_DEVICE, &err), &err);
    for (uint32_t i = 0; i < spec->n_slots; i++) {
        r->bindings[i].memory = r->region;
    }
    sp_spec_free(spec);
}

static void open_run(run *r, const char *path, const options *o) {
    sp_error err = {0};
    uint64_t size = 0;
    if (sp_model_open_cached(NULL, path, NULL, &r->model, &err) != SP_OK ||
        sp_model_get_program(r->model, &(sp_program_wish){.type_k = o->type_k, .type_v = o->type_v}, &r->bytes, &size, &err) != SP_OK) {
        printf("refused %s\n", err.message);
        exit(REFUSED);
    }
    sp_model_get_info(r->model, &r->info);
    const sp_weight_source source = {.find = sp_model_find_weight, .context = r->model};
    must(sp_program_load(r->bytes, size, &source, &r->program, &err), &err);
    const char *wrong = sp_inputs_open(&r->inputs, r->bytes, o->n_ctx, o->n_batch);
    if (wrong) {
        printf("refused %s\n", wrong);
        exit(REFUSED);
    }
    must(sp_device_open(device_name(), THREADS, &r->device, &err), &err);
    must(sp_device_weights_open(r->device, sp_model_weight_table(r->model), NULL, NULL, &r->weights, &err), &err);
    must(sp_workspace_open(r->device, UINT64_MAX, &r->workspace, &err), &err);
    place_slots(r);
}

static void sync_slot(const run *r, const sp_spec *spec, uint32_t slot, sp_sync_direction direction) {
    sp_error err = {0};
    must(sp_device_memory_sync(r->region, r->bindings[slot].offset, spec->slots[slot].size, direction, &err), &err);
}

static const float *decode(run *r, const sp_inputs_batch *batch) {
    sp_spec *spec = specialise(r, batch);
    uint32_t logits = 0;
    sp_error err = {0};
    sp_executable *executable = NULL;
    for (uint32_t i = 0; i < spec->n_slots; i++) {
        void *at = sp_memory_base(r->memory) + r->bindings[i].offset;
        if (spec->slots[i].flags & SP_SLOT_OUTPUT) {
            logits = i;
        } else if (sp_inputs_is_input(&r->inputs, i)) {
            if (!sp_inputs_fill(&r->inputs, i, batch, at)) {
                printf("failed input %s is not known\n", spec->slots[i].name);
                exit(1);
            }
            sync_slot(r, spec, i, SP_SYNC_TO_DEVICE);
        }
    }
    const sp_status prepared = sp_device_prepare(r->workspace, spec, r->bindings, &r->weights, 1, &executable, &err);
    if (prepared == SP_ERR_UNSUPPORTED) {
        printf("refused %s\n", err.message);
        fflush(stdout);
        _Exit(REFUSED);
    }
    must(prepared, &err);
    must(sp_device_execute(executable, &err), &err);
    sync_slot(r, spec, logits, SP_SYNC_FROM_DEVICE);
    sp_executable_close(executable);
    sp_spec_free(spec);
    return (const float *)(const void *)(sp_memory_base(r->memory) + r->bindings[logits].offset);
}

static struct llama_context *open_oracle(const char *path, const options *o) {
    struct llama_model_params model_params = llama_model_default_params();
    model_params.n_gpu_layers = 0;
    struct llama_model *model = llama_model_load_from_file(path, model_params);
    struct llama_context_params params = llama_context_default_params();
    params.n_ctx = o->n_ctx;
    params.n_batch = params.n_ubatch = o->n_batch;
    params.n_threads = params.n_threads_batch = THREADS;
    params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;
    params.offload_kqv = params.op_offload = params.swa_full = false;
    params.type_k = (enum ggml_type)o->type_k;
    params.type_v = (enum ggml_type)o->type_v;
    struct llama_context *context = model ? llama_init_from_model(model, params) : NULL;
    if (!context) {
        printf("failed libllama can't run it\n");
        exit(1);
    }
    return context;
}

static const float *oracle_decode(struct llama_context *context, const sp_inputs_batch *b) {
    struct llama_batch batch = llama_batch_init((int32_t)b->n_tokens, 0, 1);
    for (uint32_t i = 0; i < b->n_tokens; i++) {
        batch.token[i] = b->tokens[i];
        batch.pos[i] = (llama_pos)(b->n_past + i);
        batch.n_seq_id[i] = 1;
        batch.seq_id[i][0] = 0;
        batch.logits[i] = i >= b->n_tokens - b->n_outputs;
    }
    batch.n_tokens = (int32_t)b->n_tokens;
    if (llama_decode(context, batch) != 0) {
        printf("failed libllama can't decode\n");
        exit(1);
    }
    llama_batch_free(batch);
    return llama_get_logits(context);
}

typedef struct difference {
    double squares, error;
    bool equal, numbers;
} difference;

static void compare(difference *d, const float *got, const float *wanted, size_t n) {
    d->equal &= memcmp(got, wanted, n * sizeof *got) == 0;
    for (size_t i = 0; i < n; i++) {
        d->numbers &= isfinite(wanted[i]) && isfinite(got[i]);
        d->squares += (double)wanted[i] * wanted[i];
        d->error += ((double)got[i] - wanted[i]) * ((double)got[i] - wanted[i]);
    }
}

static int32_t some_token(uint32_t position, uint32_t n_vocab) {
    return (int32_t)((position * 2654435761u >> 7) % n_vocab);
}

static void run_all(run *r, struct llama_context *oracle, const options *o, difference *d) {
    int32_t *tokens = malloc(o->n_batch * sizeof *tokens);
    const uint32_t end = o->n_prefill + o->n_decode;
    for (uint32_t past = 0; tokens && past < end;) {
        const uint32_t left = o->n_prefill > past ? o->n_prefill - past : 1, n = left < o->n_batch ? left : o->n_batch;
        for (uint32_t i = 0; i < n; i++) {
            tokens[i] = some_token(past + i, r->info.n_vocab);
        }
        const sp_inputs_batch batch = {.tokens = tokens, .n_tokens = n, .n_past = past, .n_outputs = n};
        compare(d, decode(r, &batch), oracle_decode(oracle, &batch), (size_t)n * r->info.n_vocab);
        past += n;
    }
    free(tokens);
}

static uint32_t number(char **argv, int argc, int at, uint32_t usual) {
    return at < argc ? (uint32_t)strtoul(argv[at], NULL, 10) : usual;
}

static uint32_t type(char **argv, int argc, int at) {
    for (uint32_t t = 0; at < argc && t < 64; t++) {
        if (sp_type_get(t) && strcmp(sp_type_get(t)->name, argv[at]) == 0) {
            return t;
        }
    }
    return SP_TYPE_F16;
}

int main(int argc, char **argv) {
    if (argc < 2) {
        fprintf(stderr, "usage: check-model FILE [prefill [decode [batch [context [type_k type_v]]]]]\n");
        return 2;
    }
    const options o = {.n_prefill = number(argv, argc, 2, 64),
                       .n_decode = number(argv, argc, 3, 32),
                       .n_batch = number(argv, argc, 4, 64),
                       .n_ctx = number(argv, argc, 5, 512),
                       .type_k = type(argv, argc, 6),
                       .type_v = type(argv, argc, 7)};
    static run r;
    difference d = {.equal = true, .numbers = true};
    open_run(&r, argv[1], &o);
    struct llama_context *oracle = open_oracle(argv[1], &o);
    run_all(&r, oracle, &o, &d);
    const double nmse = d.error / d.squares;
    const bool within = d.numbers && nmse <= (strcmp(device_name(), "cpu") == 0 ? 1e-6 : 1e-4);
    if (d.equal) {
        printf("equal%s\n", d.numbers ? "" : ", not all of them numbers");
    } else {
        printf("%s %.3g\n", within ? "within" : "differs", nmse);
    }
    fflush(stdout);
    _Exit(d.equal || within ? 0 : 1);
}
