#include "oracle/numbers.h"

#include <ggml.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

double number_from_half(uint16_t bits) {
    const int exponent = bits >> 10 & 31, fraction = bits & 1023;
    const double sign = bits >> 15 ? -1 : 1;
    if (exponent == 31) {
        return fraction ? NAN : sign * INFINITY;
    }
    return sign * (exponent ? ldexp(1024 + fraction, exponent - 25) : ldexp(fraction, -24));
}

uint16_t number_to_half(double value) {
    const uint16_t sign = signbit(value) ? 0x8000 : 0;
    const double magnitude = fabs(value);
    if (isnan(value)) {
        return sign | 0x7e00;
    }
    if (magnitude >= 65520) { /* half of the way from the largest to what would be next */
        return sign | 0x7c00;
    }
    if (magnitude < ldexp(1, -14)) {
        return sign | (uint16_t)nearbyint(ldexp(magnitude, 24));
    }
    int exponent;
    const double fraction = frexp(magnitude, &exponent); /* 0.5 to 1 */
    const uint32_t mantissa = (uint32_t)nearbyint(ldexp(fraction, 11));
    return sign | (uint16_t)(((uint32_t)(exponent + 13) << 10) + mantissa); /* mantissa holds the leading one: it adds one to the exponent */
}

double number_from_bf16(uint16_t bits) {
    const uint32_t word = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &word, sizeof value);
    return value;
}

static double half_at(const uint8_t *at) {
    uint16_t bits;
    memcpy(&bits, at, sizeof bits);
    return number_from_half(bits);
}

static uint32_t word_at(const uint8_t *at) {
    uint32_t word;
    memcpy(&word, at, sizeof word);
    return word;
}

/* d, then 16 bytes: element i in the low half of byte i, element i + 16 in its high half. */
static void read_q4(const uint8_t *block, bool has_min, double *out) {
    const double d = half_at(block), m = has_min ? half_at(block + 2) : 0;
    const uint8_t *nibbles = block + (has_min ? 4 : 2);
    for (int i = 0; i < 16; i++) {
        out[i] = has_min ? d * (nibbles[i] & 15) + m : d * ((nibbles[i] & 15) - 8);
        out[i + 16] = has_min ? d * (nibbles[i] >> 4) + m : d * ((nibbles[i] >> 4) - 8);
    }
}

/* The same with a fifth bit for each element in a word. */
static void read_q5(const uint8_t *block, bool has_min, double *out) {
    const double d = half_at(block), m = has_min ? half_at(block + 2) : 0;
    const uint8_t *at = block + (has_min ? 4 : 2);
    const uint32_t high = word_at(at);
    for (int i = 0; i < 32; i++) {
        const int nibble = i < 16 ? at[4 + i] & 15 : at[4 + i - 16] >> 4, q = nibble | (int)(high >> i & 1) << 4;
        out[i] = has_min ? d * q + m : d * (q - 16);
    }
}

static void read_q8(const uint8_t *block, double *out) {
    const double d = half_at(block);
    for (int i = 0; i < 32; i++) {
        out[i] = d * (int8_t)block[2 + i];
    }
}

static void read_iq4_nl(const uint8_t *block, double *out) {
    static const int8_t values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
    const double d = half_at(block);
    for (int i = 0; i < 16; i++) {
        out[i] = d * values[block[2 + i] & 15];
        out[i + 16] = d * values[block[2 + i] >> 4];
    }
}

/* A power of two for the block (e8m0), and numbers of four bits (e2m1). */
static void read_mxfp4(const uint8_t *block, double *out) {
    static const double values[16] = {0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6};
    const double d = ldexp(1, block[0] - 127);
    for (int i = 0; i < 16; i++) {
        out[i] = d * values[block[1 + i] & 15];
        out[i + 16] = d * values[block[1 + i] >> 4];
    }
}

static void read_block(uint32_t type, const uint8_t *block, double *out) {
    switch (type) {
    case SP_TYPE_Q4_0:
    case SP_TYPE_Q4_1:
        read_q4(block, type == SP_TYPE_Q4_1, out);
        return;
    case SP_TYPE_Q5_0:
    case SP_TYPE_Q5_1:
        read_q5(block, type == SP_TYPE_Q5_1, out);
        return;
    case SP_TYPE_Q8_0:
        read_q8(block, out);
        return;
    case SP_TYPE_IQ4_NL:
        read_iq4_nl(block, out);
        return;
    case SP_TYPE_MXFP4:
        read_mxfp4(block, out);
        return;
    default:
        break;
    }
    float values[256];
    ggml_get_type_traits((enum ggml_type)type)->to_float(block, values, 256);
    for (int i = 0; i < 256; i++) {
        out[i] = (double)values[i];
    }
}

static double read_element(uint32_t type, const uint8_t *at) {
    switch (type) {
    case SP_TYPE_F16:
        return half_at(at);
    case SP_TYPE_BF16: {
        uint16_t bits;
        memcpy(&bits, at, sizeof bits);
        return number_from_bf16(bits);
    }
    case SP_TYPE_I32:
        return (int32_t)word_at(at);
    case SP_TYPE_I64: {
        int64_t value;
        memcpy(&value, at, sizeof value);
        return (double)value;
    }
    default: {
        float value;
        memcpy(&value, at, sizeof value);
        return (double)value;
    }
    }
}

void numbers_read_row(uint32_t type, const uint8_t *from, uint64_t nb0, int64_t n, double *out) {
    const uint32_t block = sp_type_get(type)->block;
    for (int64_t i = 0; i < n; i += block) {
        if (block == 1) {
            out[i] = read_element(type, from + (uint64_t)i * nb0);
        } else {
            read_block(type, from + (uint64_t)i / block * nb0, out + i);
        }
    }
}

uint64_t numbers_row_offset(const sp_spec_tensor *t, int64_t i1, int64_t i2, int64_t i3) {
    return (uint64_t)i1 * t->nb[1] + (uint64_t)i2 * t->nb[2] + (uint64_t)i3 * t->nb[3];
}

void numbers_read(const sp_spec_tensor *t, const uint8_t *base, double *out) {
    for (int64_t i3 = 0; i3 < t->ne[3]; i3++) {
        for (int64_t i2 = 0; i2 < t->ne[2]; i2++) {
            for (int64_t i1 = 0; i1 < t->ne[1]; i1++) {
                numbers_read_row(t->type, base + numbers_row_offset(t, i1, i2, i3), t->nb[0], t->ne[0], out);
                out += t->ne[0];
            }
        }
    }
}

bool numbers_have_minimum(uint32_t type) {
    return type == SP_TYPE_Q4_1 || type == SP_TYPE_Q5_1;
}

double number_rounding(uint32_t type, double value, double block_max) {
    /*
     * A block's scale is a half, of which the least is 2^-24: blocks of very small numbers lose more, up to all that they have; and where a block has
     * a least element beside its scale, which is rounded too, up to all the way from that to its largest.
     */
    const double least = fmin(numbers_have_minimum(type) ? 2 * block_max + 0x1p-25 : block_max, 128 * 0x1p-25);
    switch (type) {
    case SP_TYPE_F32:
        return ldexp(fabs(value), -24) + 1e-45;
    case SP_TYPE_F16:
        return ldexp(fabs(value), -11) + ldexp(1, -25);
    case SP_TYPE_BF16:
        return ldexp(fabs(value), -8) + 1e-40;
    /* The scale is a half: it adds 2^-11. Where the largest element is at one end of the range, the other end is one step short. */
    case SP_TYPE_Q8_0:
        return block_max * (0.5 / 127 + 0x1p-10) + least;
    case SP_TYPE_Q4_0:
        return block_max * (1.0 / 8 + 0x1p-10) + least;
    case SP_TYPE_Q4_1:
        return block_max * (1.0 / 15 + 0x1p-9) + least;
    case SP_TYPE_Q5_0:
        return block_max * (1.0 / 16 + 0x1p-10) + least;
    case SP_TYPE_Q5_1:
        return block_max * (1.0 / 31 + 0x1p-9) + least;
    case SP_TYPE_IQ4_NL:
        return block_max * 0.15 + least;
    default:
        return 0;
    }
}
