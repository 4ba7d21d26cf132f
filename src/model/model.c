/* A GGUF file, mapped once. What its header claims is checked against its size; the weights are not read. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
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

static sp_status map_file(sp_model *model, const char *name, sp_error *err) {
    struct stat info;
    if (fstat(model->fd, &info) != 0 || !S_ISREG(info.st_mode)) {
        return sp_fail(err, SP_ERR_IO, "%s: not a file that can be read", name);
    }
    model->size = (uint64_t)info.st_size;
    char magic[4] = "";
    if (model->size < 24 || pread(model->fd, magic, 4, 0) != 4 || memcmp(magic, "GGUF", 4) != 0) {
        return sp_fail(err, SP_ERR_FORMAT, "%s: not a GGUF file: it does not begin with \"GGUF\"", name);
    }
    model->mapping = sp_os_map_readonly(model->fd, model->size);
    model->mapped = model->size;
    return model->mapping ? SP_OK : sp_fail(err, SP_ERR_IO, "%s: can't map it: %s", name, strerror(errno));
}

/* ggml's parser reads from a FILE; a copy of the descriptor gives it one for the very file that was mapped. */
struct gguf_context *sp_model_parse(int of, struct ggml_context **tensors) {
    int fd = dup(of);
    FILE *file = fd >= 0 ? fdopen(fd, "rb") : NULL;
    if (!file) {
        if (fd >= 0) {
            close(fd);
        }
        return NULL;
    }
    rewind(file);
    struct gguf_context *gguf = gguf_init_from_file_ptr(file, (struct gguf_init_params){.no_alloc = true, .ctx = tensors});
    fclose(file);
    return gguf;
}

/* ggml reads a key without a name, and ends the process where it is asked to copy one. */
static sp_status check_keys(const sp_model *model, const char *name, sp_error *err) {
    for (int64_t i = 0; i < gguf_get_n_kv(model->gguf); i++) {
        if (!*gguf_get_key(model->gguf, i)) {
            return sp_fail(err, SP_ERR_FORMAT, "%s: a damaged GGUF file: key %" PRId64 " of its header has no name", name, i);
        }
    }
    return SP_OK;
}

static sp_status build_table(sp_model *model, const char *name, sp_error *err) {
    int64_t n = gguf_get_n_tensors(model->gguf);
    uint64_t data = gguf_get_data_offset(model->gguf);
    model->entries = calloc((size_t)n + 1, sizeof *model->entries);
    if (!model->entries) {
        return sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    }
    for (int64_t i = 0; i < n; i++) {
        struct sp_weight_entry *e = &model->entries[i];
        e->name = gguf_get_tensor_name(model->gguf, i);
        const struct ggml_tensor *t = ggml_get_tensor(model->tensors, e->name);
        uint64_t size = ggml_nbytes(t), offset, end;
        if (!sp_add_u64(data, gguf_get_tensor_offset(model->gguf, i), &offset) || !sp_add_u64(offset, size, &end) || end > model->size) {
            return sp_fail(err, SP_ERR_FORMAT, "%s: truncated: tensor %s ends at byte %" PRIu64 ", the file has %" PRIu64, name, e->name,
                           offset + size, model->size);
        }
        e->type = (uint32_t)t->type;
        memcpy(e->ne, t->ne, sizeof e->ne);
        e->offset = offset;
        model->info.n_params += (uint64_t)ggml_nelements(t);
        model->info.weight_bytes += size;
    }
    model->table = (sp_weight_table){.base = model->mapping, .size = model->size, .n = (uint32_t)n, .entries = model->entries};
    /* The header says everything about a model but the weights' values; those would take long to read. */
    XXH128_hash_t hash = XXH3_128bits_withSeed(model->mapping, data < model->size ? data : model->size, model->size);
    model->info.fingerprint[0] = hash.high64, model->info.fingerprint[1] = hash.low64;
    return SP_OK;
}

static int compare_entries(const void *a, const void *b) {
    const struct sp_weight_entry *x = *(const struct sp_weight_entry *const *)a, *y = *(const struct sp_weight_entry *const *)b;
    const int order = strcmp(x->name, y->name);
    return order ? order : (x > y) - (x < y);
}

/* A program names each weight; looking through them all for each was a fifteenth of a thaw. */
static sp_status index_weights(sp_model *model, sp_error *err) {
    const uint32_t n = model->table.n;
    model->by_name = malloc(((size_t)n + 1) * sizeof(struct sp_weight_entry *));
    if (!model->by_name) {
        return sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    }
    for (uint32_t i = 0; i < n; i++) {
        model->by_name[i] = &model->entries[i];
    }
    qsort(model->by_name, n, sizeof(struct sp_weight_entry *), compare_entries);
    return SP_OK;
}

static const char *text_value(const struct gguf_context *gguf, const char *key) {
    int64_t id = gguf_find_key(gguf, key);
    return id >= 0 && gguf_get_kv_type(gguf, id) == GGUF_TYPE_STRING ? gguf_get_val_str(gguf, id) : "";
}

static sp_status load_vocabulary(sp_model *model, const char *name, sp_error *err) {
    model->vocab_model = sp_llama_load_vocabulary(model->fd);
    if (!model->vocab_model) {
        return sp_fail(err, SP_ERR_UNSUPPORTED, "%s: libllama can't use it (architecture \"%s\"): %s", name,
                       text_value(model->gguf, "general.architecture"), sp_model_complaint());
    }
    model->vocab = llama_model_get_vocab(model->vocab_model);
    sp_model_info *info = &model->info;
    info->n_vocab = (uint32_t)llama_vocab_n_tokens(model->vocab);
    info->token_bos = llama_vocab_bos(model->vocab);
    info->token_eos = llama_vocab_eos(model->vocab);
    info->token_eot = llama_vocab_eot(model->vocab);
    info->add_bos = llama_vocab_get_add_bos(model->vocab);
    return SP_OK;
}

uint32_t sp_model_number(const sp_model *model, const char *suffix) {
    char key[96];
    snprintf(key, sizeof key, "%s.%s", model->info.architecture, suffix);
    int64_t id = gguf_find_key(model->gguf, key);
    return id >= 0 && gguf_get_kv_type(model->gguf, id) == GGUF_TYPE_UINT32 ? gguf_get_val_u32(model->gguf, id) : 0;
}

static void tell_fingerprint(sp_model *model) {
    snprintf(model->fingerprint, sizeof model->fingerprint, "%016" PRIx64 "%016" PRIx64, model->info.fingerprint[0], model->info.fingerprint[1]);
}

/*
 * The name under which devices keep converted weights. The fingerprint says nothing of the weights' values; that they are those that were converted
 * is told by the file's identity and the time when it was last written.
 */
static void name_kept(sp_model *model) {
    struct stat info;
    char path[4200];
    if (!model->cache_folder || model->anonymous || fstat(model->fd, &info) != 0) {
        return;
    }
#ifdef __APPLE__
    const struct timespec written = info.st_mtimespec;
#else
    const struct timespec written = info.st_mtim;
#endif
    const uint64_t identity[] = {(uint64_t)info.st_dev, (uint64_t)info.st_ino, (uint64_t)written.tv_sec, (uint64_t)written.tv_nsec};
    const int n = snprintf(path, sizeof path, "%s/%s-%016" PRIx64, model->cache_folder, model->fingerprint, XXH3_64bits(identity, sizeof identity));
    model->kept = n < (int)sizeof path ? strdup(path) : NULL;
    model->table.kept = model->kept;
    model->table.kept_bytes = model->options.kept_weights_bytes ? model->options.kept_weights_bytes : SP_KEPT_WEIGHTS_BYTES;
    model->table.notice = model->options.notice;
    model->table.notice_user = model->options.notice_user;
}

typedef struct origin {
    int fd;
    const char *name;
    bool anonymous; /* a file of ours, of bytes in memory */
} origin;

static sp_status open_fd(origin from, const char *cache_folder, const sp_model_options *options, sp_model **out, sp_error *err) {
    const char *name = from.name;
    const int fd = from.fd;
    *out = NULL;
    sp_model *model = calloc(1, sizeof *model);
    if (!model) {
        close(fd);
        return sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    }
    sp_model_quiet();
    model->fd = fd;
    model->anonymous = from.anonymous;
    pthread_mutex_init(&model->lock, NULL);
    model->options = options ? *options : (sp_model_options){0};
    model->options.adapters = NULL, model->options.n_adapters = 0;
    model->cache_folder = cache_folder ? strdup(cache_folder) : NULL;
    sp_status status = map_file(model, name, err);
    if (status == SP_OK) {
        model->gguf = sp_model_parse(model->fd, &model->tensors);
        status = model->gguf ? build_table(model, name, err)
                             : sp_fail(err, SP_ERR_FORMAT, "%s: a damaged or truncated GGUF file of %" PRIu64 " bytes: %s", name, model->size,
                                       sp_model_complaint());
    }
    status = status == SP_OK ? check_keys(model, name, err) : status;
    if (status == SP_OK) {
        snprintf(model->info.architecture, sizeof model->info.architecture, "%s", text_value(model->gguf, "general.architecture"));
        snprintf(model->info.name, sizeof model->info.name, "%s", text_value(model->gguf, "general.name"));
        if (!model->info.architecture[0]) {
            status = sp_fail(err, SP_ERR_FORMAT, "%s: no model: the file does not say its architecture (general.architecture)", name);
        }
    }
    if (status == SP_OK) {
        model->info.n_ctx_train = sp_model_number(model, "context_length");
        model->info.n_embd = sp_model_number(model, "embedding_length");
        model->info.n_layer = sp_model_number(model, "block_count");
        status = load_vocabulary(model, name, err);
    }
    if (status == SP_OK) {
        tell_fingerprint(model);
        name_kept(model); /* the same for all adapters */
        status = sp_model_open_adapters(model, options ? options->adapters : NULL, options ? options->n_adapters : 0, err);
    }
    status = status == SP_OK ? index_weights(model, err) : status;
    if (status != SP_OK) {
        sp_model_close(model);
        return status;
    }
    tell_fingerprint(model);
    *out = model;
    return SP_OK;
}

sp_status sp_model_open_cached(const char *cache_folder, const char *path, const sp_model_options *options, sp_model **out, sp_error *err) {
    *out = NULL;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe is refused, not waited for */
    if (fd < 0) {
        int error = errno;
        return sp_fail(err, error == ENOENT ? SP_ERR_NOT_FOUND : SP_ERR_IO, "%s: %s", path, error == ENOENT ? "no such file" : strerror(error));
    }
    return open_fd((origin){.fd = fd, .name = path}, cache_folder, options, out, err);
}

sp_status sp_model_open_bytes_cached(const char *cache_folder, const void *bytes, size_t size, const sp_model_options *options, sp_model **out,
                                     sp_error *err) {
    *out = NULL;
    int fd = sp_os_anonymous_file("samepage-model", size);
    if (fd < 0) {
        return sp_fail(err, SP_ERR_NO_MEMORY, "no memory for a model of %zu bytes", size);
    }
    if (!sp_os_write_at(fd, bytes, size, 0)) {
        close(fd);
        return sp_fail(err, SP_ERR_NO_MEMORY, "no memory for a model of %zu bytes", size);
    }
    return open_fd((origin){.fd = fd, .name = "the model", .anonymous = true}, cache_folder, options, out, err);
}

void sp_model_close(sp_model *model) {
    if (!model) {
        return;
    }
    sp_shim_chat_close(model->chat);
    if (model->vocab_model) {
        llama_model_free(model->vocab_model);
    }
    for (sp_cached_program *p = model->programs, *next; p; p = next) {
        next = p->next;
        free(p->bytes);
        free(p);
    }
    if (model->mapping) {
        sp_os_unmap(model->mapping, model->mapped);
    }
    sp_model_close_adapters(model);
    close(model->fd);
    free(model->by_name);
    free(model->entries);
    free(model->cache_folder);
    free(model->kept);
    for (int64_t i = 0; model->meta_texts && i < gguf_get_n_kv(model->gguf); i++) {
        free(model->meta_texts[i]);
    }
    free(model->meta_texts);
    gguf_free(model->gguf);
    ggml_free(model->tensors);
    pthread_mutex_destroy(&model->lock);
    free(model);
}

const char *sp_model_fingerprint(const sp_model *model) {
    return model->fingerprint;
}

sp_model_options sp_model_get_options(const sp_model *model) {
    return model->options;
}

const sp_weight_table *sp_model_weight_table(const sp_model *model) {
    return &model->table;
}

bool sp_model_find_weight(void *context, uint32_t handle, const char *name, sp_weight_info *out) {
    const sp_model *model = context;
    uint32_t first = 0, n = handle == 0 ? model->table.n : 0; /* where the first of the name is, if any */
    for (uint32_t half = n / 2; n > 0; half = n / 2) {
        const bool after = strcmp(model->by_name[first + half]->name, name) < 0;
        first += after ? half + 1 : 0;
        n = after ? n - half - 1 : half;
    }
    if (handle != 0 || first == model->table.n || strcmp(model->by_name[first]->name, name) != 0) {
        return false;
    }
    const struct sp_weight_entry *e = model->by_name[first];
    *out = (sp_weight_info){.type = e->type, .index = (uint32_t)(e - model->entries)};
    memcpy(out->ne, e->ne, sizeof out->ne);
    return true;
}

void sp_model_get_info(const sp_model *model, sp_model_info *out) {
    *out = model->info;
}

/* A scalar as decimal text; false for arrays. */
static bool number_text(const struct gguf_context *gguf, int64_t id, char *text, size_t capacity) {
    switch (gguf_get_kv_type(gguf, id)) {
    case GGUF_TYPE_UINT8:
        return snprintf(text, capacity, "%u", gguf_get_val_u8(gguf, id)) > 0;
    case GGUF_TYPE_INT8:
        return snprintf(text, capacity, "%d", gguf_get_val_i8(gguf, id)) > 0;
    case GGUF_TYPE_UINT16:
        return snprintf(text, capacity, "%u", gguf_get_val_u16(gguf, id)) > 0;
    case GGUF_TYPE_INT16:
        return snprintf(text, capacity, "%d", gguf_get_val_i16(gguf, id)) > 0;
    case GGUF_TYPE_UINT32:
        return snprintf(text, capacity, "%u", gguf_get_val_u32(gguf, id)) > 0;
    case GGUF_TYPE_INT32:
        return snprintf(text, capacity, "%d", gguf_get_val_i32(gguf, id)) > 0;
    case GGUF_TYPE_FLOAT32:
        return snprintf(text, capacity, "%.9g", (double)gguf_get_val_f32(gguf, id)) > 0;
    case GGUF_TYPE_UINT64:
        return snprintf(text, capacity, "%" PRIu64, gguf_get_val_u64(gguf, id)) > 0;
    case GGUF_TYPE_INT64:
        return snprintf(text, capacity, "%" PRId64, gguf_get_val_i64(gguf, id)) > 0;
    case GGUF_TYPE_FLOAT64:
        return snprintf(text, capacity, "%.17g", gguf_get_val_f64(gguf, id)) > 0;
    case GGUF_TYPE_BOOL:
        return snprintf(text, capacity, "%s", gguf_get_val_bool(gguf, id) ? "true" : "false") > 0;
    default:
        return false;
    }
}

sp_status sp_model_meta(const sp_model *constant, const char *key, const char **out, sp_error *err) {
    sp_model *model = (sp_model *)(uintptr_t)constant;
    int64_t id = gguf_find_key(model->gguf, key);
    if (id < 0) {
        return sp_fail(err, SP_ERR_NOT_FOUND, "the model has no metadata \"%s\"", key);
    }
    if (gguf_get_kv_type(model->gguf, id) == GGUF_TYPE_STRING) {
        *out = gguf_get_val_str(model->gguf, id);
        return SP_OK;
    }
    char text[64];
    if (!number_text(model->gguf, id, text, sizeof text)) {
        return sp_fail(err, SP_ERR_UNSUPPORTED, "metadata \"%s\" is an array", key);
    }
    pthread_mutex_lock(&model->lock);
    if (!model->meta_texts) {
        model->meta_texts = calloc((size_t)gguf_get_n_kv(model->gguf), sizeof *model->meta_texts);
    }
    if (model->meta_texts && !model->meta_texts[id]) {
        model->meta_texts[id] = strdup(text);
    }
    *out = model->meta_texts ? model->meta_texts[id] : NULL;
    pthread_mutex_unlock(&model->lock);
    return *out ? SP_OK : sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
}
