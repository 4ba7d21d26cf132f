/* All the memory that there is, by malloc and by memory.grow.
 * expect: done
 * limits: memory_bytes=16777216 */
#include "hostile.h"

int32_t sp_step(void) {
    uint64_t total = 0;
    for (void *volatile p; (p = malloc(100000)); total += 100000) {
        memset(p, 1, 100000);
    }
    EXPECT(1, total > 10000000 && total < 16777216);
    while (__builtin_wasm_memory_grow(0, 1) != SIZE_MAX) {
    }
    EXPECT(16777216, (int32_t)memory_size());
    EXPECT(-1, (int32_t)__builtin_wasm_memory_grow(0, 65536));
    EXPECT(-1, (int32_t)__builtin_wasm_memory_grow(0, SIZE_MAX));
    EXPECT(0, sp_send(at(16777215), 1));
    EXPECT(SP_E_RANGE, sp_send(at(16777216), 1));
    return SP_DONE;
}
