/* What the tests of models share: where files are, tiny models, libllama as the oracle, and a traced program that runs without a guest. */
#ifndef SP_TESTS_MODEL_TEST_H
#define SP_TESTS_MODEL_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <llama.h>

#include "folders.h"
#include "memory/memory.h"
#include "model/model.h"
#include "model/synthetic.h"
#include "samepage/inputs.h"
#include "threads.h"

/* A test that opens many contexts at once says 1: ggml's threads wait for work by turning, and starve each other. */
#ifndef TEST_THREADS
#define TEST_THREADS SOME_THREADS(2)
#endif
enum { THREADS = TEST_THREADS, MAX_BATCH = 512 };

/* A file of the sources, by its path there. */
static inline const char *source_path(char out[512], const char *name) {
    snprintf(out, 512, "%s/%s", folder_of("SOURCE_DIR"), name);
    return out;
}

/* A file of this test's own in the build folder. */
static inline const char *scratch_path(char out[512], const char *name) {
    snprintf(out, 512, "%s/scratch-%ld-%s", folder_of("BUILD_DIR"), (long)getpid(), name);
    return out;
}

static inline void must(sp_status status, const sp_error *err) {
    if (status != SP_OK) {
        fail_msg("%s: %s", sp_status_name(status), err->message);
    }
}

static inline sp_model *open_model(const char *path) {
    sp_model *model = NULL;
    sp_error err = {0};
    must(sp_model_open_cached(NULL, path, NULL, &model, &err), &err);
    assert_non_null(model);
    return model;
}

/* A model of two layers with random weights and pocket's vocabulary. */
static inline const char *write_tiny(char out[512], const char *architecture, uint32_t type) {
    char vocabulary[512], name[64];
    snprintf(name, sizeof name, "%s-%u.gguf", architecture, type);
    sp_synthetic what = {.architecture = architecture,
                         .vocabulary = source_path(vocabulary, "models/pocket/pocket-q8_0.gguf"),
                         .n_layer = 2,
                         .n_embd = 128,
                         .n_head = 4,
                         .n_head_kv = 2,
                         .n_ff = 256,
                         .n_ctx = 1024,
                         .type = type,
                         .seed = 7};
    sp_error err = {0};
    must(sp_synthetic_write(&what, scratch_path(out, name), &err), &err);
    return out;
}

/* ---- the oracle ---- */

typedef struct oracle {
    struct llama_model *model;
    struct llama_context *context;
} oracle;

static inline oracle open_oracle(const char *path, uint32_t n_ctx) {
    struct llama_model_params model_params = llama_model_default_params();
    model_params.n_gpu_layers = 0;
    oracle o = {.model = llama_model_load_from_file(path, model_params)};
    assert_non_null(o.model);
    struct llama_context_params params = llama_context_default_params();
    params.n_ctx = n_ctx;
    params.n_batch = params.n_ubatch = MAX_BATCH;
    params.n_threads = params.n_threads_batch = THREADS;
    params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;
    params.offload_kqv = params.op_offload = params.swa_full = false;
    o.context = llama_init_from_model(o.model, params);
    assert_non_null(o.context);
    return o;
}

static inline void close_oracle(oracle *o) {
    llama_free(o->context);
    llama_model_free(o->model);
}

/* The logits of the last n_outputs tokens, one row each; they belong to the oracle until the next call. */
static inline const float *oracle_decode(oracle *o, const int32_t *tokens, uint32_t n, uint32_t n_past, uint32_t n_outputs) {
    struct llama_batch batch = llama_batch_init((int32_t)n, 0, 1);
    for (uint32_t i = 0; i < n; i++) {
        batch.token[i] = tokens[i];
        batch.pos[i] = (llama_pos)(n_past + i);
        batch.n_seq_id[i] = 1;
        batch.seq_id[i][0] = 0;
        batch.logits[i] = i >= n - n_outputs;
    }
    batch.n_tokens = (int32_t)n;
    assert_int_equal(llama_decode(o->context, batch), 0);
    llama_batch_free(batch);
    return llama_get_logits(o->context);
}

/* ---- a traced program on a device ---- */

typedef struct runner {
    sp_device *device;
    sp_device_weights *weights;
    sp_workspace *workspace;
    sp_program *program;
    sp_memory *memory;
    sp_device_memory *region;
    sp_inputs inputs;
    uint64_t at[256], size[256]; /* of each slot in the region */
    uint32_t n_slots, n_ctx, n_vocab;
} runner;

static inline sp_spec *specialise(const runner *r, const sp_inputs_batch *batch) {
    uint64_t values[SP_PROGRAM_MAX_SYMBOLS];
    sp_inputs_symbols(&r->inputs, batch, values);
    sp_spec_limits limits = {.flops = UINT64_MAX, .temporary_bytes = UINT64_MAX};
    sp_spec *spec = NULL;
    sp_error err = {0};
    must(sp_program_specialise(r->program, values, sp_program_get_header(r->program)->n_symbols, &limits, &spec, &err), &err);
    return spec;
}

static inline void place_slots(runner *r) {
    sp_spec *spec = specialise(r, &(sp_inputs_batch){.n_tokens = MAX_BATCH, .n_past = r->n_ctx, .n_outputs = MAX_BATCH});
    uint64_t total = 0;
    r->n_slots = spec->n_slots;
    assert_true(r->n_slots <= 256);
    for (uint32_t i = 0; i < spec->n_slots; i++) {
        r->at[i] = total;
        r->size[i] = spec->slots[i].size;
        total += (spec->slots[i].size + 65535) / 65536 * 65536;
    }
    sp_spec_free(spec);
    sp_error err = {0};
    must(sp_memory_create(total, total, 65536, &r->memory, &err), &err);
    must(sp_device_memory_open(r->device, sp_memory_base(r->memory), total, &r->region, &err), &err);
    /* The state begins as zeros on the device too: cells that a mask hides are multiplied by 0, and would spoil the sum if they held no numbers. */
    must(sp_device_memory_sync(r->region, 0, total, SP_SYNC_TO_DEVICE, &err), &err);
}

static inline runner open_runner(sp_model *model, const char *device, uint32_t n_ctx) {
    runner r = {.n_ctx = n_ctx};
    sp_model_info info;
    sp_model_get_info(model, &info);
    r.n_vocab = info.n_vocab;
    sp_error err = {0};
    const void *bytes = NULL;
    uint64_t size = 0;
    must(sp_model_get_program(model, &(sp_program_wish){.type_k = SP_TYPE_F16, .type_v = SP_TYPE_F16}, &bytes, &size, &err), &err);
    sp_weight_source source = {.find = sp_model_find_weight, .context = model};
    must(sp_program_load(bytes, size, &source, &r.program, &err), &err);
    assert_null(sp_inputs_open(&r.inputs, bytes, n_ctx, MAX_BATCH));
    must(sp_device_open(device, THREADS, &r.device, &err), &err);
    const sp_model_options options = sp_model_get_options(model);
    must(sp_device_weights_open(r.device, sp_model_weight_table(model), options.progress, options.progress_user, &r.weights, &err), &err);
    must(sp_workspace_open(r.device, UINT64_MAX, &r.workspace, &err), &err);
    place_slots(&r);
    return r;
}

static inline void close_runner(runner *r) {
    sp_workspace_close(r->workspace);
    sp_device_memory_close(r->region);
    sp_memory_destroy(r->memory);
    sp_program_free(r->program);
    sp_device_weights_close(r->weights);
    sp_device_close(r->device);
}

static inline void sync_slots(runner *r, const sp_spec *spec, uint32_t flag, sp_sync_direction direction) {
    sp_error err = {0};
    for (uint32_t i = 0; i < spec->n_slots; i++) {
        bool state = spec->slots[i].flags & SP_SLOT_STATE;
        if (!state && spec->slots[i].flags & flag) {
            must(sp_device_memory_sync(r->region, r->at[i], spec->slots[i].size, direction, &err), &err);
        }
    }
}

/* The same as oracle_decode, by the program. The logits lie in the region until the next call. */
static inline const float *runner_decode(runner *r, const int32_t *tokens, uint32_t n, uint32_t n_past, uint32_t n_outputs) {
    const sp_inputs_batch batch = {.tokens = tokens, .n_tokens = n, .n_past = n_past, .n_outputs = n_outputs};
    sp_spec *spec = specialise(r, &batch);
    sp_slot_binding bindings[256];
    const float *logits = NULL;
    for (uint32_t i = 0; i < spec->n_slots; i++) {
        bindings[i] = (sp_slot_binding){.memory = r->region, .offset = r->at[i], .length = r->size[i]};
        void *bytes = sp_memory_base(r->memory) + r->at[i];
        if (spec->slots[i].flags & SP_SLOT_OUTPUT) {
            assert_string_equal(spec->slots[i].name, "logits");
            assert_int_equal(spec->slots[i].size, (uint64_t)n_outputs * r->n_vocab * sizeof(float));
            logits = bytes;
        } else if (!(spec->slots[i].flags & SP_SLOT_STATE)) {
            assert_true(sp_inputs_fill(&r->inputs, i, &batch, bytes));
        }
    }
    assert_non_null(logits);
    sp_error err = {0};
    sp_executable *executable = NULL;
    sync_slots(r, spec, SP_SLOT_READ, SP_SYNC_TO_DEVICE);
    must(sp_device_prepare(r->workspace, spec, bindings, &r->weights, 1, &executable, &err), &err);
    must(sp_device_execute(executable, &err), &err);
    sync_slots(r, spec, SP_SLOT_OUTPUT, SP_SYNC_FROM_DEVICE);
    sp_executable_close(executable);
    sp_spec_free(spec);
    return logits;
}

#endif
