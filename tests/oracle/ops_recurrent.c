/*
 * What carries state from token to token: state spaces, linear attention; and sparse attention's indexer. Beside each value goes the sum of the
 * magnitudes that it is made of: a device may be off by a small share of that.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "oracle/evaluate.h"

/* A magnitude up to which nothing becomes infinite in single precision, or NAN: what once was larger is not compared. */
static double within(double magnitude) {
    return magnitude < 1e15 ? magnitude : NAN;
}

/* How far off a value may be whose parts have this magnitude, after so many roundings. */
static double slip(double magnitude, double roundings) {
    return within(magnitude) * 0x1p-21 * (8 + roundings);
}

void eval_ssm_conv(const eval_call *call) {
    const int64_t nc = call->s[1]->ne[0], ncs = call->s[0]->ne[0], *n = call->t->ne;
    for (int64_t i2 = 0, at = 0; i2 < n[2]; i2++) {
        for (int64_t i1 = 0; i1 < n[1]; i1++) {
            for (int64_t i0 = 0; i0 < n[0]; i0++, at++) {
                double magnitude = 0;
                for (int64_t k = 0; k < nc; k++) {
                    const double part = call->x[0][(i2 * n[0] + i0) * ncs + i1 + k] * call->x[1][i0 * nc + k];
                    call->out[at] += part;
                    magnitude += fabs(part);
                }
                call->tolerance[at] = slip(magnitude, (double)nc);
            }
        }
    }
}

/* A state and its magnitudes. */
typedef struct carried {
    double *s, *m;
} carried;

static carried carry(const double *from, int64_t n) {
    carried c = {.s = malloc((size_t)n * sizeof(double)), .m = malloc((size_t)n * sizeof(double))};
    if (!c.s || !c.m) {
        abort();
    }
    for (int64_t i = 0; i < n; i++) {
        c.s[i] = from[i];
        c.m[i] = fabs(from[i]);
    }
    return c;
}

/* The state is a part of the result. */
static void put_down(const eval_call *call, carried c, int64_t n, int64_t at, double roundings) {
    for (int64_t i = 0; i < n; i++) {
        call->out[at + i] = c.s[i];
        call->tolerance[at + i] = slip(c.m[i], roundings);
    }
    free(c.s);
    free(c.m);
}

static double softplus(double x) {
    return x > 20 ? x : log1p(exp(x));
}

/* One head of one sequence. */
static void scan_head(const eval_call *call, int64_t h, int64_t seq, int64_t state_at) {
    const int64_t nc = call->s[0]->ne[0], nr = call->s[0]->ne[1], nh = call->s[0]->ne[2], nt = call->s[1]->ne[2], ng = call->s[4]->ne[1];
    const int64_t from = (int64_t)call->x[6][seq], group = h / (nh / ng), decays = call->s[3]->ne[0];
    carried c = carry(call->x[0] + (from * nh + h) * nr * nc, nr * nc);
    double roundings = 0;
    for (int64_t t = 0; t < nt; t++) {
        const int64_t token = seq * nt + t;
        const double dt = softplus(call->x[2][token * nh + h]), *b = call->x[4] + (token * ng + group) * nc,
                     *cc = call->x[5] + (token * ng + group) * nc;
        for (int64_t i = 0; i < nc; i++) {
            roundings += fabs(dt * call->x[3][h * decays + (decays == 1 ? 0 : i)]) / (double)nc;
        }
        roundings += 8;
        for (int64_t r = 0; r < nr; r++) {
            const double x = call->x[1][(token * nh + h) * nr + r] * dt;
            /* log(1 + e^x) in single precision is as far off where it is small as where it is 1. */
            const double most = fabs(call->x[1][(token * nh + h) * nr + r]) * (dt + 1);
            double sum = 0, magnitude = 0;
            for (int64_t i = 0; i < nc; i++) {
                const double decay = exp(dt * call->x[3][h * decays + (decays == 1 ? 0 : i)]);
                double *s = &c.s[r * nc + i], *m = &c.m[r * nc + i];
                *s = *s * decay + b[i] * x;
                *m = within(*m * within(decay) + fabs(b[i]) * most);
                sum += *s * cc[i];
                magnitude += *m * fabs(cc[i]);
            }
            call->out[(token * nh + h) * nr + r] = sum;
            call->tolerance[(token * nh + h) * nr + r] = slip(magnitude, 8 * roundings + (double)nc);
        }
    }
    put_down(call, c, nr * nc, state_at + (seq * nh + h) * nr * nc, 8 * roundings);
}

void eval_ssm_scan(const eval_call *call) {
    const int64_t *x = call->s[1]->ne;
    for (int64_t seq = 0; seq < x[3]; seq++) {
        for (int64_t h = 0; h < x[1]; h++) {
            scan_head(call, h, seq, x[0] * x[1] * x[2] * x[3]);
        }
    }
}

/* row . vector of a state, and its magnitude. */
static double dot(const double *row, const double *magnitudes, const double *with, int64_t n, double *magnitude) {
    double sum = 0;
    *magnitude = 0;
    for (int64_t i = 0; i < n; i++) {
        sum += row[i] * with[i];
        *magnitude += magnitudes[i] * fabs(with[i]);
    }
    return sum;
}

static void delta_head(const eval_call *call, int64_t h, int64_t seq) {
    const int64_t *v = call->s[2]->ne, *q = call->s[0]->ne, *k = call->s[1]->ne, n = v[0], gates = call->s[3]->ne[0];
    const int64_t state_at = n * v[1] * v[2] * v[3], head = seq * v[1] + h;
    carried c = carry(call->x[5] + head * n * n, n * n);
    const double scale = 1 / sqrt((double)n);
    double roundings = 0;
    for (int64_t t = 0; t < v[2]; t++) {
        const double *qt = call->x[0] + ((seq / (v[3] / q[3]) * q[2] + t) * q[1] + h % q[1]) * n;
        const double *kt = call->x[1] + ((seq / (v[3] / k[3]) * k[2] + t) * k[1] + h % k[1]) * n;
        const int64_t at = (seq * v[2] + t) * v[1] + h;
        const double beta = call->x[4][at], *g = call->x[3] + at * gates;
        roundings += 16 + (double)n / 4;
        for (int64_t j = 0; j < n; j++) {
            double *s = c.s + j * n, *m = c.m + j * n, magnitude, most = 0;
            for (int64_t i = 0; i < n; i++) {
                const double gate = g[gates == 1 ? 0 : i];
                s[i] *= exp(gate);
                m[i] = within(m[i] * within(exp(gate)));
                most = fmax(most, fabs(gate));
            }
            const double known = dot(s, m, kt, n, &magnitude), value = call->x[2][at * n + j];
            const double delta = (value - known) * beta, size = (fabs(value) + magnitude) * fabs(beta);
            for (int64_t i = 0; i < n; i++) {
                s[i] += kt[i] * delta;
                m[i] = within(m[i] + fabs(kt[i]) * size);
            }
            call->out[at * n + j] = dot(s, m, qt, n, &magnitude) * scale;
            call->tolerance[at * n + j] = slip(magnitude * scale, roundings + most);
        }
        for (int64_t i = 0; i < gates; i++) {
            roundings += fabs(g[i]) / (double)gates;
        }
    }
    put_down(call, c, n * n, state_at + head * n * n, 2 * roundings);
}

void eval_gated_delta_net(const eval_call *call) {
    for (int64_t seq = 0; seq < call->s[2]->ne[3]; seq++) {
        for (int64_t h = 0; h < call->s[2]->ne[1]; h++) {
            delta_head(call, h, seq);
        }
    }
}

/* Element i of source s for a token and a head. */
static double part(const eval_call *call, int s, int64_t token, int64_t h, int64_t i) {
    return call->x[s][(token * call->s[0]->ne[1] + h) * call->s[0]->ne[0] + i];
}

/* State row i (of the key) and column j (of the value). */
static void wkv6_token(const eval_call *call, int64_t token, int64_t h, carried c, double roundings) {
    const int64_t n = call->s[0]->ne[0], at = (token * call->s[0]->ne[1] + h) * n;
    for (int64_t j = 0; j < n; j++) {
        double sum = 0, magnitude = 0;
        for (int64_t i = 0; i < n; i++) {
            const double kv = part(call, 0, token, h, i) * part(call, 1, token, h, j), r = part(call, 2, token, h, i), bonus = call->x[3][h * n + i];
            double *s = &c.s[i * n + j], *m = &c.m[i * n + j];
            sum += r * (kv * bonus + *s);
            magnitude += fabs(r) * (fabs(kv * bonus) + *m);
            *s = *s * part(call, 4, token, h, i) + kv;
            *m = within(*m * fabs(part(call, 4, token, h, i)) + fabs(kv));
        }
        call->out[at + j] = sum;
        call->tolerance[at + j] = slip(magnitude, roundings);
    }
}

/* State row i (of the value) and column j (of the key). */
static void wkv7_token(const eval_call *call, int64_t token, int64_t h, carried c, double roundings) {
    const int64_t n = call->s[0]->ne[0], at = (token * call->s[0]->ne[1] + h) * n;
    for (int64_t i = 0; i < n; i++) {
        double *s = c.s + i * n, *m = c.m + i * n, size, magnitude = 0, sum = 0;
        const double sa = dot(s, m, call->x[4] + at, n, &size), v = part(call, 3, token, h, i);
        for (int64_t j = 0; j < n; j++) {
            const double k = part(call, 2, token, h, j), w = part(call, 1, token, h, j), b = part(call, 5, token, h, j);
            s[j] = s[j] * w + v * k + sa * b;
            m[j] = within(m[j] * fabs(w) + fabs(v * k) + size * fabs(b));
            sum += s[j] * part(call, 0, token, h, j);
            magnitude += m[j] * fabs(part(call, 0, token, h, j));
        }
        call->out[at + i] = sum;
        call->tolerance[at + i] = slip(magnitude, roundings);
    }
}

void eval_wkv(const eval_call *call) {
    const int last = call->t->n_src - 1;
    const int64_t *a = call->s[0]->ne, n = a[0], seqs = call->s[last]->ne[1], each = a[2] / seqs, state_at = n * a[1] * a[2];
    for (int64_t seq = 0; seq < seqs; seq++) {
        for (int64_t h = 0; h < a[1]; h++) {
            const int64_t at = (seq * a[1] + h) * n * n;
            carried c = carry(call->x[last] + at, n * n);
            double roundings = 0;
            for (int64_t t = 0; t < each; t++) {
                roundings += 16 + (double)n / 4;
                (call->t->op == SP_OP_RWKV_WKV6 ? wkv6_token : wkv7_token)(call, seq * each + t, h, c, roundings);
            }
            put_down(call, c, n * n, state_at + at, roundings);
        }
    }
}

void eval_lightning_indexer(const eval_call *call) {
    const int64_t *q = call->s[0]->ne, *n = call->t->ne;
    for (int64_t s = 0, at = 0; s < n[3]; s++) {
        for (int64_t t = 0; t < n[1]; t++) {
            for (int64_t cell = 0; cell < n[0]; cell++, at++) {
                const double *k = call->x[1] + (s * n[0] + cell) * q[0];
                double magnitude = 0, mask = eval_at(call, 3, cell, t, 0, s);
                for (int64_t h = 0; h < q[1]; h++) {
                    const double *row = call->x[0] + ((s * q[2] + t) * q[1] + h) * q[0], weight = call->x[2][(s * q[2] + t) * q[1] + h];
                    double score = 0, size = 0;
                    for (int64_t i = 0; i < q[0]; i++) {
                        score += row[i] * k[i];
                        size += fabs(row[i] * k[i]);
                    }
                    call->out[at] += fmax(score, 0) * weight;
                    magnitude += size * fabs(weight);
                }
                call->out[at] += mask;
                call->tolerance[at] = slip(magnitude + fabs(mask), (double)q[0] + (double)q[1]);
            }
        }
    }
}

void eval_dsv4_hc_pre(const eval_call *call) {
    const int64_t *x = call->s[0]->ne;
    for (int64_t t = 0, at = 0; t < x[2]; t++) {
        for (int64_t i = 0; i < x[0]; i++, at++) {
            double magnitude = 0;
            for (int64_t k = 0; k < x[1]; k++) {
                const double term = call->x[0][(t * x[1] + k) * x[0] + i] * call->x[1][t * x[1] + k];
                call->out[at] += term;
                magnitude += fabs(term);
            }
            call->tolerance[at] = slip(magnitude, (double)x[1]);
        }
    }
}
