/*
 * A model's tensors as the device has them. They are used straight from the file's mapping where the device can; where it has memory of its own they
 * are uploaded; and where ggml's CPU backend has a faster layout for products ("repack"), a converted copy is made once, at the first program that
 * wants it, shared by all, and kept as a file that the next start maps.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/error.h"
#include "device/device_impl.h"
#include "device/kept_weights.h"

typedef struct weight {
    uint32_t type;
    int64_t ne[4];
    uint64_t offset;
    struct ggml_tensor *raw, *packed; /* made at first use */
    uint32_t layout;                  /* of packed: which of the device's */
    bool no_packing;                  /* tried, or not to be tried: there is no faster layout for it */
} weight;

struct sp_device_weights {
    const sp_device_ops *ops;
    sp_device *device;
    const uint8_t *base;
    uint32_t n;
    weight *weights;
    ggml_backend_buffer_t mapping;  /* NULL: each weight is uploaded */
    struct ggml_context *context;   /* owns the tensors, not their bytes */
    ggml_backend_buffer_t *buffers; /* of packed and uploaded weights */
    uint32_t n_buffers;
    pthread_mutex_t lock;
    sp_progress progress;
    void *progress_user;
    char *kept_path; /* NULL: converted weights are not kept */
    uint64_t kept_key[2], kept_limit;
    sp_kept_weights *kept;               /* NULL: there is no file */
    ggml_backend_buffer_t kept_types[8]; /* a buffer of each layout, for tensors whose bytes are in the file */
    bool unkept;                         /* something was converted that the file does not have */
    sp_notice notice;
    void *notice_user;
};

/*
 * What the bytes of a layout depend on beside the weights: the library, and the features of this CPU that it chooses layouts by. The path names both
 * and so does the key in the file.
 */
static void open_kept(sp_device_weights *w, const sp_weight_table *table) {
    ggml_backend_get_features_t features =
        (ggml_backend_get_features_t)ggml_backend_reg_get_proc_address(ggml_backend_cpu_reg(), "ggml_backend_get_features");
    char machine[2000], path[4300];
    int n = snprintf(machine, sizeof machine, "ggml %s %s", ggml_version(), ggml_commit());
    for (const struct ggml_backend_feature *f = features ? features(ggml_backend_cpu_reg()) : NULL; f && f->name && n < 1900; f++) {
        n += snprintf(machine + n, sizeof machine - (size_t)n, " %.30s=%.30s", f->name, f->value);
    }
    for (int i = 0; w->device->packed_types[i] && n < 1900; i++) {
        n += snprintf(machine + n, sizeof machine - (size_t)n, " %.60s", ggml_backend_buft_name(w->device->packed_types[i]));
    }
    const XXH64_hash_t hash = XXH3_64bits(machine, (size_t)n);
    const int length = snprintf(path, sizeof path, "%s-%016" PRIx64 ".weights", table->kept, hash);
    const XXH128_hash_t key = XXH3_128bits(path, (size_t)length);
    w->kept_path = length < (int)sizeof path ? strdup(path) : NULL;
    w->kept_key[0] = key.low64, w->kept_key[1] = key.high64;
    w->kept_limit = table->kept_bytes;
    w->kept = w->kept_path ? sp_kept_weights_open(w->kept_path, w->kept_key) : NULL;
}

sp_status sp_ggml_weights_open(sp_device *device, const sp_weight_table *table, sp_progress progress, void *progress_user, sp_device_weights **out,
                               sp_error *err) {
    *out = NULL;
    sp_device_weights *w = calloc(1, sizeof *w);
    if (!w) {
        return sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    }
    *w = (sp_device_weights){
        .ops = device->ops, .device = device, .base = table->base, .n = table->n, .progress = progress, .progress_user = progress_user};
    pthread_mutex_init(&w->lock, NULL);
    w->weights = calloc(table->n, sizeof *w->weights);
    w->buffers = calloc((size_t)table->n * 2, sizeof *w->buffers);
    w->context = ggml_init((struct ggml_init_params){.mem_size = ggml_tensor_overhead() * (table->n * 2 + 1), .no_alloc = true});
    if (!w->weights || !w->buffers || !w->context) {
        sp_ggml_weights_close(w);
        return sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    }
    for (uint32_t i = 0; i < table->n; i++) {
        w->weights[i] = (weight){.type = table->entries[i].type, .offset = table->entries[i].offset, .no_packing = table->entries[i].as_it_is};
        memcpy(w->weights[i].ne, table->entries[i].ne, sizeof w->weights[i].ne);
    }
    if (table->kept && device->packed_types[0]) {
        open_kept(w, table);
    }
    w->notice = table->notice, w->notice_user = table->notice_user;
    if (!device->upload_weights) {
        w->mapping = ggml_backend_cpu_buffer_from_ptr((void *)(uintptr_t)table->base, table->size);
        ggml_backend_buffer_set_usage(w->mapping, GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
    }
    *out = w;
    return SP_OK;
}

void sp_ggml_weights_close(sp_device_weights *w) {
    if (!w) {
        return;
    }
    for (uint32_t i = 0; i < w->n_buffers; i++) {
        ggml_backend_buffer_free(w->buffers[i]);
    }
    for (size_t i = 0; i < sizeof w->kept_types / sizeof w->kept_types[0]; i++) {
        ggml_backend_buffer_free(w->kept_types[i]);
    }
    sp_kept_weights_close(w->kept);
    free(w->kept_path);
    ggml_backend_buffer_free(w->mapping);
    ggml_free(w->context);
    free(w->buffers);
    free(w->weights);
    pthread_mutex_destroy(&w->lock);
    free(w);
}

static struct ggml_tensor *new_tensor(sp_device_weights *w, const weight *it) {
    return ggml_new_tensor_4d(w->context, (enum ggml_type)it->type, it->ne[0], it->ne[1], it->ne[2], it->ne[3]);
}

/* Gives a tensor bytes in a buffer of the given type and fills them; false, with the reason, when there is no memory. */
static sp_status fill(sp_device_weights *w, const weight *it, struct ggml_tensor *tensor, ggml_backend_buffer_type_t type, sp_error *err) {
    char why[200] = "";
    ggml_backend_buffer_t buffer = sp_shim_alloc(type, ggml_backend_buft_get_alloc_size(type, tensor), why, sizeof why);
    if (!buffer) {
        return sp_fail(err, SP_ERR_NO_MEMORY, "no memory for a weight of %zu bytes on %s: %s", ggml_nbytes(tensor), w->device->info.name, why);
    }
    w->buffers[w->n_buffers++] = buffer;
    ggml_backend_buffer_set_usage(buffer, GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
    ggml_backend_tensor_alloc(buffer, tensor, ggml_backend_buffer_get_base(buffer));
    if (!sp_shim_set(tensor, w->base + it->offset, 0, ggml_nbytes(tensor), why, sizeof why)) {
        return sp_fail(err, SP_ERR_DEVICE, "can't give %s a weight: %s", w->device->info.name, why);
    }
    return SP_OK;
}

/* Would the device compute a product with this weight in this layout? Asked the way llama.cpp asks, so that both choose the same. */
static bool layout_fits(const sp_device_weights *w, const weight *it, ggml_backend_buffer_type_t type) {
    struct ggml_context *c = ggml_init((struct ggml_init_params){.mem_size = ggml_tensor_overhead() * 8, .no_alloc = true});
    if (!c) {
        return false;
    }
    struct ggml_tensor *a = ggml_new_tensor_4d(c, (enum ggml_type)it->type, it->ne[0], it->ne[1], it->ne[2], it->ne[3]);
    struct ggml_tensor *product;
    if (it->ne[2] > 1) { /* a mixture's experts */
        struct ggml_tensor *b = ggml_new_tensor_3d(c, GGML_TYPE_F32, it->ne[0], 1, 512), *ids = ggml_new_tensor_2d(c, GGML_TYPE_I32, 1, 512);
        product = ggml_mul_mat_id(c, a, b, ids);
    } else {
        product = ggml_mul_mat(c, a, ggml_new_tensor_4d(c, GGML_TYPE_F32, it->ne[0], 512, it->ne[2], it->ne[3]));
    }
    a->buffer = ggml_backend_buft_alloc_buffer(type, 0);
    bool fits = a->buffer && ggml_backend_dev_supports_op(w->device->dev, product);
    ggml_backend_buffer_free(a->buffer);
    ggml_free(c);
    return fits;
}

/*
 * Gives a tensor its bytes in the file of kept weights; false: they are not there. ggml makes no buffer of a layout's type over memory that there is:
 * a small one of the type prepares the tensor, whose bytes lie elsewhere.
 */
static bool take_kept(sp_device_weights *w, uint32_t index, uint32_t layout, struct ggml_tensor *tensor) {
    const ggml_backend_buffer_type_t type = w->device->packed_types[layout];
    const void *bytes = w->kept ? sp_kept_weights_find(w->kept, index, layout, ggml_backend_buft_get_alloc_size(type, tensor)) : NULL;
    if (bytes && !w->kept_types[layout]) {
        char why[200];
        w->kept_types[layout] = sp_shim_alloc(type, SP_KEPT_ALIGNMENT, why, sizeof why);
        if (w->kept_types[layout]) {
            ggml_backend_buffer_set_usage(w->kept_types[layout], GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
        }
    }
    if (!bytes || !w->kept_types[layout]) {
        return false;
    }
    tensor->buffer = w->kept_types[layout];
    tensor->data = (void *)(uintptr_t)bytes;
    return ggml_backend_buffer_init_tensor(tensor->buffer, tensor) == GGML_STATUS_SUCCESS;
}

static sp_status convert(sp_device_weights *w, const weight *it, uint32_t layout, struct ggml_tensor *tensor, sp_error *err) {
    if (w->progress) {
        w->progress(w->progress_user, "converting weights", (double)(it - w->weights) / w->n);
    }
    w->unkept = true;
    return fill(w, it, tensor, w->device->packed_types[layout], err);
}

static sp_status pack(sp_device_weights *w, weight *it, sp_error *err) {
    sp_status status = SP_OK;
    it->no_packing = true;
    for (uint32_t i = 0; w->device->packed_types[i]; i++) {
        if (layout_fits(w, it, w->device->packed_types[i])) {
            struct ggml_tensor *tensor = new_tensor(w, it);
            if (!take_kept(w, (uint32_t)(it - w->weights), i, tensor)) {
                status = convert(w, it, i, tensor, err);
            }
            it->packed = status == SP_OK ? tensor : NULL;
            it->layout = i;
            break;
        }
    }
    return status;
}

/* All that is converted, the file's too, becomes the new file. */
static void keep_converted(sp_device_weights *w) {
    sp_kept_weight *list = calloc(w->n, sizeof *list);
    uint32_t n = 0;
    sp_error why = {.message = "out of memory"};
    for (uint32_t i = 0; list && i < w->n; i++) {
        const struct ggml_tensor *t = w->weights[i].packed;
        if (t) {
            const uint64_t size = ggml_backend_buft_get_alloc_size(w->device->packed_types[w->weights[i].layout], t);
            list[n++] = (sp_kept_weight){.index = i, .layout = w->weights[i].layout, .bytes = t->data, .size = size};
        }
    }
    if (w->progress) {
        w->progress(w->progress_user, "keeping converted weights for the next start", 0);
    }
    if ((!list || sp_kept_weights_write(w->kept_path, w->kept_key, list, n, w->kept_limit, &why) != SP_OK) && w->notice) {
        char line[600];
        snprintf(line, sizeof line, "converted weights are not kept for the next start: %s", why.message);
        w->notice(w->notice_user, line);
    }
    free(list);
}

void sp_device_weights_keep(sp_device_weights *w) {
    pthread_mutex_lock(&w->lock);
    if (w->unkept && w->kept_path) {
        keep_converted(w);
    }
    w->unkept = false; /* what failed once is not tried again */
    pthread_mutex_unlock(&w->lock);
}

static sp_status get_raw(sp_device_weights *w, weight *it, sp_error *err) {
    struct ggml_tensor *tensor = new_tensor(w, it);
    if (w->mapping) {
        ggml_backend_tensor_alloc(w->mapping, tensor, (void *)(uintptr_t)(w->base + it->offset));
    } else {
        if (w->progress) {
            w->progress(w->progress_user, "uploading weights", (double)(it - w->weights) / w->n);
        }
        sp_status status = fill(w, it, tensor, ggml_backend_dev_buffer_type(w->device->dev), err);
        if (status != SP_OK) {
            return status;
        }
    }
    it->raw = tensor;
    return SP_OK;
}

sp_status sp_device_weights_get(sp_device_weights *w, uint32_t index, bool for_product, struct ggml_tensor **out, sp_error *err) {
    if (index >= w->n) {
        return sp_fail(err, SP_ERR_NOT_FOUND, "there is no weight %u", index);
    }
    weight *it = &w->weights[index];
    sp_status status = SP_OK;
    pthread_mutex_lock(&w->lock);
    if (for_product && !it->packed && !it->no_packing) {
        status = pack(w, it, err);
    }
    if (status == SP_OK && !(for_product && it->packed) && !it->raw) {
        status = get_raw(w, it, err);
    }
    *out = status != SP_OK ? NULL : for_product && it->packed ? it->packed : it->raw;
    pthread_mutex_unlock(&w->lock);
    return status;
}
