/* See memory_creator.h. */
#include "abi/memory_creator.h"

#include "base/error.h"

static _Thread_local sp_memory *made;

static uint8_t *get_memory(void *env, size_t *size, size_t *capacity) {
    sp_memory *memory = env;
    *size = sp_memory_size(memory);
    *capacity = sp_memory_reservation(memory);
    return sp_memory_base(memory);
}

static wasmtime_error_t *grow_memory(void *env, size_t new_size) {
    sp_error err;
    return sp_memory_grow(env, new_size, &err) == SP_OK ? NULL : wasmtime_error_new(err.message);
}

static void destroy(void *env) {
    sp_memory_destroy(env);
}

wasmtime_error_t *sp_memory_creator_new(void *env, const wasm_memorytype_t *type, size_t minimum, size_t maximum, size_t reserved, size_t guard,
                                        wasmtime_linear_memory_t *out) {
    (void)env, (void)type, (void)maximum;
    sp_error err;
    sp_memory *memory;
    if (sp_memory_create(minimum, reserved, guard, &memory, &err) != SP_OK) {
        return wasmtime_error_new(err.message);
    }
    *out = (wasmtime_linear_memory_t){.env = memory, .get_memory = get_memory, .grow_memory = grow_memory, .finalizer = destroy};
    made = memory;
    return NULL;
}

sp_memory *sp_memory_creator_take(void) {
    sp_memory *memory = made;
    made = NULL;
    return memory;
}
