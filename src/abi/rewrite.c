/* See rewrite.h. Sections are passed over in the order in which they come; only the export section is written anew. */
#include "abi/rewrite.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "abi/wasm_code.h"
#include "base/error.h"

enum { TYPE = 1, IMPORT = 2, MEMORY = 5, GLOBAL = 6, EXPORT = 7, START = 8, CODE = 10 };
enum { MAX_GLOBALS = 4096 }; /* mutable ones; a commit holds them all */

typedef struct scan {
    const uint8_t *start;
    sp_rewritten *out;
    uint32_t n_imported_functions, n_imported_globals, n_exports;
    uint32_t globals[MAX_GLOBALS]; /* indices of the mutable ones */
    const uint8_t *export_section; /* its id byte; NULL: there is none */
    sp_wasm_cursor exports;        /* behind the count */
    const uint8_t *export_end;
} scan;

/* Notes the first reason against freezing. */
#define refuse(s, ...)                                                                                                                               \
    do {                                                                                                                                             \
        if ((s)->out->freezable) {                                                                                                                   \
            snprintf((s)->out->reason, sizeof(s)->out->reason, __VA_ARGS__);                                                                         \
            (s)->out->freezable = false;                                                                                                             \
        }                                                                                                                                            \
    } while (0)

static bool is_number(uint8_t type) {
    return type >= 0x7b && type <= 0x7f; /* v128, f64, f32, i64, i32 */
}

static void skip_limits(sp_wasm_cursor *c) {
    uint8_t flags = sp_wasm_byte(c);
    sp_wasm_skip_leb(c, 64);
    if (flags & 1) {
        sp_wasm_skip_leb(c, 64);
    }
}

static void read_imports(scan *s, sp_wasm_cursor c) {
    uint32_t n = sp_wasm_u32(&c);
    for (uint32_t i = 0; i < n && !c.bad; i++) {
        sp_wasm_skip(&c, sp_wasm_u32(&c));
        sp_wasm_skip(&c, sp_wasm_u32(&c));
        switch (sp_wasm_byte(&c)) {
        case 0:
            sp_wasm_u32(&c);
            s->n_imported_functions++;
            break;
        case 1:
            sp_wasm_byte(&c);
            skip_limits(&c);
            break;
        case 2:
            skip_limits(&c);
            break;
        case 3:
            sp_wasm_byte(&c);
            if (sp_wasm_byte(&c)) {
                refuse(s, "it imports a mutable global (import %u)", i);
            }
            s->n_imported_globals++;
            break;
        default:
            c.bad = true;
        }
    }
    if (c.bad) {
        refuse(s, "its imports can't be followed");
    }
}

static void read_globals(scan *s, sp_wasm_cursor c) {
    uint32_t n = sp_wasm_u32(&c);
    for (uint32_t i = 0; i < n && !c.bad; i++) {
        uint8_t type = sp_wasm_byte(&c), mutable = sp_wasm_byte(&c);
        uint32_t index = s->n_imported_globals + i;
        if (!is_number(type) && mutable) {
            refuse(s, "its mutable global %u holds a reference", index);
        } else if (mutable && s->out->n_globals == MAX_GLOBALS) {
            refuse(s, "it has more than %d mutable globals", MAX_GLOBALS);
        } else if (mutable) {
            s->globals[s->out->n_globals++] = index;
        }
        sp_wasm_expression(&c);
    }
    if (c.bad) {
        refuse(s, "its globals can't be followed");
    }
}

static void read_exports(scan *s, sp_wasm_cursor c) {
    s->n_exports = sp_wasm_u32(&c);
    s->exports = c;
    for (uint32_t i = 0; i < s->n_exports && !c.bad; i++) {
        uint32_t length = sp_wasm_u32(&c);
        sp_wasm_cursor name = sp_wasm_part(&c, length);
        if (!c.bad && length >= strlen(SP_GLOBAL_EXPORT) && memcmp(name.at, SP_GLOBAL_EXPORT, strlen(SP_GLOBAL_EXPORT)) == 0) {
            refuse(s, "its export %u has a name that samepage uses", i);
        }
        sp_wasm_byte(&c);
        sp_wasm_u32(&c);
    }
    if (c.bad || c.at != c.end) {
        refuse(s, "its exports can't be followed");
    }
}

static void read_body(scan *s, sp_wasm_cursor c, uint32_t function) {
    uint32_t n = sp_wasm_u32(&c);
    for (uint32_t i = 0; i < n && !c.bad; i++) {
        sp_wasm_u32(&c);
        sp_wasm_skip_leb(&c, 35);
    }
    sp_wasm_effect effect = sp_wasm_expression(&c);
    size_t at = (size_t)(c.at - s->start);
    if (effect == SP_WASM_CHANGES_TABLE) {
        refuse(s, "function %u changes a table (before byte %zu)", function, at);
    } else if (effect == SP_WASM_DROPS_SEGMENT) {
        refuse(s, "function %u drops a segment (before byte %zu)", function, at);
    } else if (c.bad || c.at != c.end) {
        refuse(s, "function %u has an instruction that is not known (before byte %zu)", function, at);
    }
}

static void read_code(scan *s, sp_wasm_cursor c) {
    uint32_t n = sp_wasm_u32(&c);
    for (uint32_t i = 0; i < n && !c.bad; i++) {
        uint32_t size = sp_wasm_u32(&c);
        sp_wasm_cursor body = sp_wasm_part(&c, size);
        if (!c.bad) {
            read_body(s, body, s->n_imported_functions + i);
        }
    }
    if (c.bad) {
        refuse(s, "its code can't be followed");
    }
}

static void read_sections(scan *s, sp_wasm_cursor c) {
    while (!c.bad && c.at != c.end) {
        const uint8_t *start = c.at;
        uint8_t id = sp_wasm_byte(&c);
        uint32_t size = sp_wasm_u32(&c);
        sp_wasm_cursor part = sp_wasm_part(&c, size), count = part;
        if (c.bad) {
            break;
        }
        switch (id) {
        case IMPORT:
            read_imports(s, part);
            break;
        case MEMORY:
            if (sp_wasm_u32(&count) > 1) {
                refuse(s, "it has several memories");
            }
            break;
        case GLOBAL:
            read_globals(s, part);
            break;
        case EXPORT:
            s->export_section = start;
            s->export_end = part.end;
            read_exports(s, part);
            break;
        case START:
            refuse(s, "it has a start function, which would run again at each thaw (make it _initialize)");
            break;
        case CODE:
            read_code(s, part);
            break;
        default:
            break;
        }
    }
    if (c.bad) {
        refuse(s, "its sections can't be followed");
    }
    if (!s->export_section) {
        refuse(s, "it exports nothing");
    }
}

/* ---- writing ---- */

static size_t put_u32(uint8_t *out, uint32_t value) {
    size_t n = 0;
    do {
        out[n] = (uint8_t)((value & 0x7f) | (value > 0x7f ? 0x80 : 0));
        value >>= 7;
        n++;
    } while (value);
    return n;
}

/* The module with a longer export section. */
static sp_status write_module(const scan *s, const uint8_t *bytes, size_t size, sp_error *err) {
    size_t old = (size_t)(s->exports.end - s->exports.at), most = old + 5 + s->out->n_globals * (sizeof SP_GLOBAL_EXPORT + 10 + 1 + 1 + 5);
    uint8_t *content = malloc(most), *module = malloc(size + most + 6);
    if (!content || !module) {
        free(content);
        free(module);
        return sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    }
    size_t n = put_u32(content, s->n_exports + s->out->n_globals);
    memcpy(content + n, s->exports.at, old);
    n += old;
    for (uint32_t i = 0; i < s->out->n_globals; i++) {
        int length = sprintf((char *)content + n + 1, SP_GLOBAL_EXPORT "%u", i);
        content[n] = (uint8_t)length; /* below 128: one byte */
        n += 1 + (size_t)length;
        content[n++] = 3; /* a global */
        n += put_u32(content + n, s->globals[i]);
    }
    size_t before = (size_t)(s->export_section - bytes), at = before, behind = (size_t)(bytes + size - s->export_end);
    memcpy(module, bytes, before);
    module[at++] = EXPORT;
    at += put_u32(module + at, (uint32_t)n);
    memcpy(module + at, content, n);
    at += n;
    memcpy(module + at, s->export_end, behind);
    free(content);
    s->out->bytes = module;
    s->out->size = at + behind;
    return SP_OK;
}

sp_status sp_wasm_rewrite(const uint8_t *bytes, size_t size, sp_rewritten *out, sp_error *err) {
    *out = (sp_rewritten){.freezable = true};
    scan *s = calloc(1, sizeof *s);
    if (!s) {
        return sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    }
    s->start = bytes;
    s->out = out;
    sp_wasm_cursor c = {bytes, bytes + size, false};
    sp_wasm_skip(&c, 8); /* magic and version */
    read_sections(s, c);
    sp_status status = out->freezable && out->n_globals ? write_module(s, bytes, size, err) : SP_OK;
    free(s);
    return status;
}

/* ---- types ---- */

static void skip_value_types(sp_wasm_cursor *c) {
    uint32_t n = sp_wasm_u32(c);
    for (uint32_t i = 0; i < n && !c->bad; i++) {
        const uint8_t kind = sp_wasm_byte(c);
        if (kind == 0x63 || kind == 0x64) { /* (ref null? ...) */
            sp_wasm_skip_leb(c, 33);
        }
    }
}

static sp_status check_type_section(sp_wasm_cursor c, sp_error *err) {
    const uint32_t n = sp_wasm_u32(&c);
    for (uint32_t i = 0; i < n && !c.bad; i++) {
        if (sp_wasm_byte(&c) != 0x60) {
            return sp_fail(err, SP_ERR_UNSUPPORTED, "the module's type %u is no plain function's: the GC proposal is not supported", i);
        }
        skip_value_types(&c);
        skip_value_types(&c);
    }
    return !c.bad && c.at == c.end ? SP_OK : sp_fail(err, SP_ERR_UNSUPPORTED, "the module's types can't be followed");
}

sp_status sp_wasm_check_types(const uint8_t *bytes, size_t size, sp_error *err) {
    sp_wasm_cursor c = {bytes, bytes + size, false};
    sp_status status = SP_OK;
    sp_wasm_skip(&c, 8); /* magic and version */
    while (status == SP_OK && !c.bad && c.at != c.end) {
        const uint8_t id = sp_wasm_byte(&c);
        const uint32_t length = sp_wasm_u32(&c);
        sp_wasm_cursor part = sp_wasm_part(&c, length);
        if (id == TYPE && !c.bad) {
            status = check_type_section(part, err);
        }
    }
    return status || !c.bad ? status : sp_fail(err, SP_ERR_UNSUPPORTED, "the module's sections can't be followed");
}
