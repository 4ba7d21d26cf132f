/* What the tests of this folder share: a host without a cache, devices, a model, guests written as text, and small programs. */
#ifndef SP_TESTS_ABI_TEST_H
#define SP_TESTS_ABI_TEST_H

#include "support.h"

#include <wasmtime/wat.h>

#include "abi/abi.h"
#include "samepage/graph.h"

static sp_error said;
static struct {
    sp_host *host;
    sp_device *cpu, *discrete;
    sp_model *pocket;
} with;

static inline void says(int64_t got, int64_t status, const char *words, int line) {
    if (got != status || (status && !strstr(said.message, words))) {
        fail_msg("line %d: %lld \"%s\"; should be %lld \"%s\"", line, (long long)got, said.message, (long long)status, words);
    }
}
#define SAYS(call, status, words) says(call, status, words, __LINE__)

static inline int open_all(void **state) {
    (void)state;
    const sp_host_options options = {.cache_dir = ""};
    char *path = in_folder("SOURCE_DIR", "models/pocket/pocket-q8_0.gguf");
    sp_status status = sp_host_open(&options, &with.host, &said);
    status = status ? status : sp_device_open("cpu", 1, &with.cpu, &said);
    status = status ? status : sp_device_open("discrete", 1, &with.discrete, &said);
    status = status ? status : sp_model_open(with.host, path, NULL, &with.pocket, &said);
    free(path);
    return status ? -1 : 0;
}

static inline int close_all(void **state) {
    (void)state;
    sp_model_close(with.pocket);
    sp_device_close(with.discrete);
    sp_device_close(with.cpu);
    sp_host_close(with.host);
    return 0;
}

static inline wasm_byte_vec_t assemble(const char *text) {
    wasm_byte_vec_t bytes;
    wasmtime_error_t *error = wasmtime_wat2wasm(text, strlen(text), &bytes);
    if (error) {
        wasm_name_t message;
        wasmtime_error_message(error, &message);
        fail_msg("%.*s", (int)message.size, message.data);
    }
    return bytes;
}

static inline sp_status load_text(sp_host *host, const char *text, sp_module **out) {
    wasm_byte_vec_t bytes = assemble(text);
    sp_status status = sp_module_load(host, bytes.data, bytes.size, out, &said);
    wasm_byte_vec_delete(&bytes);
    return status;
}

/* An actor of a guest that is written as text; the module is left to the process. */
static inline sp_actor *new_actor(const char *text, const char *device, sp_model *model) {
    static sp_module *modules[16]; /* kept until the end, for LeakSanitizer to find */
    static int n;
    sp_actor *actor;
    assert_true(n < 16);
    if (load_text(with.host, text, &modules[n])) {
        fail_msg("%s", said.message);
    }
    sp_actor_options options = {
        .device = strcmp(device, "cpu") == 0 ? with.cpu : with.discrete, .models = &model, .n_models = model != NULL, .inherit_stderr = true};
    if (sp_actor_spawn(with.host, modules[n++], &options, &actor, &said)) {
        fail_msg("%s", said.message);
    }
    return actor;
}

/* y = -x, both of n numbers (1 to 64). */
static inline const void *build_neg(sp_graph *g, uint32_t *size) {
    sp_graph_init(g);
    uint32_t in = sp_graph_slot(g, "in", SP_SLOT_READ), out = sp_graph_slot(g, "out", SP_SLOT_WRITE | SP_SLOT_OUTPUT);
    sp_expr n = sp_symbol(g, "n", 1, 64);
    sp_tensor x = sp_graph_memory_1d(g, "x", in, SP_TYPE_F32, n, sp_dim(0)), y = sp_graph_memory_1d(g, "y", out, SP_TYPE_F32, n, sp_dim(0));
    sp_graph_into(g, sp_neg(g, x), y);
    return sp_graph_bytes(g, size);
}

/* Loads it from there. Its handle. */
static inline int64_t load_neg(sp_actor *actor, uint32_t at) {
    sp_graph g;
    uint32_t size;
    const void *bytes = build_neg(&g, &size);
    memcpy(sp_memory_base(actor->memory) + at, bytes, size);
    int64_t program = sp_abi_program_load(actor, at, size, &said);
    sp_graph_free(&g);
    if (program < 0) {
        fail_msg("%s", said.message);
    }
    return program;
}

/* Its slots to two places of a region, of the same length. */
static inline void bind_all(sp_actor *actor, int64_t program, int32_t region, uint32_t in, uint32_t out, uint32_t length) {
    SAYS(sp_abi_program_bind(actor, (int32_t)program, 0, region, in, length, &said), SP_OK, "");
    SAYS(sp_abi_program_bind(actor, (int32_t)program, 1, region, out, length, &said), SP_OK, "");
}

/* Where a symbol's value lies. */
static inline uint32_t put_symbols(sp_actor *actor, uint64_t value) {
    const uint32_t at = 1 << 20;
    memcpy(sp_memory_base(actor->memory) + at, &value, sizeof value);
    return at;
}

#endif
