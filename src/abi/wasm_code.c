/* See wasm_code.h. The instructions are those of WebAssembly 2.0 with 128-bit vectors, tail calls, relaxed vectors and atomics. */
#include "abi/wasm_code.h"

uint8_t sp_wasm_byte(sp_wasm_cursor *c) {
    if (c->bad || c->at == c->end) {
        c->bad = true;
        return 0;
    }
    return *c->at++;
}

uint32_t sp_wasm_u32(sp_wasm_cursor *c) {
    uint64_t value = 0;
    for (int shift = 0; shift < 35; shift += 7) {
        uint8_t byte = sp_wasm_byte(c);
        value |= (uint64_t)(byte & 0x7f) << shift;
        if (!(byte & 0x80)) {
            c->bad = c->bad || value > UINT32_MAX;
            return c->bad ? 0 : (uint32_t)value;
        }
    }
    c->bad = true;
    return 0;
}

void sp_wasm_skip_leb(sp_wasm_cursor *c, int bits) {
    for (int shift = 0; shift < bits; shift += 7) {
        if (!(sp_wasm_byte(c) & 0x80)) {
            return;
        }
    }
    c->bad = true;
}

void sp_wasm_skip(sp_wasm_cursor *c, size_t n) {
    if (c->bad || n > (size_t)(c->end - c->at)) {
        c->bad = true;
        return;
    }
    c->at += n;
}

sp_wasm_cursor sp_wasm_part(sp_wasm_cursor *c, uint32_t n) {
    sp_wasm_cursor part = {c->at, c->at, c->bad};
    sp_wasm_skip(c, n);
    part.bad = c->bad;
    part.end = c->bad ? part.at : part.at + n;
    return part;
}

static void skip_memarg(sp_wasm_cursor *c) {
    if (sp_wasm_u32(c) & 0x40) { /* a memory's index follows */
        sp_wasm_u32(c);
    }
    sp_wasm_skip_leb(c, 64);
}

static sp_wasm_effect unknown(sp_wasm_cursor *c) {
    c->bad = true;
    return SP_WASM_UNKNOWN;
}

/* Behind 0xfc: conversions that saturate; memories and tables in bulk. */
static sp_wasm_effect bulk(sp_wasm_cursor *c) {
    uint32_t op = sp_wasm_u32(c);
    if (op <= 7) {
        return SP_WASM_HARMLESS;
    }
    if (op > 17) {
        return unknown(c);
    }
    bool two = op == 8 || op == 10 || op == 12 || op == 14; /* memory.init, memory.copy, table.init, table.copy */
    sp_wasm_u32(c);
    if (two) {
        sp_wasm_u32(c);
    }
    switch (op) {
    case 9:  /* data.drop */
    case 13: /* elem.drop */
        return SP_WASM_DROPS_SEGMENT;
    case 12: /* table.init */
    case 14: /* table.copy */
    case 15: /* table.grow */
    case 17: /* table.fill */
        return SP_WASM_CHANGES_TABLE;
    default:
        return SP_WASM_HARMLESS;
    }
}

/* Behind 0xfd: vectors. */
static sp_wasm_effect vector(sp_wasm_cursor *c) {
    uint32_t op = sp_wasm_u32(c);
    if (op <= 11 || op == 92 || op == 93) { /* loads and stores */
        skip_memarg(c);
    } else if (op == 12 || op == 13) { /* v128.const, i8x16.shuffle */
        sp_wasm_skip(c, 16);
    } else if (op >= 21 && op <= 34) { /* lanes */
        sp_wasm_skip(c, 1);
    } else if (op >= 84 && op <= 91) { /* lanes in memory */
        skip_memarg(c);
        sp_wasm_skip(c, 1);
    } else if (op > 275) {
        return unknown(c);
    }
    return SP_WASM_HARMLESS;
}

/* Behind 0xfe: atomics. */
static sp_wasm_effect atomic(sp_wasm_cursor *c) {
    uint32_t op = sp_wasm_u32(c);
    if (op == 3) {
        sp_wasm_skip(c, 1);
    } else if (op <= 2 || (op >= 0x10 && op <= 0x4e)) {
        skip_memarg(c);
    } else {
        return unknown(c);
    }
    return SP_WASM_HARMLESS;
}

static void skip_indices(sp_wasm_cursor *c, uint32_t n) {
    for (uint32_t i = 0; i < n && !c->bad; i++) {
        sp_wasm_skip_leb(c, 35);
    }
}

/* 0x00 to 0x26: control, calls, variables, tables. */
static sp_wasm_effect control(sp_wasm_cursor *c, uint8_t op, uint32_t *depth) {
    switch (op) {
    case 0x00: /* unreachable */
    case 0x01: /* nop */
    case 0x05: /* else */
    case 0x0f: /* return */
    case 0x1a: /* drop */
    case 0x1b: /* select */
        return SP_WASM_HARMLESS;
    case 0x02: /* block */
    case 0x03: /* loop */
    case 0x04: /* if */
        ++*depth;
        sp_wasm_skip_leb(c, 35);
        return SP_WASM_HARMLESS;
    case 0x0b: /* end */
        --*depth;
        return SP_WASM_HARMLESS;
    case 0x0c: /* br */
    case 0x0d: /* br_if */
    case 0x10: /* call */
    case 0x12: /* return_call */
    case 0x20: /* local.get */
    case 0x21: /* local.set */
    case 0x22: /* local.tee */
    case 0x23: /* global.get */
    case 0x24: /* global.set */
    case 0x25: /* table.get */
        sp_wasm_u32(c);
        return SP_WASM_HARMLESS;
    case 0x26: /* table.set */
        sp_wasm_u32(c);
        return SP_WASM_CHANGES_TABLE;
    case 0x11: /* call_indirect */
    case 0x13: /* return_call_indirect */
        skip_indices(c, 2);
        return SP_WASM_HARMLESS;
    case 0x0e: /* br_table */
        skip_indices(c, sp_wasm_u32(c));
        sp_wasm_u32(c);
        return SP_WASM_HARMLESS;
    case 0x1c: /* select with types */
        skip_indices(c, sp_wasm_u32(c));
        return SP_WASM_HARMLESS;
    default:
        return unknown(c);
    }
}

sp_wasm_effect sp_wasm_instruction(sp_wasm_cursor *c, uint32_t *depth) {
    uint8_t op = sp_wasm_byte(c);
    if (op <= 0x26) {
        return control(c, op, depth);
    }
    if (op >= 0x28 && op <= 0x3e) { /* loads and stores */
        skip_memarg(c);
    } else if (op == 0x3f || op == 0x40 || op == 0xd2) { /* memory.size, memory.grow, ref.func */
        sp_wasm_u32(c);
    } else if (op == 0x41 || op == 0xd0) { /* i32.const, ref.null */
        sp_wasm_skip_leb(c, 35);
    } else if (op == 0x42) { /* i64.const */
        sp_wasm_skip_leb(c, 64);
    } else if (op == 0x43 || op == 0x44) { /* f32.const, f64.const */
        sp_wasm_skip(c, op == 0x43 ? 4 : 8);
    } else if (op == 0xfc) {
        return bulk(c);
    } else if (op == 0xfd) {
        return vector(c);
    } else if (op == 0xfe) {
        return atomic(c);
    } else if ((op < 0x45 || op > 0xc4) && op != 0xd1) { /* arithmetic; ref.is_null */
        return unknown(c);
    }
    return SP_WASM_HARMLESS;
}

sp_wasm_effect sp_wasm_expression(sp_wasm_cursor *c) {
    uint32_t depth = 1;
    while (depth && !c->bad) {
        sp_wasm_effect effect = sp_wasm_instruction(c, &depth);
        if (effect != SP_WASM_HARMLESS) {
            return effect;
        }
    }
    return SP_WASM_HARMLESS;
}
