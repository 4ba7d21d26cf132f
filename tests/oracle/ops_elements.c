/* Element by element: unary, binary, gated, scale, clamp, fill. */
#include <math.h>

#include "oracle/evaluate.h"

static int64_t elements(const sp_spec_tensor *t) {
    return t->ne[0] * t->ne[1] * t->ne[2] * t->ne[3];
}

double eval_at(const eval_call *call, int s, int64_t i0, int64_t i1, int64_t i2, int64_t i3) {
    const int64_t *n = call->s[s]->ne;
    return call->x[s][((i3 % n[3] * n[2] + i2 % n[2]) * n[1] + i1 % n[1]) * n[0] + i0 % n[0]];
}

float eval_float(const eval_call *call, int param) {
    union {
        uint32_t word;
        float value;
    } bits = {.word = call->t->params[param]};
    return bits.value;
}

static double sigmoid(double x) {
    return 1 / (1 + exp(-x));
}

/* ggml looks both of these up in a table of halves, so the argument and the value are rounded to one. */
static double gelu(double x) {
    return 0.5 * x * (1 + tanh(0.79788456080286535587989211986876 * x * (1 + 0.044715 * x * x)));
}
static double gelu_quick(double x) {
    return x * sigmoid(1.702 * x);
}
static double gelu_erf(double x) {
    return 0.5 * x * (1 + erf(x * 0.70710678118654752440084436210484));
}

static double activate(uint16_t op, double x) {
    switch (op) {
    case SP_OP_SQR:
        return x * x;
    case SP_OP_SQRT:
        return sqrt(x);
    case SP_OP_SILU:
    case SP_OP_SWIGLU:
        return x * sigmoid(x);
    case SP_OP_GELU:
    case SP_OP_GEGLU:
        return gelu(x);
    case SP_OP_GELU_ERF:
    case SP_OP_GEGLU_ERF:
        return gelu_erf(x);
    case SP_OP_GELU_QUICK:
    case SP_OP_GEGLU_QUICK:
        return gelu_quick(x);
    case SP_OP_TANH:
        return tanh(x);
    case SP_OP_SIGMOID:
        return sigmoid(x);
    case SP_OP_RELU:
    case SP_OP_REGLU:
        return x > 0 ? x : 0;
    case SP_OP_SOFTPLUS:
        return x > 20 ? x : log1p(exp(x));
    case SP_OP_EXP:
        return exp(x);
    default:
        return -x;
    }
}

/*
 * How far off an activation may be: one operation in single precision rounds by 2^-24 of its value, and gets four times that. One with an exponential
 * has up to eight roundings, and the argument's own, 2^-24 of it, is multiplied into e^x: 2^-19 is 32 of them. A table of halves rounds argument and
 * value by 2^-11 each, and no slope is above 1.13.
 */
static double activation_tolerance(uint16_t op, double x, double y) {
    const bool table = op == SP_OP_GELU || op == SP_OP_GEGLU || op == SP_OP_GELU_QUICK || op == SP_OP_GEGLU_QUICK;
    if (table && fabs(x) > 65504) { /* infinite, as a half */
        return NAN;
    }
    if (table) {
        return 0x1p-10 * (fabs(x) + fabs(y)) + 0x1p-23;
    }
    if (op == SP_OP_SQR || op == SP_OP_SQRT || op == SP_OP_RELU || op == SP_OP_REGLU || op == SP_OP_NEG) {
        return 0x1p-22 * fabs(y);
    }
    return 0x1p-19 * (fabs(y) + (op == SP_OP_EXP ? fabs(x * y) : 0)) + 0x1p-21;
}

void eval_unary(const eval_call *call) {
    for (int64_t i = 0; i < elements(call->t); i++) {
        call->out[i] = activate(call->t->op, call->x[0][i]);
        call->tolerance[i] = activation_tolerance(call->t->op, call->x[0][i], call->out[i]);
    }
}

void eval_binary(const eval_call *call) {
    const int64_t *n = call->t->ne;
    for (int64_t i3 = 0, i = 0; i3 < n[3]; i3++) {
        for (int64_t i2 = 0; i2 < n[2]; i2++) {
            for (int64_t i1 = 0; i1 < n[1]; i1++) {
                for (int64_t i0 = 0; i0 < n[0]; i0++, i++) {
                    const double a = call->x[0][i], b = eval_at(call, 1, i0, i1, i2, i3);
                    const uint16_t op = call->t->op;
                    call->out[i] = op == SP_OP_ADD ? a + b : op == SP_OP_SUB ? a - b : op == SP_OP_MUL ? a * b : a / b;
                    call->tolerance[i] = 0x1p-22 * fabs(call->out[i]); /* one rounding, 2^-24, or a reciprocal's two */
                }
            }
        }
    }
}

/* a's halves are gate and value, or value and gate if swapped; or a is the gate and b the value. */
void eval_glu(const eval_call *call) {
    const int64_t half = call->t->ne[0], rows = elements(call->t) / half;
    const bool oai = call->t->op == SP_OP_SWIGLU_OAI, split = call->s[1], swapped = !split && call->t->params[0];
    const double alpha = oai ? (double)eval_float(call, 1) : 0, limit = oai ? (double)eval_float(call, 2) : 0;
    for (int64_t row = 0; row < rows; row++) {
        const double *a = call->x[0] + row * (split ? half : 2 * half), *b = split ? call->x[1] + row * half : a + half;
        for (int64_t i = 0; i < half; i++) {
            const double gate = swapped ? b[i] : a[i], value = swapped ? a[i] : b[i];
            double *out = call->out + row * half + i, *tolerance = call->tolerance + row * half + i;
            if (oai) {
                const double x = gate > limit ? limit : gate, y = value < -limit ? -limit : value > limit ? limit : value;
                *out = x * sigmoid(alpha * x) * (y + 1);
                /* A GPU has 2^ alone, and may multiply x by the logarithm of e first. */
                *tolerance = 0x1p-18 * fabs(*out) * (1 + fabs(alpha * x)) + 0x1p-20 * fabs(y + 1) + (call->loose && fabs(x) > 0x1p127 ? NAN : 0);
                continue;
            }
            if (call->t->op == SP_OP_SWIGLU_CLAMP) {
                const double most = (double)eval_float(call, 1), x = gate > most ? most : gate,
                             y = value < -most  ? -most
                                 : value > most ? most
                                                : value;
                *out = x * sigmoid(x) * y;
                *tolerance = 0x1p-18 * fabs(*out) * (1 + fabs(x)) + 0x1p-20 * fabs(y);
                continue;
            }
            const double y = activate(call->t->op, gate);
            *out = y * value;
            /* In halves the activation is rounded before it is multiplied. */
            *tolerance = activation_tolerance(call->t->op, gate, y) * fabs(value) + 0x1p-22 * fabs(*out) +
                         (call->t->type == SP_TYPE_F16 ? 0x1p-10 * fabs(*out) + 0x1p-24 * fabs(value) + (fabs(y) > 65504 ? NAN : 0) : 0);
        }
    }
}

void eval_scale(const eval_call *call) {
    const double scale = (double)eval_float(call, 0), bias = (double)eval_float(call, 1);
    for (int64_t i = 0; i < elements(call->t); i++) {
        call->out[i] = call->x[0][i] * scale + bias;
        call->tolerance[i] = 0x1p-22 * (fabs(call->x[0][i] * scale) + fabs(bias));
    }
}

/* NaN becomes an end of the range, which of the two is the device's affair: compared where x is a number. */
void eval_clamp(const eval_call *call) {
    const double min = (double)eval_float(call, 0), max = (double)eval_float(call, 1);
    for (int64_t i = 0; i < elements(call->t); i++) {
        const double x = call->x[0][i];
        call->out[i] = isnan(x) ? NAN : x < min ? min : x > max ? max : x;
    }
}

void eval_fill(const eval_call *call) {
    for (int64_t i = 0; i < elements(call->t); i++) {
        call->out[i] = (double)eval_float(call, 0);
    }
}

void eval_add_id(const eval_call *call) {
    const int64_t *n = call->t->ne;
    for (int64_t row = 0, i = 0; row < n[1] * n[2] * n[3]; row++) {
        const int64_t id = (int64_t)eval_at(call, 2, row % n[1], row / n[1] % n[2], 0, 0);
        for (int64_t i0 = 0; i0 < n[0]; i0++, i++) {
            call->out[i] = call->x[0][i] + eval_at(call, 1, i0, id, 0, 0);
            call->tolerance[i] = 0x1p-22 * fabs(call->out[i]);
        }
    }
}
