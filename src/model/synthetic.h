/* Synthetic models: real architecture and sizes, random weights. For benchmarks and tests, where speed or shapes matter and sense does not. */
#ifndef SP_MODEL_SYNTHETIC_H
#define SP_MODEL_SYNTHETIC_H

#include "samepage.h"

typedef struct sp_synthetic {
    const char *architecture; /* "llama", "qwen2", "qwen3", "phi3" */
    const char *vocabulary;   /* a GGUF whose vocabulary to take, or NULL: bytes and made-up words */
    uint32_t n_vocab;         /* ignored with a vocabulary */
    uint32_t n_layer, n_embd, n_head, n_head_kv, n_ff, n_ctx;
    uint32_t type;           /* of the matrices: SP_TYPE_F16, Q8_0 or Q4_0 */
    uint32_t n_ctx_original; /* phi3: LongRoPE with other factors beyond this context; 0: none */
    uint64_t seed;
} sp_synthetic;

/* 1.24 billion parameters, shaped like Llama 3.2 1B. */
sp_synthetic sp_synthetic_llama_1b(uint32_t type);

/* Writes a GGUF file (through a temporary one, renamed when whole). SP_ERR_ARGUMENT: an architecture or type that is not known; SP_ERR_IO. */
sp_status sp_synthetic_write(const sp_synthetic *what, const char *path, sp_error *err);

#endif
