/* Synthetic models: real architecture and sizes, random weights. For benchmarks and tests, where speed or shapes matter and sense does not. */
#ifndef SP_MODEL_SYNTHETIC_H
#define SP_MODEL_SYNTHETIC_H

#include <stdbool.h>

#include "samepage.h"

typedef struct sp_synthetic {
    const char
        *architecture; /* "llama", "qwen2", "qwen3", "qwen3moe", "phi3", "gemma3", "lfm2"; the encoders "bert", "nomic-bert", "gemma-embedding" */
    const char *vocabulary; /* a GGUF whose vocabulary to take, or NULL: bytes and made-up words */
    uint32_t n_vocab;       /* ignored with a vocabulary */
    uint32_t n_layer, n_embd, n_head, n_head_kv, n_ff, n_ctx;
    uint32_t type;                    /* of the matrices: SP_TYPE_F16, Q8_0, Q4_0, or Q4_K with some in Q6_K, as in files called Q4_K_M */
    uint32_t n_expert, n_expert_used; /* qwen3moe: experts a layer, of n_ff each */
    uint32_t n_window;                /* gemma3 and gemma-embedding: five layers of six have a sliding window */
    uint32_t head;                    /* width of a head; 0: n_embd / n_head */
    const char *pooling;              /* of embeddings: "mean", "cls" or "last"; NULL: the file does not say */
    uint32_t n_ctx_original;          /* phi3: LongRoPE with other factors beyond this context; 0: none */
    bool untied;                      /* what reads the result out is no embedding's; phi3: always */
    uint64_t seed;
} sp_synthetic;

/* 1.24 billion parameters, shaped like Llama 3.2 1B. */
sp_synthetic sp_synthetic_llama_1b(uint32_t type);

/* 8.03 billion, shaped like Llama 3.1 8B. */
sp_synthetic sp_synthetic_llama_8b(uint32_t type);

/* About a billion parameters of a kind: "dense" (the one above), "mixture", "window" or "hybrid". False: there is no such kind. */
bool sp_synthetic_1b(const char *kind, uint32_t type, sp_synthetic *out);

/* Writes a GGUF file (through a temporary one, renamed when whole). SP_ERR_ARGUMENT: an architecture or type that is not known; SP_ERR_IO. */
sp_status sp_synthetic_write(const sp_synthetic *what, const char *path, sp_error *err);

#endif
