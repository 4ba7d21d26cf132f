/* Products of matrices, and attention. */
#include <math.h>
#include <stdlib.h>

#include "oracle/evaluate.h"
#include "oracle/numbers.h"

/*
 * A device multiplies a quantised or half a by a b that it rounds: to halves or bfloats as a is, or to 8 bits in blocks of 32 or 256. Those roundings
 * are independent, so their sum grows like a root: five times it (8 standard deviations and more, for roundings are spread evenly), and the sum's own
 * rounding in single precision. The scale of a block of 8 bits is itself rounded to a half on some devices: 2^-11 of the whole.
 */
static double largest_half_or_block(uint32_t type, bool loose) {
    const uint32_t block = sp_type_get(type)->block;
    return type == SP_TYPE_F16 || loose ? 65504 : block > 1 ? 65504 * 127.0 : INFINITY;
}

/*
 * What blocks with a least element are multiplied with has the sum of each 32 elements beside their scale, as a half: where that is beyond 65504, it
 * is infinite, and the product is no number or infinite on every device. The sum is of rounded elements.
 */
static bool sum_is_a_half(const double *b, int64_t n, double block_max) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        sum += b[i];
    }
    return fabs(sum) + (double)n * block_max / 254 <= 65504;
}

double eval_product_tolerance(uint32_t type, const double *a, const double *b, int64_t n, bool loose) {
    const uint32_t block = sp_type_get(type)->block;
    double squares = 0, magnitude = 0, block_max = 0, least = 0; /* least: what very small numbers lose, for halves end at 2^-24 */
    const double largest = largest_half_or_block(type, loose);
    for (int64_t k = 0; k < n; k++) {
        if (block > 1 && k % 32 == 0) {
            /* A block of 256 is rounded by the largest in it, which no block of 32 says: look at all of it. */
            const int64_t first = block == 256 ? k / 256 * 256 : k, end = first + (block == 256 ? 256 : 32);
            block_max = 0;
            for (int64_t i = first; i < end && i < n; i++) {
                block_max = fmax(block_max, fabs(b[i]));
            }
        }
        if (!(fabs(b[k]) <= largest) || (loose && !(fabs(a[k]) <= largest)) ||
            (k % 32 == 0 && numbers_have_minimum(type) && !sum_is_a_half(b + k, n - k < 32 ? n - k : 32, block_max))) {
            return NAN;
        }
        double step = block > 1              ? block_max / 254
                      : type == SP_TYPE_F16  ? 0x1p-11 * fabs(b[k]) + 0x1p-25
                      : type == SP_TYPE_BF16 ? 0x1p-8 * fabs(b[k])
                                             : 0;
        if (loose) { /* a too; what is below 2^-14 may be nothing */
            step = step + 0x1p-10 * fabs(b[k]);
            least += fabs(a[k]) * fmin(fabs(b[k]), 0x1p-14) + fabs(b[k]) * fmin(fabs(a[k]), 0x1p-14);
        }
        squares += a[k] * a[k] * step * step;
        magnitude += fabs(a[k] * b[k]);
        least += block > 1 ? fabs(a[k]) * fmin(block_max, 127 * 0x1p-25) : 0;
    }
    if (!(magnitude < (loose ? 65504 : 1e37))) { /* the sum is kept in halves, each addition rounds */
        return NAN;
    }
    least += loose ? 0x1p-24 * (double)n : 0;
    return 5 * sqrt(squares) + least +
           magnitude * ((block > 1 ? 0x1p-10 : 0) + 0x1p-21 * (1 + 0.05 * (double)n) + (loose ? 0x1p-9 * (1 + 0.02 * (double)n) : 0));
}

static double dot(const double *a, const double *b, int64_t n) {
    double sum = 0;
    for (int64_t k = 0; k < n; k++) {
        sum += a[k] * b[k];
    }
    return sum;
}

/* With the hint that a is the Hadamard matrix: whatever a holds. A device may use a all the same, so GPUs are not compared. */
static void hadamard(const eval_call *call) {
    const int64_t n = call->s[1]->ne[0], rows = call->s[1]->ne[1] * call->s[1]->ne[2] * call->s[1]->ne[3];
    for (int64_t row = 0; row < rows; row++) {
        const double *b = call->x[1] + row * n;
        for (int64_t i = 0; i < n; i++) {
            double sum = 0, magnitude = 0;
            for (int64_t k = 0; k < n; k++) {
                sum += __builtin_parityll((unsigned long long)(i & k)) ? -b[k] : b[k];
                magnitude += fabs(b[k]);
            }
            call->out[row * n + i] = sum / sqrt((double)n);
            call->tolerance[row * n + i] = call->loose ? NAN : magnitude / sqrt((double)n) * 0x1p-20 + (magnitude < 1e37 ? 0 : NAN);
        }
    }
}

void eval_mul_mat(const eval_call *call) {
    if (call->t->params[1]) {
        hadamard(call);
        return;
    }
    const int64_t *n = call->t->ne, *a = call->s[0]->ne, *b = call->s[1]->ne;
    for (int64_t i3 = 0, i = 0; i3 < n[3]; i3++) {
        for (int64_t i2 = 0; i2 < n[2]; i2++) {
            const int64_t matrix = i3 / (b[3] / a[3]) * a[2] + i2 / (b[2] / a[2]);
            for (int64_t i1 = 0; i1 < n[1]; i1++) {
                const double *y = call->x[1] + ((i3 * b[2] + i2) * b[1] + i1) * b[0];
                for (int64_t i0 = 0; i0 < n[0]; i0++, i++) {
                    const double *x = call->x[0] + (matrix * a[1] + i0) * a[0];
                    call->out[i] = dot(x, y, a[0]);
                    call->tolerance[i] = eval_product_tolerance(call->s[0]->type, x, y, a[0], call->loose);
                }
            }
        }
    }
}

void eval_mul_mat_id(const eval_call *call) {
    const int64_t *n = call->t->ne, *a = call->s[0]->ne, *b = call->s[1]->ne;
    for (int64_t token = 0, i = 0; token < n[2]; token++) {
        for (int64_t used = 0; used < n[1]; used++) {
            const int64_t expert = (int64_t)eval_at(call, 2, used, token, 0, 0);
            const double *y = call->x[1] + (token * b[1] + used % b[1]) * b[0];
            for (int64_t i0 = 0; i0 < n[0]; i0++, i++) {
                const double *x = call->x[0] + (expert * a[1] + i0) * a[0];
                call->out[i] = dot(x, y, a[0]);
                call->tolerance[i] = eval_product_tolerance(call->s[0]->type, x, y, a[0], call->loose);
            }
        }
    }
}

/* ---- attention ---- */

/* One query in one head: its logits, then how far off they may be. */
typedef struct attention {
    const eval_call *call;
    int64_t n_kv, head, query, sequence;
    double *logits, slip; /* slip: the largest error of a logit; NaN: something is beyond what devices hold */
} attention;

/* A GPU scales q first, with what tanh is applied to, and keeps it and the sum in halves: which end at 65504, and may be 0 below 2^-14. */
static double halves_slip(const double *q, const double *k, int64_t n, double scale, double cap) {
    double slip = 0, magnitude = 0;
    const double factor = cap != 0 ? scale / cap : scale;
    for (int64_t i = 0; i < n; i++) {
        slip += fabs(k[i]) * 0x1p-14 * (cap != 0 ? fabs(cap) : 1) + (fabs(q[i] * factor) <= 65504 ? 0 : NAN);
        magnitude += fabs(q[i] * factor * k[i]);
    }
    return magnitude <= 65504 ? slip : NAN;
}

static void attend_logits(attention *at) {
    const eval_call *call = at->call;
    const int64_t *q = call->s[0]->ne, *k = call->s[1]->ne;
    const double scale = (double)eval_float(call, 0), max_bias = (double)eval_float(call, 1), cap = (double)eval_float(call, 2);
    const double slope = eval_alibi_slope(max_bias, at->head, q[2]);
    const double *x = call->x[0] + ((at->sequence * q[2] + at->head) * q[1] + at->query) * q[0];
    at->slip = 0;
    for (int64_t i = 0; i < at->n_kv; i++) {
        const double *y = call->x[1] + ((at->sequence * k[2] + at->head / (q[2] / k[2])) * k[1] + i) * k[0];
        double s = dot(y, x, q[0]) * scale, slip = eval_product_tolerance(call->s[1]->type, y, x, q[0], call->loose) * fabs(scale);
        slip += call->loose ? halves_slip(x, y, q[0], scale, cap) : 0;
        s = cap != 0 ? cap * tanh(s / cap) : s; /* which makes no error larger */
        const double mask = call->s[3] ? slope * eval_at(call, 3, i, at->query, at->head, at->sequence) : 0;
        at->logits[i] = s + mask;
        slip += 0x1p-21 * (fabs(s) + (isinf(mask) ? 0 : fabs(mask)));
        at->slip = isnan(slip) || slip > at->slip ? slip : at->slip; /* NaN stays */
    }
}

static void attend_values(const attention *at, double *out, double *tolerance) {
    const eval_call *call = at->call;
    const int64_t *q = call->s[0]->ne, *v = call->s[2]->ne;
    double most = call->s[4] ? call->x[4][at->head] : -INFINITY, sum = 0;
    for (int64_t i = 0; i < at->n_kv; i++) {
        most = fmax(most, at->logits[i]);
    }
    for (int64_t i = 0; i < at->n_kv; i++) {
        sum += at->logits[i] = most == -INFINITY ? 0 : exp(at->logits[i] - most);
    }
    /* A query that may see no key: 0 on a CPU, anything on a GPU, and anywhere where the sink is minus infinity too. */
    const double unknown = most == -INFINITY && (call->loose || call->s[4]) ? NAN : 0;
    sum += call->s[4] && most > -INFINITY ? exp(call->x[4][at->head] - most) : 0;
    for (int64_t d = 0; d < v[0]; d++) {
        double total = 0, magnitude = 0;
        for (int64_t i = 0; i < at->n_kv; i++) {
            const double x = call->x[2][((at->sequence * v[2] + at->head / (q[2] / v[2])) * v[1] + i) * v[0] + d];
            total += at->logits[i] * x;
            magnitude += fabs(at->logits[i] * x) + (isfinite(x) ? 0 : NAN);
        }
        magnitude = magnitude > 60000 && call->s[2]->type == SP_TYPE_F16 ? NAN : magnitude;
        out[d] = sum == 0 ? 0 : total / sum; /* NaN stays */
        magnitude = sum == 0 ? 0 : magnitude / sum;
        /* Weights off by a factor of e^slip each; the sum over v is kept in halves where v is, one rounding for each key. */
        const double kept = call->s[2]->type == SP_TYPE_F16 || call->loose ? 0x1p-10 * (2 + sqrt((double)at->n_kv)) : 0x1p-18;
        tolerance[d] = magnitude * (2 * expm1(at->slip > 20 ? NAN : at->slip) + kept) + 0x1p-25 * (2 + (double)at->n_kv) +
                       unknown; /* sums of halves: each addition rounds, the least half is 2^-24 */
    }
}

void eval_flash_attn(const eval_call *call) {
    const int64_t *n = call->t->ne; /* [head size, heads, queries, sequences] */
    attention at = {.call = call, .n_kv = call->s[1]->ne[1], .logits = malloc((size_t)call->s[1]->ne[1] * sizeof(double))};
    int64_t row = 0;
    for (at.sequence = 0; at.logits && at.sequence < n[3]; at.sequence++) {
        for (at.query = 0; at.query < n[2]; at.query++) {
            for (at.head = 0; at.head < n[1]; at.head++, row++) {
                attend_logits(&at);
                attend_values(&at, call->out + row * n[0], call->tolerance + row * n[0]);
            }
        }
    }
    free(at.logits);
}
