/* Wasmtime's linear memories are reservations of ours. */
#ifndef SP_ABI_MEMORY_CREATOR_H
#define SP_ABI_MEMORY_CREATOR_H

#include <wasmtime.h>

#include "memory/memory.h"

/* The callback for Wasmtime. Remembers, for the calling thread, the memory that it made. */
wasmtime_error_t *sp_memory_creator_new(void *env, const wasm_memorytype_t *type, size_t minimum, size_t maximum, size_t reserved, size_t guard,
                                        wasmtime_linear_memory_t *out);

/* The memory that this thread's last instantiation made, or NULL; forgets it. Owned by the store that it was made for. */
sp_memory *sp_memory_creator_take(void);

#endif
