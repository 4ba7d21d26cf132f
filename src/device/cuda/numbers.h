/* Kernels' numbers: elements of every type as floats and back, blocks of
 * quants, and the mathematics that PTX has no instruction for. */
#ifndef SP_DEVICE_CUDA_NUMBERS_H
#define SP_DEVICE_CUDA_NUMBERS_H

#include "device/cuda/platform.h"
#include "samepage/program.h"

K_FN float k_bits_float(uint32_t bits) {
    union {
        uint32_t u;
        float f;
    } v = {.u = bits};
    return v.f;
}
K_FN uint32_t k_float_bits(float f) {
    union {
        float f;
        uint32_t u;
    } v = {.f = f};
    return v.u;
}
K_FN float k_half(const void *at) {
    return k_from_half(*(const k_u16 *)at);
}
/* The lower half's bits are the first's. */
K_INLINE uint32_t k_two_halves(float low, float high) {
#ifdef __NVPTX__
    uint32_t both;
    __asm__("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    return both;
#else
    return k_to_half(low) | (uint32_t)k_to_half(high) << 16;
#endif
}
K_FN float k_infinity(void) {
    return __builtin_inff();
}
K_FN float k_min(float a, float b) {
    return a < b ? a : b;
}
K_FN float k_max(float a, float b) {
    return a > b ? a : b;
}
/* Where neither is NaN: one instruction. */
K_INLINE float k_larger(float a, float b) {
    return __builtin_fmaxf(a, b);
}

/* ---- mathematics ---- */

/* Accurate to a few units of the last place: 2^n times a polynomial. */
K_FN float k_exp(float x) {
    if (!(x < 88.73f)) {
        return x != x ? x : k_infinity();
    }
    if (x < -104.0f) {
        return 0;
    }
    float n = __builtin_floorf(x * 1.44269504f + 0.5f);
    float r = __builtin_fmaf(n, -0.693359375f, x);
    r = __builtin_fmaf(n, 2.12194440e-4f, r);
    float p = 1.9875691500e-4f;
    p = __builtin_fmaf(p, r, 1.3981999507e-3f);
    p = __builtin_fmaf(p, r, 8.3334519073e-3f);
    p = __builtin_fmaf(p, r, 4.1665795894e-2f);
    p = __builtin_fmaf(p, r, 1.6666665459e-1f);
    p = __builtin_fmaf(p, r, 5.0000001201e-1f);
    p = __builtin_fmaf(p * r, r, r + 1.0f);
    int half = (int)n / 2, rest = (int)n - half;
    return p * k_bits_float((uint32_t)(half + 127) << 23) * k_bits_float((uint32_t)(rest + 127) << 23);
}

/* For weights of attention: by the card's own instruction, 2 units of the last place of a power of 2. */
K_FN float k_exp2_fast(float x) {
#ifdef __NVPTX__
    return __nvvm_ex2_approx_ftz_f(x);
#else
    return k_exp(x * 0.69314718f);
#endif
}
K_FN float k_exp_fast(float x) {
    return k_exp2_fast(x * 1.44269504f);
}

/* Natural logarithm of a positive normal number. */
K_APART float k_log(float x) {
    uint32_t bits = k_float_bits(x);
    int e = (int)(bits >> 23) - 126;
    float m = k_bits_float((bits & 0x7fffffu) | 0x3f000000u); /* 0.5 to 1 */
    if (m < 0.707106781f) {
        m += m;
        e--;
    }
    float f = m - 1.0f, z = f * f, p = 7.0376836292e-2f;
    p = __builtin_fmaf(p, f, -1.1514610310e-1f);
    p = __builtin_fmaf(p, f, 1.1676998740e-1f);
    p = __builtin_fmaf(p, f, -1.2420140846e-1f);
    p = __builtin_fmaf(p, f, 1.4249322787e-1f);
    p = __builtin_fmaf(p, f, -1.6668057665e-1f);
    p = __builtin_fmaf(p, f, 2.0000714765e-1f);
    p = __builtin_fmaf(p, f, -2.4999993993e-1f);
    p = __builtin_fmaf(p, f, 3.3333331174e-1f);
    return (float)e * 0.693147181f + (f + __builtin_fmaf(p * f, z, -0.5f * z));
}

/* The angle is brought to a quarter turn in double precision: positions are
 * large. */
typedef struct k_turn {
    float sin, cos;
} k_turn;
K_INLINE k_turn k_sin_cos_here(float angle) {
    double turns = (double)angle * 0.63661977236758134;
    double n = __builtin_floor(turns + 0.5);
    float r = (float)((double)angle - n * 1.5707963267948966), z = r * r;
    float s = __builtin_fmaf(__builtin_fmaf(__builtin_fmaf(-1.9515295891e-4f, z, 8.3321608736e-3f), z, -1.6666654611e-1f), z * r, r);
    float c = __builtin_fmaf(__builtin_fmaf(__builtin_fmaf(2.443315711809948e-5f, z, -1.388731625493765e-3f), z, 4.166664568298827e-2f), z * z,
                             __builtin_fmaf(-0.5f, z, 1.0f));
    int64_t quarter = (int64_t)n & 3;
    float a = quarter & 1 ? c : s, b = quarter & 1 ? s : c;
    return (k_turn){quarter & 2 ? -a : a, (quarter + 1) & 2 ? -b : b};
}

K_APART k_turn k_sin_cos(float angle) {
    return k_sin_cos_here(angle);
}

K_FN float k_sigmoid(float x) {
    return 1.0f / (1.0f + k_exp(-x));
}
K_APART float k_tanh(float x) {
    float a = __builtin_fabsf(x), y;
    if (a < 0.25f) {
        float z = x * x;
        return x * __builtin_fmaf(z, __builtin_fmaf(z, __builtin_fmaf(z, -0.05396825f, 0.13333333f), -0.33333333f), 1.0f);
    }
    y = 1.0f - 2.0f / (k_exp(2.0f * a) + 1.0f);
    return x < 0 ? -y : y;
}
/* Abramowitz and Stegun 7.1.26: within 1.5e-7. */
K_APART float k_erf(float x) {
    float a = __builtin_fabsf(x), t = 1.0f / __builtin_fmaf(0.3275911f, a, 1.0f), p = 1.061405429f;
    p = __builtin_fmaf(p, t, -1.453152027f);
    p = __builtin_fmaf(p, t, 1.421413741f);
    p = __builtin_fmaf(p, t, -0.284496736f);
    p = __builtin_fmaf(p, t, 0.254829592f);
    float y = 1.0f - p * t * k_exp(-a * a);
    return x < 0 ? -y : y;
}
K_FN float k_gelu(float x) {
    return 0.5f * x * (1.0f + k_tanh(0.79788456080286535588f * x * (1.0f + 0.044715f * x * x)));
}
K_FN float k_gelu_erf(float x) {
    return 0.5f * x * (1.0f + k_erf(x * 0.70710678118654752440f));
}
K_FN float k_gelu_quick(float x) {
    return x * k_sigmoid(1.702f * x);
}
K_FN float k_silu(float x) {
    return x * k_sigmoid(x);
}
/* Within some units of the last place: for what is rounded further on. */
K_FN float k_silu_fast(float x) {
    return x * k_reciprocal(1.0f + k_exp_fast(-x));
}
K_APART float k_softplus(float x) {
    if (x > 20.0f) {
        return x;
    }
    float e = k_exp(x);
    return e < 1e-4f ? e - 0.5f * e * e : k_log(1.0f + e);
}

/* ---- elements ---- */

K_FN float k_iq4_value(uint32_t q) {
    /* ggml's kvalues_iq4nl, four to a word */
    uint32_t w = q < 4 ? 0xbfad9881u : q < 8 ? 0xf6eaddcfu : q < 12 ? 0x26190d01u : 0x71594535u;
    return (float)(int8_t)(w >> (q & 3) * 8);
}
K_FN float k_fp4_value(uint32_t q) {
    uint32_t w = q & 4 ? 0x0c080604u : 0x03020100u;
    float v = (float)(int8_t)(w >> (q & 3) * 8);
    return q & 8 ? -v : v;
}
/* Scale and minimum of a group of 32 of q4_K and q5_K. */
K_FN void k_scale_min(const uint8_t *s, int j, float *scale, float *min) {
    uint32_t d = j < 4 ? s[j] & 63u : (s[j + 4] & 15u) | (uint32_t)(s[j - 4] >> 6) << 4;
    uint32_t m = j < 4 ? s[j + 4] & 63u : (uint32_t)(s[j + 4] >> 4) | (uint32_t)(s[j] >> 6) << 4;
    *scale = (float)d;
    *min = (float)m;
}

K_FN float k_element_32(uint32_t type, const uint8_t *row, uint32_t i) {
    uint32_t b = i / 32, j = i % 32, low = j < 16;
    switch (type) {
    case SP_TYPE_Q4_0: {
        const uint8_t *p = row + b * 18ull;
        return k_half(p) * ((float)(low ? p[2 + j] & 15 : p[2 + j - 16] >> 4) - 8.0f);
    }
    case SP_TYPE_Q4_1: {
        const uint8_t *p = row + b * 20ull;
        return k_half(p) * (float)(low ? p[4 + j] & 15 : p[4 + j - 16] >> 4) + k_half(p + 2);
    }
    case SP_TYPE_Q5_0: {
        const uint8_t *p = row + b * 22ull;
        uint32_t high = (p[2 + j / 8] >> j % 8 & 1u) << 4;
        return k_half(p) * ((float)((low ? p[6 + j] & 15u : p[6 + j - 16] >> 4) | high) - 16.0f);
    }
    case SP_TYPE_Q5_1: {
        const uint8_t *p = row + b * 24ull;
        uint32_t high = (p[4 + j / 8] >> j % 8 & 1u) << 4;
        return k_half(p) * (float)((low ? p[8 + j] & 15u : p[8 + j - 16] >> 4) | high) + k_half(p + 2);
    }
    case SP_TYPE_Q8_0: {
        const uint8_t *p = row + b * 34ull;
        return k_half(p) * (float)(int8_t)p[2 + j];
    }
    case SP_TYPE_IQ4_NL: {
        const uint8_t *p = row + b * 18ull;
        return k_half(p) * k_iq4_value(low ? p[2 + j] & 15 : p[2 + j - 16] >> 4);
    }
    default: { /* MXFP4: the scale is a power of two, halved since the values are
                  doubled */
        const uint8_t *p = row + b * 17ull;
        float d = p[0] < 2 ? k_bits_float(0x00200000u << p[0]) : k_bits_float((uint32_t)(p[0] - 1) << 23);
        return d * k_fp4_value(low ? p[1 + j] & 15 : p[1 + j - 16] >> 4);
    }
    }
}

K_FN float k_element_256(uint32_t type, const uint8_t *row, uint32_t i) {
    uint32_t b = i / 256, j = i % 256, n = j / 128, g = j % 128 / 32, l = j % 32;
    float s, m;
    switch (type) {
    case SP_TYPE_Q2_K: {
        const uint8_t *p = row + b * 84ull;
        uint32_t sc = p[j / 16];
        return k_half(p + 80) * (float)(sc & 15) * (float)(p[16 + n * 32 + l] >> 2 * g & 3) - k_half(p + 82) * (float)(sc >> 4);
    }
    case SP_TYPE_Q3_K: {
        const uint8_t *p = row + b * 110ull;
        uint32_t is = j / 16;
        uint32_t sl = is < 8 ? p[96 + is] & 15u : (uint32_t)(p[96 + is - 8] >> 4), sh = p[104 + is % 4] >> 2 * (is / 4) & 3u;
        int q = (int)(p[32 + n * 32 + l] >> 2 * g & 3) - (p[l] >> (n * 4 + g) & 1 ? 0 : 4);
        return k_half(p + 108) * (float)((int)(sl | sh << 4) - 32) * (float)q;
    }
    case SP_TYPE_Q4_K: {
        const uint8_t *p = row + b * 144ull;
        k_scale_min(p + 4, (int)(j / 32), &s, &m);
        uint32_t q = p[16 + j / 64 * 32 + l];
        return k_half(p) * s * (float)(j % 64 < 32 ? q & 15 : q >> 4) - k_half(p + 2) * m;
    }
    case SP_TYPE_Q5_K: {
        const uint8_t *p = row + b * 176ull;
        k_scale_min(p + 4, (int)(j / 32), &s, &m);
        uint32_t q = p[48 + j / 64 * 32 + l], high = (p[16 + l] >> j / 32 & 1u) << 4;
        return k_half(p) * s * (float)((j % 64 < 32 ? q & 15 : q >> 4) | high) - k_half(p + 2) * m;
    }
    case SP_TYPE_Q6_K: {
        const uint8_t *p = row + b * 210ull;
        uint32_t ql = p[n * 64 + g % 2 * 32 + l], qh = p[128 + n * 32 + l] >> 2 * g & 3u;
        int q = (int)((g < 2 ? ql & 15 : ql >> 4) | qh << 4) - 32;
        return k_half(p + 208) * (float)(int8_t)p[192 + n * 8 + g * 2 + l / 16] * (float)q;
    }
    default: { /* IQ4_XS */
        const uint8_t *p = row + b * 136ull;
        uint32_t ib = j / 32, ls = (p[4 + ib / 2] >> 4 * (ib % 2) & 15u) | ((uint32_t) * (const k_u16 *)(p + 2) >> 2 * ib & 3u) << 4;
        const uint8_t *q = p + 8 + ib * 16;
        return k_half(p) * (float)((int)ls - 32) * k_iq4_value(l < 16 ? q[l] & 15 : q[l - 16] >> 4);
    }
    }
}

/* Element i of a row of n, of any type, as a float. */
K_APART float k_element(uint32_t type, const uint8_t *row, uint32_t i, uint32_t n) {
    switch (type) {
    case SP_TYPE_F32:
        return ((const k_f32 *)row)[i];
    case SP_TYPE_F16:
        return k_from_half(((const k_u16 *)row)[i]);
    case SP_TYPE_BF16:
        return k_bits_float((uint32_t)((const k_u16 *)row)[i] << 16);
    case SP_TYPE_I32:
        return (float)((const k_i32 *)row)[i];
    case K_TYPE_Q4_0_SPLIT: {
        uint32_t b = i / 32, j = i % 32;
        float d = k_half(row + n / 2 + b * 2);
        return d * ((float)(j < 16 ? row[b * 16 + j] & 15 : row[b * 16 + j - 16] >> 4) - 8.0f);
    }
    case K_TYPE_Q8_0_SPLIT:
        return k_half(row + n + i / 32 * 2) * (float)(int8_t)row[i];
    case SP_TYPE_Q2_K:
    case SP_TYPE_Q3_K:
    case SP_TYPE_Q4_K:
    case SP_TYPE_Q5_K:
    case SP_TYPE_Q6_K:
    case SP_TYPE_IQ4_XS:
        return k_element_256(type, row, i);
    default:
        return k_element_32(type, row, i);
    }
}

K_FN uint16_t k_bf16(float x) {
    uint32_t u = k_float_bits(x);
    if ((u & 0x7fffffffu) > 0x7f800000u) {
        return (uint16_t)(u >> 16 | 64);
    }
    return (uint16_t)((u + (0x7fffu + (u >> 16 & 1))) >> 16);
}

K_FN void k_put(uint32_t type, uint8_t *at, float x) {
    switch (type) {
    case SP_TYPE_F16:
        *(k_u16 *)at = k_to_half(x);
        break;
    case SP_TYPE_BF16:
        *(k_u16 *)at = k_bf16(x);
        break;
    case SP_TYPE_I32:
        *(k_i32 *)at = (int32_t)x;
        break;
    default:
        *(k_f32 *)at = x;
    }
}

/* ---- blocks of 32 elements into quants: caches ---- */

K_FN uint32_t k_clip(float x, uint32_t most) {
    int q = (int)x;
    return q < 0 ? 0 : (uint32_t)q > most ? most : (uint32_t)q;
}
K_FN uint32_t k_nearest_iq4(float x) {
    uint32_t best = 0;
    for (uint32_t q = 1; q < 16; q++) {
        best = __builtin_fabsf(x - k_iq4_value(q)) < __builtin_fabsf(x - k_iq4_value(best)) ? q : best;
    }
    return best;
}

/* As ggml: the scale that the largest value gives, then the best one for these
 * quants, values weighted by their squares. */
K_FN void k_quantise_iq4_nl(const float *x, float peak, uint8_t *out) {
    float id = __builtin_fabsf(peak) < 1e-15f ? 0 : -127.0f / peak, above = 0, below = 0;
    uint32_t quants[32];
    for (int i = 0; i < 32; i++) {
        quants[i] = k_nearest_iq4(x[i] * id);
        float q = k_iq4_value(quants[i]), w = x[i] * x[i];
        above += w * q * x[i];
        below += w * q * q;
    }
    *(k_u16 *)out = k_to_half((id != 0 && below > 0 ? above / below : 0));
    for (int j = 0; j < 16; j++) {
        out[2 + j] = (uint8_t)(quants[j] | quants[j + 16] << 4);
    }
}

K_APART void k_quantise(uint32_t type, const float *x, uint8_t *out) {
    float most = 0, peak = 0, low = x[0], high = x[0];
    for (int i = 0; i < 32; i++) {
        if (__builtin_fabsf(x[i]) > most) {
            most = __builtin_fabsf(x[i]);
            peak = x[i];
        }
        low = k_min(low, x[i]);
        high = k_max(high, x[i]);
    }
    if (type == SP_TYPE_IQ4_NL) {
        k_quantise_iq4_nl(x, peak, out);
        return;
    }
    if (type == SP_TYPE_Q8_0) {
        float d = most / 127.0f, id = d != 0 ? 1.0f / d : 0;
        *(k_u16 *)out = k_to_half(d);
        for (int i = 0; i < 32; i++) {
            float v = x[i] * id;
            out[2 + i] = (uint8_t)(int8_t)(v < 0 ? v - 0.5f : v + 0.5f);
        }
        return;
    }
    bool five = type == SP_TYPE_Q5_0 || type == SP_TYPE_Q5_1, offset = type == SP_TYPE_Q4_1 || type == SP_TYPE_Q5_1;
    uint32_t top = five ? 31 : 15, bits = 0;
    float d = offset ? (high - low) / (float)top : peak / (five ? -16.0f : -8.0f), id = d != 0 ? 1.0f / d : 0;
    float base = offset ? low : 0, half = offset ? 0.5f : five ? 16.5f : 8.5f;
    *(k_u16 *)out = k_to_half(d);
    if (offset) {
        *(k_u16 *)(out + 2) = k_to_half(low);
    }
    uint8_t *mask = out + (offset ? 4 : 2), *quants = mask + (five ? 4 : 0);
    for (uint32_t j = 0; j < 16; j++) {
        uint32_t a = k_clip((x[j] - base) * id + half, top), b = k_clip((x[j + 16] - base) * id + half, top);
        quants[j] = (uint8_t)((a & 15) | (b & 15) << 4);
        bits |= a >> 4 << j | b >> 4 << (j + 16);
    }
    for (int i = 0; five && i < 4; i++) {
        mask[i] = (uint8_t)(bits >> 8 * i);
    }
}

#endif
