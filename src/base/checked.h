/* Unsigned 64-bit arithmetic that says when it overflowed. Everything that comes from a guest or a file goes through it. */
#ifndef SP_BASE_CHECKED_H
#define SP_BASE_CHECKED_H

#include <stdbool.h>
#include <stdint.h>

/* *out = a + b; false, with *out unspecified, when that does not fit. */
static inline bool sp_add_u64(uint64_t a, uint64_t b, uint64_t *out) {
    return !__builtin_add_overflow(a, b, out);
}

/* *out = a * b; false, with *out unspecified, when that does not fit. */
static inline bool sp_mul_u64(uint64_t a, uint64_t b, uint64_t *out) {
    return !__builtin_mul_overflow(a, b, out);
}

/* Does [offset, offset + length) lie within [0, size)? An empty range at the end does. */
static inline bool sp_range_within(uint64_t offset, uint64_t length, uint64_t size) {
    return length <= size && offset <= size - length;
}

/* value rounded up to a power of two; false on overflow. */
static inline bool sp_align_up_u64(uint64_t value, uint64_t alignment, uint64_t *out) {
    return sp_add_u64(value, alignment - 1, out) && ((*out &= ~(alignment - 1)), true);
}

#endif
