/*
 * LoRA adapters: GGUF files with two small matrices for each product that they change. They are mapped behind the model's file, as one range of
 * addresses, so that to a device their tensors are weights like the others; and libllama gets them when the graph is traced, so that the graph has
 * their products.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/checked.h"
#include "base/error.h"
#include "memory/os.h"
#include "model/model_impl.h"

static bool is_text(const struct gguf_context *gguf, const char *key, const char *wanted) {
    const int64_t id = gguf_find_key(gguf, key);
    return id >= 0 && gguf_get_kv_type(gguf, id) == GGUF_TYPE_STRING && strcmp(gguf_get_val_str(gguf, id), wanted) == 0;
}

static sp_status check_file(const sp_model *model, const sp_model_adapter *a, sp_error *err) {
    if (!is_text(a->gguf, "general.type", "adapter") || !is_text(a->gguf, "adapter.type", "lora")) {
        return sp_fail(err, SP_ERR_FORMAT, "not a LoRA adapter: its general.type is not \"adapter\", or its adapter.type not \"lora\"");
    }
    if (!is_text(a->gguf, "general.architecture", model->info.architecture)) {
        return sp_fail(err, SP_ERR_ARGUMENT, "an adapter of another architecture than the model's (%s)", model->info.architecture);
    }
    if (gguf_find_key(a->gguf, "adapter.alora.invocation_tokens") >= 0) {
        return sp_fail(err, SP_ERR_UNSUPPORTED, "an adapter that certain tokens switch on (aLoRA) is not supported");
    }
    for (struct ggml_tensor *t = ggml_get_first_tensor(a->tensors); t; t = ggml_get_next_tensor(a->tensors, t)) {
        uint64_t end = gguf_get_data_offset(a->gguf) + gguf_get_tensor_offset(a->gguf, gguf_find_tensor(a->gguf, t->name));
        if (!sp_add_u64(end, ggml_nbytes(t), &end) || end > a->size) {
            return sp_fail(err, SP_ERR_FORMAT, "truncated: tensor %s does not lie inside", t->name);
        }
    }
    return SP_OK;
}

static sp_status open_one(const sp_model *model, const sp_adapter *from, sp_model_adapter *a, sp_error *err) {
    struct stat info;
    a->scale = from->scale;
    a->fd = open(from->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (a->fd < 0) {
        const int error = errno;
        return sp_fail(err, error == ENOENT ? SP_ERR_NOT_FOUND : SP_ERR_IO, "%s", error == ENOENT ? "no such file" : strerror(error));
    }
    if (!isfinite(from->scale)) {
        return sp_fail(err, SP_ERR_ARGUMENT, "a scale that is no number");
    }
    if (fstat(a->fd, &info) != 0 || !S_ISREG(info.st_mode)) {
        return sp_fail(err, SP_ERR_IO, "not a file that can be read");
    }
    a->size = (uint64_t)info.st_size;
    a->gguf = sp_model_parse(a->fd, &a->tensors);
    return a->gguf ? check_file(model, a, err) : sp_fail(err, SP_ERR_FORMAT, "not a GGUF file, or a damaged one: %s", sp_model_complaint());
}

/* The model's file and the adapters' behind it, each from a page on. */
static sp_status map_all(sp_model *model, sp_error *err) {
    const uint64_t page = sp_os_page_size();
    uint64_t total = (model->size + page - 1) / page * page;
    for (size_t i = 0; i < model->n_adapters; i++) {
        model->adapters[i].at = total;
        total += (model->adapters[i].size + page - 1) / page * page;
    }
    uint8_t *at = sp_os_reserve(total);
    bool ok = at && sp_os_map_readonly_at(at, model->fd, model->size);
    for (size_t i = 0; ok && i < model->n_adapters; i++) {
        ok = sp_os_map_readonly_at(at + model->adapters[i].at, model->adapters[i].fd, model->adapters[i].size);
    }
    if (!ok) {
        const int error = errno;
        if (at) {
            sp_os_release(at, total);
        }
        return sp_fail(err, SP_ERR_IO, "the model and its adapters can't be mapped: %s", strerror(error));
    }
    sp_os_unmap(model->mapping, model->mapped);
    model->mapping = at;
    model->mapped = total;
    return SP_OK;
}

/* Adapters are small and their headers alike: unlike the model's, every byte of them counts. */
static void add_to_fingerprint(sp_model *model) {
    for (size_t i = 0; i < model->n_adapters; i++) {
        const sp_model_adapter *a = &model->adapters[i];
        const XXH128_hash_t bytes = XXH3_128bits((const uint8_t *)model->mapping + a->at, a->size);
        uint32_t scale;
        memcpy(&scale, &a->scale, sizeof scale);
        const uint64_t all[] = {model->info.fingerprint[0], model->info.fingerprint[1], bytes.high64, bytes.low64, scale};
        const XXH128_hash_t hash = XXH3_128bits(all, sizeof all);
        model->info.fingerprint[0] = hash.high64, model->info.fingerprint[1] = hash.low64;
    }
}

static sp_status add_weights(sp_model *model, sp_error *err) {
    uint32_t n = model->table.n;
    uint64_t more = 0;
    for (size_t i = 0; i < model->n_adapters; i++) {
        more += (uint64_t)gguf_get_n_tensors(model->adapters[i].gguf);
    }
    struct sp_weight_entry *entries = realloc(model->entries, (n + more + 1) * sizeof *entries);
    if (!entries) {
        return sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    }
    model->entries = entries;
    for (size_t i = 0; i < model->n_adapters; i++) {
        sp_model_adapter *a = &model->adapters[i];
        a->first = n;
        for (struct ggml_tensor *t = ggml_get_first_tensor(a->tensors); t; t = ggml_get_next_tensor(a->tensors, t)) {
            const uint64_t offset = gguf_get_data_offset(a->gguf) + gguf_get_tensor_offset(a->gguf, gguf_find_tensor(a->gguf, t->name));
            char name[GGML_MAX_NAME];
            snprintf(name, sizeof name, "%s", t->name);
            if (i && snprintf(t->name, sizeof t->name, "%.56s.%zu", name, i + 1) < 0) { /* names of several adapters are the same */
                continue;
            }
            entries[n] = (struct sp_weight_entry){.name = t->name, .type = (uint32_t)t->type, .offset = a->at + offset, .as_it_is = true};
            memcpy(entries[n++].ne, t->ne, sizeof t->ne);
        }
    }
    model->table.entries = entries;
    model->table.base = model->mapping;
    model->table.size = model->mapped;
    model->table.n = n;
    return SP_OK;
}

sp_status sp_model_open_adapters(sp_model *model, const sp_adapter *adapters, size_t n, sp_error *err) {
    if (n == 0) {
        return SP_OK;
    }
    if (n > SP_MAX_ADAPTERS) {
        return sp_fail(err, SP_ERR_ARGUMENT, "at most %d adapters", SP_MAX_ADAPTERS);
    }
    sp_status status = SP_OK;
    model->adapters = calloc(n, sizeof *model->adapters);
    for (size_t i = 0; status == SP_OK && model->adapters && i < n; i++) {
        model->n_adapters = i + 1;
        status = open_one(model, &adapters[i], &model->adapters[i], err);
        if (status != SP_OK) {
            sp_fail_in(err, "%s", adapters[i].path);
        }
    }
    if (!model->adapters) {
        return sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    }
    status = status == SP_OK ? map_all(model, err) : status;
    status = status == SP_OK ? add_weights(model, err) : status;
    if (status == SP_OK) {
        add_to_fingerprint(model);
    }
    return status;
}

void sp_model_close_adapters(sp_model *model) {
    for (size_t i = 0; i < model->n_adapters; i++) {
        gguf_free(model->adapters[i].gguf);
        ggml_free(model->adapters[i].tensors);
        if (model->adapters[i].fd >= 0) {
            close(model->adapters[i].fd);
        }
    }
    free(model->adapters);
}

sp_status sp_model_load_adapters(const sp_model *model, struct llama_model *llama, struct llama_adapter_lora *loaded[SP_MAX_ADAPTERS],
                                 sp_error *err) {
    for (size_t i = 0; i < model->n_adapters; i++) {
        loaded[i] = sp_llama_load_adapter(llama, model->adapters[i].fd);
        if (!loaded[i]) {
            return sp_fail(err, SP_ERR_FORMAT, "adapter %zu does not fit the model: %s", i + 1, sp_model_complaint());
        }
    }
    return SP_OK;
}

bool sp_model_set_adapters(const sp_model *model, struct llama_context *context, struct llama_adapter_lora **loaded) {
    float scales[SP_MAX_ADAPTERS];
    for (size_t i = 0; i < model->n_adapters; i++) {
        scales[i] = model->adapters[i].scale;
    }
    return llama_set_adapters_lora(context, loaded, model->n_adapters, scales) == 0;
}

/* libllama's tensors of several adapters have the same names: what tells them apart is what is in them. */
const char *sp_model_adapter_tensor(const sp_model *model, const struct ggml_tensor *t) {
    const size_t length = strlen(t->name);
    for (size_t i = 0; length > 7 && strncmp(t->name + length - 7, ".lora_", 6) == 0 && i < model->n_adapters; i++) {
        const sp_model_adapter *a = &model->adapters[i];
        const int64_t id = gguf_find_tensor(a->gguf, t->name);
        const struct sp_weight_entry *e = id < 0 ? NULL : &model->entries[a->first + (uint64_t)id];
        if (e && e->type == (uint32_t)t->type && memcmp(e->ne, t->ne, sizeof t->ne) == 0 &&
            memcmp(t->data, (const uint8_t *)model->mapping + e->offset, ggml_nbytes(t)) == 0) {
            return e->name;
        }
    }
    return t->name;
}
