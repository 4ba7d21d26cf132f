/* Along rows: norms, sums, rope, soft_max, sorting. */
#include <math.h>
#include <stdlib.h>

#include "oracle/evaluate.h"

static int64_t rows_of(const sp_spec_tensor *t) {
    return t->ne[1] * t->ne[2] * t->ne[3];
}

void eval_norm(const eval_call *call) {
    const int64_t n = call->t->ne[0];
    const double eps = (double)eval_float(call, 0);
    for (int64_t row = 0; row < rows_of(call->t); row++) {
        const double *x = call->x[0] + row * n;
        double mean = 0, squares = 0, most = 0, raw = 0; /* raw: the mean of the squares */
        for (int64_t i = 0; i < n; i++) {
            mean += call->t->op == SP_OP_NORM ? x[i] / (double)n : 0;
            most = fmax(most, fabs(x[i]));
            raw += x[i] * x[i] / (double)n;
        }
        for (int64_t i = 0; i < n; i++) {
            squares += (x[i] - mean) * (x[i] - mean);
        }
        /* Where a square leaves single precision, each device has its own way. */
        double unknown = squares > 1e36 || (squares > 0 && squares < 1e-30) ? NAN : 0;
        const double scale = call->t->op == SP_OP_L2_NORM ? 1 / fmax(sqrt(squares), eps) : 1 / sqrt(squares / (double)n + eps);
        /* A GPU takes the mean's square off the mean of the squares: the variance is off by their roundings, and may come out as nothing or less. */
        const double cancelled = call->loose && call->t->op == SP_OP_NORM ? 0x1p-21 * raw * scale * scale : 0;
        unknown = cancelled > 0.5 || (call->loose && raw * (double)n > 1e36) ? NAN : unknown;
        for (int64_t i = 0; i < n; i++) {
            const int64_t at = row * n + i;
            call->out[at] = (x[i] - mean) * scale;
            /* The mean of a constant row is off by its rounding, which a small variance magnifies: once here, once in the variance. */
            const double slip = call->t->op == SP_OP_NORM ? 0x1p-21 * most * scale : 0;
            /* The sum of n squares is off by a root of n roundings of 2^-24 (at most 32 for 1,024), and its root by half of that. */
            call->tolerance[at] = 0x1p-18 * fabs(call->out[at]) + slip + (slip * slip + cancelled) * fabs(call->out[at]) + unknown;
        }
    }
}

void eval_sum_rows(const eval_call *call) {
    const int64_t n = call->s[0]->ne[0];
    for (int64_t row = 0; row < rows_of(call->t); row++) {
        double magnitude = 0;
        call->out[row] = 0;
        for (int64_t i = 0; i < n; i++) {
            call->out[row] += call->x[0][row * n + i];
            magnitude += fabs(call->x[0][row * n + i]);
        }
        /* n roundings of 2^-24 of a part of the sum each, most of which cancel: a bound would be 2^-24 n. */
        call->tolerance[row] = 0x1p-22 * magnitude * (1 + 0.02 * (double)n);
    }
}

/* ---- rope ---- */

typedef struct rope {
    int64_t n_dims;
    bool neox;
    double theta_scale, freq_scale, ext_factor, mscale, corr[2];
} rope;

static double corr_dim(int64_t n_dims, double n_ctx_orig, double rotations, double base) {
    return (double)n_dims * log(n_ctx_orig / (rotations * 2 * M_PI)) / (2 * log(base));
}

/* The larger of 0 and x; NaN stays NaN (a logarithm of a rotation count that is not above 0 is one). */
static double above_zero(double x) {
    return x < 0 ? 0 : x;
}

static rope read_rope(const eval_call *call) {
    const double base = (double)eval_float(call, 3), n_ctx_orig = (double)(int32_t)call->t->params[2];
    rope r = {.n_dims = call->t->params[0],
              .neox = call->t->params[1] != 0,
              .theta_scale = (double)powf((float)base, -2.0f / (float)call->t->params[0]), /* in single precision, as every device has it */
              .freq_scale = (double)eval_float(call, 4),
              .ext_factor = (double)eval_float(call, 5),
              .mscale = (double)eval_float(call, 6)};
    r.corr[0] = above_zero(floor(corr_dim(r.n_dims, n_ctx_orig, (double)eval_float(call, 7), base)));
    r.corr[1] =
        -above_zero((double)(r.n_dims - 1) - ceil(corr_dim(r.n_dims, n_ctx_orig, (double)eval_float(call, 8), base))) + (double)(r.n_dims - 1);
    return r;
}

/* The angle of pair `pair` at a position, the factor of the magnitude (YaRN), and the size of what the angle is the sum of. */
static double rope_angle(const rope *r, double position, int64_t pair, double factor, double *magnitude, double *size) {
    const double extrapolated = position * pow(r->theta_scale, (double)pair) / factor, interpolated = r->freq_scale * extrapolated;
    *magnitude = r->mscale;
    *size = fabs(interpolated);
    if (r->ext_factor == 0) {
        return interpolated;
    }
    const double y = ((double)pair - r->corr[0]) / (0.001 + above_zero(r->corr[1] - r->corr[0] - 0.001));
    const double mix = above_zero(1 - above_zero(y)) * r->ext_factor;
    *magnitude *= 1 + 0.1 * log(1 / r->freq_scale);
    *size = fabs(interpolated * (1 - mix)) + fabs(extrapolated * mix);
    return interpolated * (1 - mix) + extrapolated * mix;
}

/* Which of the four positions turns a pair: by the section that it is in. */
static int rope_section(const eval_call *call, int64_t pair) {
    const uint32_t *s = call->t->params + 9;
    const int64_t sector = pair % ((int64_t)s[0] + s[1] + s[2] + s[3]);
    if (call->t->params[1] == 40) {
        const int kind = (int)(sector % 3);
        return sector < 3 * (int64_t)s[kind] ? kind : 3;
    }
    return sector < s[0] ? 0 : sector < (int64_t)s[0] + s[1] ? 1 : sector < (int64_t)s[0] + s[1] + s[2] ? 2 : 3;
}

static void rope_row(const eval_call *call, const rope *r, int64_t token, int64_t at) {
    const double *x = call->x[0] + at;
    const int64_t n = call->t->ne[0];
    for (int64_t i = 0; i < n; i++) {
        call->out[at + i] = x[i];
    }
    for (int64_t pair = 0; pair < r->n_dims / 2; pair++) {
        double magnitude, size;
        const int section = call->t->params[1] >= 8 ? rope_section(call, pair) : 0;
        const double position = call->x[1][token + section * call->t->ne[2]];
        const double angle = rope_angle(r, position, pair, call->s[2] ? call->x[2][pair] : 1, &magnitude, &size);
        const int64_t from = call->t->params[13], first = from + (r->neox ? pair : 2 * pair), second = r->neox ? first + r->n_dims / 2 : first + 1;
        const double a = x[first], b = x[second], c = cos(angle) * magnitude, s = sin(angle) * magnitude;
        call->out[at + first] = a * c - b * s;
        call->out[at + second] = a * s + b * c;
        /* The angle is a product of pair + 2 factors in single precision (a device's sine of a large one is another matter). */
        const double slip = size * (double)(pair + 4) * 0x1p-22 * (call->loose ? 8 : 1) + 0x1p-20 + (size < 1e30 ? 0 : NAN);
        call->tolerance[at + first] = call->tolerance[at + second] = slip * (fabs(a) + fabs(b)) * fabs(magnitude);
    }
}

void eval_rope(const eval_call *call) {
    const rope r = read_rope(call);
    const int64_t *n = call->t->ne;
    for (int64_t row = 0; row < rows_of(call->t); row++) {
        rope_row(call, &r, row / n[1] % n[2], row * n[0]);
    }
}

/* ---- soft_max ---- */

double eval_alibi_slope(double max_bias, int64_t head, int64_t n_heads) {
    if (max_bias <= 0) {
        return 1;
    }
    const double power = exp2(floor(log2((double)n_heads)));
    return (double)head < power ? pow(exp2(-max_bias / power), (double)(head + 1)) : pow(exp2(-max_bias / 2 / power), 2 * ((double)head - power) + 1);
}

void eval_soft_max(const eval_call *call) {
    const int64_t *n = call->t->ne;
    const double scale = (double)eval_float(call, 0), max_bias = (double)eval_float(call, 1);
    for (int64_t row = 0; row < rows_of(call->t); row++) {
        const int64_t i1 = row % n[1], i2 = row / n[1] % n[2], i3 = row / n[1] / n[2];
        const double slope = eval_alibi_slope(max_bias, i2, n[2]);
        double *y = call->out + row * n[0], most = call->s[2] ? call->x[2][i2] : -INFINITY, sum = 0, size = 0;
        for (int64_t i = 0; i < n[0]; i++) {
            const double x = call->x[0][row * n[0] + i] * scale, mask = call->s[1] ? slope * eval_at(call, 1, i, i1, i2, i3) : 0;
            y[i] = x + mask;
            size = fmax(size, fabs(x) + (isinf(mask) ? 0 : fabs(mask)));
            most = fmax(most, y[i]);
        }
        for (int64_t i = 0; i < n[0]; i++) {
            sum += y[i] = exp(y[i] - most);
        }
        sum += call->s[2] ? exp(call->x[2][i2] - most) : 0;
        for (int64_t i = 0; i < n[0]; i++) {
            y[i] /= sum;
            /* A logit's rounding goes through the exponential; 2^-17 is the exponential's own, and the sum's and the division's. */
            call->tolerance[row * n[0] + i] = y[i] * (0x1p-21 * size + 0x1p-17) + 0x1p-30;
        }
    }
}

/* ---- sorting: an order of equals is not defined, so it is the answer that is checked ---- */

void eval_nothing(const eval_call *call) {
    (void)call;
}

/* Are got's ids those of different elements of a row of n? */
static bool all_differ(const double *got, int64_t count, int64_t n) {
    bool *seen = calloc((size_t)n, sizeof *seen);
    bool differ = seen != NULL;
    for (int64_t i = 0; differ && i < count; i++) {
        differ = got[i] >= 0 && got[i] < (double)n && !seen[(int64_t)got[i]];
        if (differ) {
            seen[(int64_t)got[i]] = true;
        }
    }
    free(seen);
    return differ;
}

const char *eval_check_argsort(const eval_call *call, const double *got) {
    const int64_t n = call->t->ne[0];
    for (int64_t row = 0; row < rows_of(call->t); row++) {
        const double *x = call->x[0] + row * n, *ids = got + row * n;
        if (!all_differ(ids, n, n)) {
            return "the result is no permutation";
        }
        for (int64_t i = 1; i < n; i++) {
            const double before = x[(int64_t)ids[i - 1]], after = x[(int64_t)ids[i]];
            if (call->t->params[0] ? before < after : before > after) {
                return "the result is not in order";
            }
        }
    }
    return NULL;
}

static int descending(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x < y) - (x > y);
}

const char *eval_check_top_k(const eval_call *call, const double *got) {
    const int64_t n = call->s[0]->ne[0], k = call->t->ne[0];
    double *sorted = malloc((size_t)n * sizeof *sorted), *found = malloc((size_t)k * sizeof *found);
    const char *wrong = sorted && found ? NULL : "out of memory";
    for (int64_t row = 0; !wrong && row < rows_of(call->t); row++) {
        const double *x = call->x[0] + row * n, *ids = got + row * k;
        if (!all_differ(ids, k, n)) {
            wrong = "the ids do not differ, or are out of range";
            break;
        }
        for (int64_t i = 0; i < n; i++) {
            sorted[i] = x[i];
        }
        for (int64_t i = 0; i < k; i++) {
            found[i] = x[(int64_t)ids[i]];
        }
        qsort(sorted, (size_t)n, sizeof *sorted, descending);
        qsort(found, (size_t)k, sizeof *found, descending);
        for (int64_t i = 0; i < k; i++) {
            wrong = found[i] != sorted[i] ? "they are not the largest" : wrong;
        }
    }
    free(sorted);
    free(found);
    return wrong;
}

const char *eval_check_argmax(const eval_call *call, const double *got) {
    const int64_t n = call->s[0]->ne[0];
    for (int64_t row = 0; row < call->s[0]->ne[1]; row++) {
        const double *x = call->x[0] + row * n;
        double most = -INFINITY;
        bool numbers = true;
        for (int64_t i = 0; i < n; i++) {
            most = fmax(most, x[i]);
            numbers &= !isnan(x[i]);
        }
        if (numbers && (got[row] < 0 || got[row] >= (double)n || x[(int64_t)got[row]] != most)) {
            return "it is not the largest";
        }
    }
    return NULL;
}
