/* Traced programs, kept in memory and in the host's cache folder. What comes from the folder is untrusted: it is verified like any program, or traced
 * again. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/error.h"
#include "model/model_impl.h"
#include "samepage/inputs.h"

/* Changes when a trace of the same model gives another program. */
#define TRACE_VERSION 4

static bool cache_path(const sp_model *model, const sp_program_wish *wish, char *path, size_t capacity) {
    if (!model->cache_folder) {
        return false;
    }
    int n = snprintf(path, capacity, "%s/%s-k%u-v%u%s-%s-%d.trace", model->cache_folder, model->fingerprint, wish->type_k, wish->type_v,
                     wish->embeddings ? "-embeddings" : "", ggml_version(), TRACE_VERSION);
    return n > 0 && (size_t)n < capacity;
}

static bool is_verified(sp_model *model, const void *bytes, uint64_t size, sp_error *err) {
    sp_weight_source weights = {.find = sp_model_find_weight, .context = model};
    sp_program *program = NULL;
    if (sp_program_load(bytes, size, &weights, &program, err) != SP_OK) {
        return false;
    }
    sp_inputs inputs;
    const uint32_t n_ctx = sp_program_find_symbol(bytes, "n_ctx");
    const uint64_t least = n_ctx == SP_NONE ? 0 : sp_program_symbols(program)[n_ctx].min;
    const char *wrong = sp_inputs_open(&inputs, sp_program_get_header(program), least < 512 ? 512 : (uint32_t)least, 512);
    sp_status status = wrong ? sp_fail(err, SP_ERR_FORMAT, "%s", wrong) : SP_OK;
    for (uint32_t n = 1; status == SP_OK && n <= 2; n++) { /* a single token is laid out in ways of its own */
        const sp_inputs_batch batch = {.n_tokens = n, .n_past = 0, .n_outputs = 1};
        const sp_spec_limits limits = {.flops = UINT64_MAX, .temporary_bytes = UINT64_MAX};
        uint64_t symbols[SP_PROGRAM_MAX_SYMBOLS];
        sp_spec *spec = NULL;
        sp_inputs_symbols(&inputs, &batch, symbols);
        status = sp_program_specialise(program, symbols, sp_program_get_header(program)->n_symbols, &limits, &spec, err);
        sp_spec_free(spec);
    }
    sp_program_free(program);
    return status == SP_OK;
}

static XXH128_canonical_t digest(const void *bytes, uint64_t size) {
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, XXH3_128bits(bytes, size));
    return canonical;
}

static bool read_whole(const char *path, void **bytes, uint64_t *size) {
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) {
        return false;
    }
    struct stat info;
    bool ok = fstat(fd, &info) == 0 && info.st_size > (off_t)sizeof(XXH128_canonical_t) && info.st_size < 64 << 20;
    *bytes = ok ? malloc((size_t)info.st_size) : NULL;
    ok = *bytes && read(fd, *bytes, (size_t)info.st_size) == info.st_size;
    close(fd);
    *size = ok ? (uint64_t)info.st_size : 0;
    return ok;
}

static bool read_cached(sp_model *model, const char *path, void **bytes, uint64_t *size) {
    *bytes = NULL;
    if (read_whole(path, bytes, size)) {
        *size -= sizeof(XXH128_canonical_t);
        XXH128_canonical_t wanted = digest(*bytes, *size);
        if (memcmp((uint8_t *)*bytes + *size, &wanted, sizeof wanted) == 0 && is_verified(model, *bytes, *size, NULL)) {
            return true;
        }
    }
    free(*bytes);
    *bytes = NULL;
    return false;
}

/* A cache that can't be written costs the next start a trace, nothing else: no error. */
static void write_cached(const char *path, const void *bytes, uint64_t size) {
    char temporary[4300];
    snprintf(temporary, sizeof temporary, "%s.%ld", path, (long)getpid());
    int fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    XXH128_canonical_t end = digest(bytes, size);
    bool ok = fd >= 0 && write(fd, bytes, size) == (ssize_t)size && write(fd, &end, sizeof end) == sizeof end && fsync(fd) == 0;
    if (fd < 0) {
        return; /* no folder, or another thread is at it */
    }
    ok = close(fd) == 0 && ok;
    if (!ok || rename(temporary, path) != 0) {
        unlink(temporary);
    }
}

static sp_status make(sp_model *model, const sp_program_wish *wish, void **bytes, uint64_t *size, sp_error *err) {
    char path[4200];
    bool cached = cache_path(model, wish, path, sizeof path);
    if (cached && read_cached(model, path, bytes, size)) {
        return SP_OK;
    }
    sp_status status = sp_model_trace(model, wish, bytes, size, err);
    if (status != SP_OK) {
        return status;
    }
    sp_error why;
    if (!is_verified(model, *bytes, *size, &why)) {
        free(*bytes);
        *bytes = NULL;
        return sp_fail(err, SP_ERR_UNSUPPORTED, "architecture %s: its traced graph is refused: %s", model->info.architecture, why.message);
    }
    if (cached) {
        write_cached(path, *bytes, *size);
    }
    return SP_OK;
}

static bool same_wish(const sp_program_wish *a, const sp_program_wish *b) {
    return a->type_k == b->type_k && a->type_v == b->type_v && a->embeddings == b->embeddings;
}

sp_status sp_model_get_program(sp_model *model, const sp_program_wish *wish, const void **bytes, uint64_t *size, sp_error *err) {
    *bytes = NULL;
    if (!sp_type_get(wish->type_k) || !sp_type_get(wish->type_v)) {
        return sp_fail(err, SP_ERR_ARGUMENT, "cache types %u and %u: no such types", wish->type_k, wish->type_v);
    }
    sp_status status = SP_OK;
    pthread_mutex_lock(&model->lock);
    sp_cached_program *it = model->programs;
    while (it && !same_wish(&it->wish, wish)) {
        it = it->next;
    }
    if (!it) {
        it = calloc(1, sizeof *it);
        status = it ? make(model, wish, &it->bytes, &it->size, err) : sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
        if (status == SP_OK) {
            it->wish = *wish;
            it->next = model->programs;
            model->programs = it;
        } else {
            free(it);
            it = NULL;
        }
    }
    if (it) {
        *bytes = it->bytes;
        *size = it->size;
    }
    pthread_mutex_unlock(&model->lock);
    return status;
}
