/* Reading WebAssembly's binary format: bounded, total, without allocation. */
#ifndef SP_ABI_WASM_CODE_H
#define SP_ABI_WASM_CODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Bytes [at, end); once something did not fit, bad stays set and everything reads as zeros. */
typedef struct sp_wasm_cursor {
    const uint8_t *at, *end;
    bool bad;
} sp_wasm_cursor;

uint8_t sp_wasm_byte(sp_wasm_cursor *c);
/* Unsigned LEB128 of at most 32 bits. */
uint32_t sp_wasm_u32(sp_wasm_cursor *c);
/* Passes over a LEB128 of up to that many bits, signed or not. */
void sp_wasm_skip_leb(sp_wasm_cursor *c, int bits);
void sp_wasm_skip(sp_wasm_cursor *c, size_t n);
/* A part of the next n bytes; c moves behind them. */
sp_wasm_cursor sp_wasm_part(sp_wasm_cursor *c, uint32_t n);

/* What an instruction means for an actor that is to be frozen. */
typedef enum sp_wasm_effect {
    SP_WASM_HARMLESS,
    SP_WASM_CHANGES_TABLE,
    SP_WASM_DROPS_SEGMENT,
    SP_WASM_UNKNOWN, /* no instruction of the versions of WebAssembly that are known here; the cursor is bad */
} sp_wasm_effect;

/* Passes over one instruction; *depth counts the blocks that are open. */
sp_wasm_effect sp_wasm_instruction(sp_wasm_cursor *c, uint32_t *depth);
/* Passes over instructions up to the end that closes them (an initialiser, a body). Stops at the first with an effect. */
sp_wasm_effect sp_wasm_expression(sp_wasm_cursor *c);

#endif
