/* libllama's calls, each guarded: what it asserts, throws or logs becomes an error of ours. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "device/guard.h"
#include "model/model_impl.h"

/* The first complaint of libllama or ggml in this thread since the last call began; what follows tells less and less. */
static _Thread_local char complaint[300];

static void keep_errors(enum ggml_log_level level, const char *text, void *user) {
    (void)user;
    if (level != GGML_LOG_LEVEL_ERROR || complaint[0]) {
        return;
    }
    const char *from = strstr(text, ": "); /* after the function's name */
    snprintf(complaint, sizeof complaint, "%s", from ? from + 2 : text);
    complaint[strcspn(complaint, "\n")] = 0;
}

void sp_model_quiet(void) {
    ggml_log_set(keep_errors, NULL);
    llama_log_set(keep_errors, NULL);
    complaint[0] = 0;
}

const char *sp_model_complaint(void) {
    return complaint[0] ? complaint : "no reason given";
}

typedef struct load_call {
    struct gguf_context *gguf; /* NULL: the file */
    int fd;
    const struct llama_model_kv_override *overrides; /* the file's model is to be made without memory for its weights; NULL: its vocabulary alone */
    struct llama_model_params params;
    struct llama_model *model;
} load_call;

static void ignore_tensor(struct ggml_tensor *tensor, void *user) {
    (void)tensor, (void)user;
}

static void load(void *user) {
    load_call *c = user;
    if (c->gguf) {
        c->model = llama_model_init_from_user(c->gguf, ignore_tensor, NULL, c->params);
        return;
    }
    char path[64];
    snprintf(path, sizeof path, "/dev/fd/%d", c->fd);
    lseek(c->fd, 0, SEEK_SET); /* some systems open the same description again, with its offset */
    c->model = llama_model_load_from_file(path, c->params);
}

static struct llama_model *guarded_load(load_call call) {
    ggml_backend_dev_t none[1] = {NULL};
    call.params = llama_model_default_params();
    call.params.vocab_only = !call.gguf && !call.overrides;
    call.params.no_alloc = call.overrides != NULL;
    call.params.load_mode = call.overrides ? LLAMA_LOAD_MODE_NONE : call.params.load_mode;
    call.params.kv_overrides = call.overrides;
    call.params.devices = none;
    call.params.n_gpu_layers = 0;
    call.params.use_extra_bufts = false;
    complaint[0] = 0;
    return sp_shim_guard(load, &call, complaint, sizeof complaint) ? call.model : NULL;
}

struct llama_model *sp_llama_load_vocabulary(int fd) {
    return guarded_load((load_call){.fd = fd});
}

struct llama_model *sp_llama_load_sizes(int fd, const struct llama_model_kv_override *overrides) {
    return guarded_load((load_call){.fd = fd, .overrides = overrides});
}

struct llama_model *sp_llama_init_without_weights(struct gguf_context *gguf) {
    return guarded_load((load_call){.gguf = gguf});
}

typedef struct adapter_call {
    struct llama_model *model;
    FILE *file;
    struct llama_adapter_lora *adapter;
} adapter_call;

static void load_adapter(void *user) {
    adapter_call *c = user;
    c->adapter = llama_adapter_lora_init_from_file_ptr(c->model, c->file);
}

struct llama_adapter_lora *sp_llama_load_adapter(struct llama_model *model, int fd) {
    const int copy = dup(fd);
    adapter_call call = {.model = model, .file = copy >= 0 ? fdopen(copy, "rb") : NULL};
    complaint[0] = 0;
    if (!call.file) {
        if (copy >= 0) {
            close(copy);
        }
        return NULL;
    }
    rewind(call.file);
    const bool went_well = sp_shim_guard(load_adapter, &call, complaint, sizeof complaint);
    fclose(call.file);
    return went_well ? call.adapter : NULL;
}

typedef struct context_call {
    struct llama_model *model;
    struct llama_context_params params;
    struct llama_context *context;
} context_call;

static void init_context(void *user) {
    context_call *c = user;
    c->context = llama_init_from_model(c->model, c->params);
}

struct llama_context *sp_llama_new_context(struct llama_model *model, const struct llama_context_params *params) {
    context_call call = {.model = model, .params = *params};
    complaint[0] = 0;
    return sp_shim_guard(init_context, &call, complaint, sizeof complaint) ? call.context : NULL;
}

typedef struct bytes_call {
    const struct llama_context *context;
    uint64_t bytes;
} bytes_call;

static void count_bytes(void *user) {
    bytes_call *c = user;
    c->bytes = sp_shim_context_bytes(c->context);
}

bool sp_llama_context_bytes(const struct llama_context *context, uint64_t *bytes) {
    bytes_call call = {.context = context};
    const bool went_well = sp_shim_guard(count_bytes, &call, complaint, sizeof complaint);
    *bytes = call.bytes;
    return went_well;
}

typedef struct decode_call {
    struct llama_context *context;
    const struct llama_batch *batch;
} decode_call;

static void decode(void *user) {
    decode_call *c = user;
    llama_decode(c->context, *c->batch);
}

bool sp_llama_decode(struct llama_context *context, const struct llama_batch *batch) {
    decode_call call = {.context = context, .batch = batch};
    complaint[0] = 0;
    return sp_shim_guard(decode, &call, complaint, sizeof complaint);
}

static void tokenize(void *user) {
    sp_tokenize_call *c = user;
    c->count = llama_tokenize(c->vocab, c->text, (int32_t)c->length, c->tokens, (int32_t)c->capacity, c->add_special, c->parse_special);
}

bool sp_llama_tokenize(sp_tokenize_call *call) {
    complaint[0] = 0;
    return sp_shim_guard(tokenize, call, complaint, sizeof complaint);
}

static void to_piece(void *user) {
    sp_piece_call *c = user;
    c->length = llama_token_to_piece(c->vocab, c->token, c->text, (int32_t)c->capacity, 0, c->special);
}

bool sp_llama_to_piece(sp_piece_call *call) {
    complaint[0] = 0;
    return sp_shim_guard(to_piece, call, complaint, sizeof complaint);
}
