/*
 * A model's tensors as the device has them. They are used straight from the file's mapping where the device can; where it has memory of its own they
 * are uploaded; and where ggml's CPU backend has a faster layout for products ("repack"), a converted copy is made once, at the first program that
 * wants it, and shared by all.
 */
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "device/device_impl.h"

typedef struct weight {
    uint32_t type;
    int64_t ne[4];
    uint64_t offset;
    struct ggml_tensor *raw, *packed; /* made at first use */
    bool no_packing;                  /* tried: there is no faster layout for it */
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
};

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
        w->weights[i] = (weight){.type = table->entries[i].type, .offset = table->entries[i].offset};
        memcpy(w->weights[i].ne, table->entries[i].ne, sizeof w->weights[i].ne);
    }
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

static sp_status pack(sp_device_weights *w, weight *it, sp_error *err) {
    it->no_packing = true;
    for (int i = 0; w->device->packed_types[i]; i++) {
        if (!layout_fits(w, it, w->device->packed_types[i])) {
            continue;
        }
        if (w->progress) {
            w->progress(w->progress_user, "converting weights", (double)(it - w->weights) / w->n);
        }
        struct ggml_tensor *tensor = new_tensor(w, it);
        sp_status status = fill(w, it, tensor, w->device->packed_types[i], err);
        if (status != SP_OK) {
            return status;
        }
        it->packed = tensor;
        return SP_OK;
    }
    return SP_OK;
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
