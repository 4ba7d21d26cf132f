/* What the binary carries (embedded.S.in): the language-model guest, the guest of `proof`, and the pocket model. */
#ifndef SP_CLI_EMBEDDED_H
#define SP_CLI_EMBEDDED_H

#include <stdint.h>

extern const unsigned char sp_embedded_llm[], sp_embedded_proof[], sp_embedded_pocket[];
/* Bytes. */
extern const uint64_t sp_embedded_llm_size, sp_embedded_proof_size, sp_embedded_pocket_size;

#endif
