/* Shapes and strides: sizes, layouts, bounds. All arithmetic is 64-bit and checked. */
#include <string.h>

#include "base/checked.h"
#include "program/program_impl.h"

void sp_contiguous_strides(sp_spec_tensor *t) {
    const sp_type_traits *traits = sp_type_get(t->type);
    t->nb[0] = traits->size;
    t->nb[1] = (uint64_t)t->ne[0] / traits->block * traits->size;
    t->nb[2] = t->nb[1] * (uint64_t)t->ne[1]; /* no product is larger than the tensor, which is at most SP_MAX_BYTES */
    t->nb[3] = t->nb[2] * (uint64_t)t->ne[2];
}

/* ggml_is_contiguous_m_n: no gaps beyond dimension m; dimensions of size 1 beyond it may have any stride. */
static bool is_contiguous_beyond(const sp_spec_tensor *t, int m) {
    const sp_type_traits *traits = sp_type_get(t->type);
    if (t->ne[0] != traits->block && t->nb[0] != traits->size) {
        return false;
    }
    uint64_t next = (uint64_t)t->ne[0] / traits->block * traits->size;
    for (int i = 1; i < 4; i++) {
        if (i <= m) {
            next = (uint64_t)t->ne[i] * t->nb[i];
            continue;
        }
        if (t->ne[i] != 1 && t->nb[i] != next) {
            return false;
        }
        next *= (uint64_t)t->ne[i];
    }
    return true;
}

static bool is_packed(const sp_spec_tensor *t) {
    sp_spec_tensor dense = *t;
    sp_contiguous_strides(&dense);
    return memcmp(dense.nb, t->nb, sizeof t->nb) == 0;
}

bool sp_has_layout(const sp_spec_tensor *t, unsigned layout) {
    const bool rows = t->nb[0] == sp_type_get(t->type)->size;
    switch (layout) {
    case L_ROWS:
        return rows;
    case L_FLAT:
        return rows && is_contiguous_beyond(t, 1);
    case L_CONTIGUOUS:
        return rows && is_contiguous_beyond(t, 0);
    case L_PACKED:
        return is_packed(t);
    case L_DENSE:
        return is_contiguous_beyond(t, 0);
    default:
        return true;
    }
}

bool sp_same_shape(const sp_spec_tensor *a, const sp_spec_tensor *b) {
    return a->ne[0] == b->ne[0] && a->ne[1] == b->ne[1] && a->ne[2] == b->ne[2] && a->ne[3] == b->ne[3];
}

int64_t sp_elements(const sp_spec_tensor *t) {
    return t->ne[0] * t->ne[1] * t->ne[2] * t->ne[3];
}

const char *sp_check_shape(const sp_spec_tensor *t) {
    uint64_t bytes;
    for (int i = 0; i < 4; i++) {
        if (t->ne[i] < 1 || t->ne[i] > SP_MAX_NE) {
            return "each dimension must be 1 to 2^31-1";
        }
    }
    uint64_t rows = (uint64_t)t->ne[1] * (uint64_t)t->ne[2]; /* < 2^62 */
    if (!sp_mul_u64(rows, (uint64_t)t->ne[3], &rows) || rows > (uint64_t)SP_MAX_ROWS) {
        return "it has too many rows (at most 2^31-2^20-1)";
    }
    const sp_type_traits *traits = sp_type_get(t->type);
    if (t->ne[0] % traits->block) {
        return "ne0 must be a multiple of the type's block";
    }
    if (!sp_mul_u64((uint64_t)t->ne[0] / traits->block * traits->size, rows, &bytes) || bytes > SP_MAX_BYTES) {
        return "it is larger than 2^40 bytes";
    }
    return NULL;
}

bool sp_extent(const sp_spec_tensor *t, uint64_t *out) {
    const sp_type_traits *traits = sp_type_get(t->type);
    uint64_t last = traits->size;
    for (int i = 0; i < 4; i++) {
        uint64_t steps = (uint64_t)(i == 0 ? t->ne[0] / traits->block : t->ne[i]) - 1, bytes;
        if (!sp_mul_u64(steps, t->nb[i], &bytes) || bytes > SP_MAX_BYTES) {
            return false;
        }
        last += bytes;
    }
    *out = last;
    return last <= SP_MAX_BYTES;
}

/*
 * Elements can't meet if, the dimensions taken by growing stride, each stride is at least what the dimensions before it span. That refuses some
 * layouts without overlap (a chequered one), which no operation makes.
 */
const char *sp_check_strides(const sp_spec_tensor *t) {
    const sp_type_traits *traits = sp_type_get(t->type);
    bool used[4] = {false};
    for (int i = 0; i < 4; i++) {
        if (t->nb[i] == 0 || t->nb[i] % traits->size || t->nb[i] / traits->size > SP_MAX_NE) {
            return "strides must be multiples of the type's size, not 0 and at most 2^31-1 elements";
        }
    }
    uint64_t spanned = traits->size; /* from the first byte of the dimensions so far to one past their last */
    for (int round = 0; round < 4; round++) {
        int next = -1;
        for (int i = 0; i < 4; i++) {
            if (!used[i] && (next < 0 || t->nb[i] < t->nb[next])) {
                next = i;
            }
        }
        used[next] = true;
        const uint64_t steps = (uint64_t)(next == 0 ? t->ne[0] / traits->block : t->ne[next]);
        if (steps == 1) {
            continue;
        }
        if (t->nb[next] < spanned) {
            return "strides must not make elements overlap";
        }
        spanned += (steps - 1) * t->nb[next]; /* each below 2^31 * 2^31 * 256 */
    }
    return NULL;
}
