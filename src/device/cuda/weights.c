/*
 * A model's weights on the device: uploaded once, at the first program that
 * wants them, shared by all. Products of q4_0 and q8_0 read a row's quants and
 * its scales apart, so that every thread loads 16 aligned bytes. Types without
 * kernels of their own (iq1, iq2, iq3) become f16.
 */
#include <stdlib.h>
#include <string.h>

#include <ggml.h>

#include "base/error.h"
#include "device/cuda/cuda_impl.h"

typedef struct cuda_weight {
    uint32_t type;
    int64_t ne[4];
    uint64_t offset;
    uint64_t at[2]; /* device addresses: as in the file, split; 0: not there yet */
} cuda_weight;

typedef struct cuda_weights {
    const sp_device_ops *ops;
    cuda_device *device;
    const uint8_t *base;
    uint32_t n;
    cuda_weight *weights;
    uint64_t arena, used, size; /* one allocation for a whole model */
    uint64_t *extras;           /* weights wanted in both layouts */
    uint32_t n_extras, done;
    pthread_mutex_t lock;
    sp_progress progress;
    void *progress_user;
} cuda_weights;

enum { ALIGNMENT = 256, SLACK = 1024 };

static uint64_t rows_of(const cuda_weight *w) {
    return (uint64_t)w->ne[1] * (uint64_t)w->ne[2] * (uint64_t)w->ne[3];
}

/* Types that kernels don't read. */
static bool is_converted(uint32_t type) {
    switch (type) {
    case SP_TYPE_IQ1_S:
    case SP_TYPE_IQ1_M:
    case SP_TYPE_IQ2_XXS:
    case SP_TYPE_IQ2_XS:
    case SP_TYPE_IQ2_S:
    case SP_TYPE_IQ3_XXS:
    case SP_TYPE_IQ3_S:
        return true;
    default:
        return false;
    }
}

static uint32_t device_type(uint32_t type, int64_t ne0, bool split) {
    if (is_converted(type)) {
        return SP_TYPE_F16;
    }
    if (split && ne0 % 256 == 0 && (type == SP_TYPE_Q4_0 || type == SP_TYPE_Q8_0)) {
        return type == SP_TYPE_Q4_0 ? K_TYPE_Q4_0_SPLIT : K_TYPE_Q8_0_SPLIT;
    }
    return type;
}

static uint64_t row_bytes(uint32_t type, int64_t ne0) {
    const sp_type_traits *traits = sp_type_get(is_converted(type) ? SP_TYPE_F16 : type);
    return (uint64_t)ne0 / traits->block * traits->size;
}

static uint64_t placed(uint64_t bytes) {
    return (bytes + SLACK + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

sp_status sp_cuda_weights_open(sp_device *device, const sp_weight_table *table, sp_progress progress, void *progress_user, sp_device_weights **out,
                               sp_error *err) {
    *out = NULL;
    cuda_weights *w = calloc(1, sizeof *w);
    if (!w) {
        return sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    }
    *w = (cuda_weights){
        .device = (cuda_device *)(void *)device, .base = table->base, .n = table->n, .progress = progress, .progress_user = progress_user};
    w->ops = w->device->ops;
    pthread_mutex_init(&w->lock, NULL);
    w->weights = calloc(table->n ? table->n : 1, sizeof *w->weights);
    w->extras = calloc(table->n ? table->n : 1, sizeof *w->extras);
    if (!w->weights || !w->extras) {
        sp_cuda_weights_close((sp_device_weights *)(void *)w);
        return sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    }
    for (uint32_t i = 0; i < table->n; i++) {
        w->weights[i] = (cuda_weight){.type = table->entries[i].type, .offset = table->entries[i].offset};
        memcpy(w->weights[i].ne, table->entries[i].ne, sizeof w->weights[i].ne);
        if (sp_type_get(w->weights[i].type)) {
            w->size += placed(row_bytes(w->weights[i].type, w->weights[i].ne[0]) * rows_of(&w->weights[i]));
        }
    }
    *out = (sp_device_weights *)(void *)w;
    return SP_OK;
}

void sp_cuda_weights_close(sp_device_weights *weights) {
    cuda_weights *w = (cuda_weights *)(void *)weights;
    for (uint32_t i = 0; w->extras && i < w->n_extras; i++) {
        sp_cuda_release(w->device, w->extras[i]);
    }
    sp_cuda_release(w->device, w->arena);
    pthread_mutex_destroy(&w->lock);
    free(w->weights);
    free(w->extras);
    free(w);
}

/* A row of blocks (scale, quants) becomes quants, then scales. */
static void split_row(const uint8_t *from, uint8_t *to, int64_t blocks, size_t quants) {
    for (int64_t b = 0; b < blocks; b++) {
        memcpy(to + (size_t)b * quants, from + (size_t)b * (quants + 2) + 2, quants);
        memcpy(to + (size_t)blocks * quants + (size_t)b * 2, from + (size_t)b * (quants + 2), 2);
    }
}

static void convert_row(const cuda_weight *w, const uint8_t *from, uint8_t *to, float *floats) {
    if (is_converted(w->type)) {
        ggml_get_type_traits((enum ggml_type)w->type)->to_float(from, floats, w->ne[0]);
        ggml_fp32_to_fp16_row(floats, (ggml_fp16_t *)(void *)to, w->ne[0]);
    } else {
        split_row(from, to, w->ne[0] / 32, w->type == SP_TYPE_Q4_0 ? 16 : 32);
    }
}

static sp_status upload_converted(cuda_weights *w, const cuda_weight *it, uint64_t at, sp_error *err) {
    const sp_type_traits *traits = sp_type_get(it->type);
    uint64_t from_bytes = (uint64_t)it->ne[0] / traits->block * traits->size, to_bytes = row_bytes(it->type, it->ne[0]), rows = rows_of(it);
    uint64_t batch = (8 << 20) / to_bytes + 1;
    uint8_t *rows_made = malloc(batch * to_bytes);
    float *floats = malloc((size_t)it->ne[0] * sizeof *floats);
    sp_status status = rows_made && floats ? SP_OK : sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    for (uint64_t row = 0; status == SP_OK && row < rows; row += batch) {
        uint64_t n = rows - row < batch ? rows - row : batch;
        for (uint64_t i = 0; i < n; i++) {
            convert_row(it, w->base + it->offset + (row + i) * from_bytes, rows_made + i * to_bytes, floats);
        }
        status = sp_cuda_upload(w->device, at + row * to_bytes, rows_made, n * to_bytes, err);
    }
    free(rows_made);
    free(floats);
    return status;
}

/* Room in the model's allocation, or, for a weight that is wanted in both
 * layouts, of its own. */
static sp_status place(cuda_weights *w, uint64_t bytes, uint64_t *at, sp_error *err) {
    sp_status status = w->arena ? SP_OK : sp_cuda_alloc(w->device, w->size, &w->arena, err);
    if (status == SP_OK && bytes <= w->size - w->used) {
        *at = w->arena + w->used;
        w->used += bytes;
        return SP_OK;
    }
    if (status == SP_OK) {
        status = sp_cuda_alloc(w->device, bytes, at, err);
        w->extras[w->n_extras] = *at;
        w->n_extras += status == SP_OK;
    }
    return status;
}

static sp_status upload(cuda_weights *w, cuda_weight *it, bool converted, uint64_t *at, sp_error *err) {
    uint64_t bytes = row_bytes(it->type, it->ne[0]) * rows_of(it);
    sp_status status = place(w, placed(bytes), at, err);
    if (status != SP_OK) {
        *at = 0;
        return status;
    }
    if (w->progress) {
        w->progress(w->progress_user, "uploading weights", (double)w->done++ / w->n);
    }
    return converted ? upload_converted(w, it, *at, err) : sp_cuda_upload(w->device, *at, w->base + it->offset, bytes, err);
}

sp_status sp_cuda_weight(sp_device_weights *weights, uint32_t index, bool split, k_tensor *out, sp_error *err) {
    cuda_weights *w = (cuda_weights *)(void *)weights;
    if (index >= w->n) {
        return sp_fail(err, SP_ERR_NOT_FOUND, "there is no weight %u", index);
    }
    cuda_weight *it = &w->weights[index];
    uint32_t type = device_type(it->type, it->ne[0], split);
    bool other = type == K_TYPE_Q4_0_SPLIT || type == K_TYPE_Q8_0_SPLIT;
    sp_status status = SP_OK;
    pthread_mutex_lock(&w->lock);
    if (!it->at[other]) {
        status = upload(w, it, type != it->type, &it->at[other], err);
    }
    pthread_mutex_unlock(&w->lock);
    *out = (k_tensor){.data = it->at[other], .type = type};
    out->nb[0] = (int64_t)sp_type_get(is_converted(it->type) ? SP_TYPE_F16 : it->type)->size;
    out->nb[1] = (int64_t)row_bytes(it->type, it->ne[0]);
    for (int i = 0; i < 4; i++) {
        out->ne[i] = (int32_t)it->ne[i];
        out->nb[i] = i > 1 ? out->nb[i - 1] * it->ne[i - 1] : out->nb[i];
    }
    return status;
}
