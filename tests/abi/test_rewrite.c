/* The rewriter and the check of types on modules of a few bytes: what each instruction means for freezing, each section, each place where bytes can
 * end. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "abi/rewrite.h"

enum { MOST = 64 * 1024 };

typedef struct module {
    uint8_t bytes[MOST];
    size_t size;
} module;

static module begin(void) {
    static const uint8_t head[] = {0, 'a', 's', 'm', 1, 0, 0, 0};
    module m = {.size = sizeof head};
    memcpy(m.bytes, head, sizeof head);
    return m;
}

/* Sizes in five bytes, whatever they are. */
static void put_size(module *m, size_t n) {
    for (int i = 0; i < 5; i++) {
        m->bytes[m->size++] = (uint8_t)((n >> (7 * i) & 0x7f) | (i < 4 ? 0x80 : 0));
    }
}

static void section(module *m, uint8_t id, const void *content, size_t size) {
    m->bytes[m->size++] = id;
    put_size(m, size);
    memcpy(m->bytes + m->size, content, size);
    m->size += size;
}
#define SECTION(m, id, ...) section(m, id, (const uint8_t[]){__VA_ARGS__}, sizeof(const uint8_t[]){__VA_ARGS__})

static const uint8_t export_f[] = {1, 1, 'f', 0, 0};

/* What hinders freezing must have these words; NULL: nothing does. */
static void expect_module(const module *m, const char *words) {
    sp_rewritten out;
    sp_error err;
    assert_int_equal(sp_wasm_rewrite(m->bytes, m->size, &out, &err), SP_OK);
    if (out.freezable != !words || (words && !strstr(out.reason, words))) {
        fail_msg("says \"%s\"; should say \"%s\"", out.freezable ? "" : out.reason, words ? words : "");
    }
    free(out.bytes);
}

/* A module with one function whose body is these bytes, an end behind them. */
static void expect_code(const uint8_t *code, size_t size, const char *words) {
    module m = begin();
    uint8_t content[128] = {1, (uint8_t)(size + 2), 0};
    memcpy(content + 3, code, size);
    content[3 + size] = 0x0b;
    section(&m, 7, export_f, sizeof export_f);
    section(&m, 10, content, size + 4);
    expect_module(&m, words);
}
#define CODE(words, ...) expect_code((const uint8_t[]){__VA_ARGS__}, sizeof(const uint8_t[]){__VA_ARGS__}, words)

static void test_instructions(void **state) {
    (void)state;
    CODE(NULL, 0x01);                                                          /* nop */
    CODE(NULL, 0x02, 0x40, 0x0b);                                              /* a block */
    CODE(NULL, 0x0e, 1, 0, 0);                                                 /* br_table */
    CODE(NULL, 0x1c, 1, 0x7f);                                                 /* select with types */
    CODE(NULL, 0x11, 0, 0);                                                    /* call_indirect */
    CODE(NULL, 0x28, 2, 0);                                                    /* i32.load */
    CODE(NULL, 0x28, 0x42, 0, 0);                                              /* of another memory */
    CODE(NULL, 0x43, 0, 0, 0, 0);                                              /* f32.const */
    CODE(NULL, 0x44, 0, 0, 0, 0, 0, 0, 0, 0);                                  /* f64.const */
    CODE(NULL, 0x41, 0xff, 0x7f, 0x42, 0, 0xd0, 0x70);                         /* constants */
    CODE(NULL, 0xd2, 0, 0xd1, 0x3f, 0);                                        /* references, memory.size */
    CODE(NULL, 0xfc, 0, 0xfc, 8, 0, 0, 0xfc, 11, 0);                           /* saturating; memory.init, memory.fill */
    CODE(NULL, 0xfc, 16, 0, 0xfc, 10, 0, 0);                                   /* table.size, memory.copy */
    CODE(NULL, 0xfd, 0, 4, 0, 0xfd, 92, 2, 0);                                 /* v128.load, v128.load32_zero */
    CODE(NULL, 0xfd, 93, 3, 0, 0xfd, 84, 0, 0, 1);                             /* v128.load64_zero, v128.load8_lane */
    CODE(NULL, 0xfd, 21, 3, 0xfd, 0x93, 2);                                    /* i8x16.extract_lane_s; the last one there is, 275 */
    CODE(NULL, 0xfd, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);      /* v128.const */
    CODE(NULL, 0xfe, 3, 0, 0xfe, 0, 2, 0, 0xfe, 0x10, 2, 0, 0xfe, 0x4e, 2, 0); /* fence, notify, load, the last one */
    CODE("changes a table", 0x26, 0);
    CODE("changes a table", 0xfc, 12, 0, 0);
    CODE("changes a table", 0xfc, 14, 0, 0);
    CODE("changes a table", 0xfc, 15, 0);
    CODE("changes a table", 0xfc, 17, 0);
    CODE("drops a segment", 0xfc, 9, 0);
    CODE("drops a segment", 0xfc, 13, 0);
    CODE("not known", 0xfc, 18);
    CODE("not known", 0xfd, 0x94, 2);
    CODE("not known", 0xfe, 4);
    CODE("not known", 0xfe, 0x4f);
    CODE("not known", 0x06);
    CODE("not known", 0x27);
    CODE("not known", 0xc5);
    CODE("not known", 0x0b);                               /* an end too many */
    CODE("not known", 0xfc, 0xff, 0xff, 0xff, 0xff, 0x7f); /* a number of more than 32 bits */
    CODE("not known", 0x41, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff);
}

static void test_imports(void **state) {
    (void)state;
    module m = begin();
    /* a.b: a function, a table from 1 to 2 and one from 1, a memory from 1 to 2, a global that stays, a tag */
    SECTION(&m, 2, 5, 1, 'a', 1, 'b', 0, 0, 1, 'a', 1, 'b', 1, 0x70, 1, 1, 2, 1, 'a', 1, 'b', 1, 0x70, 0, 1, 1, 'a', 1, 'b', 2, 1, 1, 2, 1, 'a', 1,
            'b', 3, 0x7f, 0);
    section(&m, 7, export_f, sizeof export_f);
    expect_module(&m, NULL);
    m = begin();
    SECTION(&m, 2, 1, 1, 'a', 1, 'b', 3, 0x7f, 1);
    section(&m, 7, export_f, sizeof export_f);
    expect_module(&m, "global");
    m = begin();
    SECTION(&m, 2, 1, 1, 'a', 1, 'b', 4, 0, 0);
    section(&m, 7, export_f, sizeof export_f);
    expect_module(&m, "imports can't be followed");
}

static void test_globals(void **state) {
    (void)state;
    static uint8_t content[5 + 5 * 4098] = {0x82, 0x20}; /* 4,098 of them */
    for (int i = 0; i < 4098; i++) {
        memcpy(content + 2 + 5 * i, (const uint8_t[]){0x7f, 1, 0x41, 0, 0x0b}, 5);
    }
    module m = begin();
    section(&m, 6, content, 2 + 5 * 4098);
    section(&m, 7, export_f, sizeof export_f);
    expect_module(&m, "more than 4096 mutable globals");
    m = begin();
    content[0] = 0x81, content[1] = 0x1f; /* 3,969: all are exported */
    section(&m, 6, content, 2 + 5 * 3969);
    section(&m, 7, export_f, sizeof export_f);
    expect_module(&m, NULL);
    m = begin();
    SECTION(&m, 6, 1, 0x70, 1, 0xd0, 0x70, 0x0b);
    section(&m, 7, export_f, sizeof export_f);
    expect_module(&m, "holds a reference");
    m = begin();
    SECTION(&m, 6, 2, 0x70, 0, 0xd0, 0x70, 0x0b); /* one that stays, and one that is not there */
    section(&m, 7, export_f, sizeof export_f);
    expect_module(&m, "globals can't be followed");
}

static void test_sections(void **state) {
    (void)state;
    static const uint8_t name[] = "\x01samepage.global.0";
    module m = begin();
    expect_module(&m, "it exports nothing");
    uint8_t content[64] = {1, sizeof name - 1};
    memcpy(content + 2, name, sizeof name - 1);
    content[1 + sizeof name] = 3;
    section(&m, 7, content, 3 + sizeof name);
    expect_module(&m, "a name that samepage uses");
    m = begin(); /* what hinders first is told */
    uint8_t twice[64] = {2};
    memcpy(twice + 1, content + 1, 2 + sizeof name);
    memcpy(twice + 3 + sizeof name, content + 1, 2 + sizeof name);
    section(&m, 7, twice, 1 + 2 * (2 + sizeof name));
    expect_module(&m, "export 0 has a name that samepage uses");
    m = begin();
    section(&m, 7, export_f, sizeof export_f);
    SECTION(&m, 10, 2, 5, 0, 0xfc, 9, 0, 0x0b, 5, 0, 0xfc, 9, 0, 0x0b);
    expect_module(&m, "function 0 drops a segment");
    m = begin();
    SECTION(&m, 7, 1, 1, 'f', 0, 0, 0);
    expect_module(&m, "exports can't be followed");
    m = begin();
    SECTION(&m, 5, 2, 0, 1, 0, 1);
    section(&m, 7, export_f, sizeof export_f);
    expect_module(&m, "several memories");
    m = begin();
    SECTION(&m, 8, 0);
    section(&m, 7, export_f, sizeof export_f);
    expect_module(&m, "start function");
}

/* However many bytes there are of a module, something is said, and nothing beyond them is read (ASan looks). */
static void test_ends(void **state) {
    (void)state;
    module m = begin();
    SECTION(&m, 1, 1, 0x60, 1, 0x7f, 0);
    SECTION(&m, 2, 1, 1, 'a', 1, 'b', 1, 0x70, 1, 1, 2);
    SECTION(&m, 6, 1, 0x7f, 1, 0x41, 0, 0x0b);
    section(&m, 7, export_f, sizeof export_f);
    SECTION(&m, 10, 1, 4, 1, 1, 0x7f, 0x0b);
    for (size_t size = 0; size <= m.size; size++) {
        uint8_t *bytes = malloc(size ? size : 1);
        memcpy(bytes, m.bytes, size);
        sp_rewritten out;
        sp_error err;
        assert_int_equal(sp_wasm_rewrite(bytes, size, &out, &err), SP_OK);
        assert_true(out.freezable || out.reason[0]);
        /* Without its code a module is one too. */
        assert_int_equal(out.freezable, size == m.size || size == m.size - 12);
        free(out.bytes);
        sp_wasm_check_types(bytes, size, &err);
        free(bytes);
    }
}

static void expect_types(const uint8_t *content, size_t size, const char *words) {
    module m = begin();
    sp_error err = {0};
    section(&m, 1, content, size);
    section(&m, 7, export_f, sizeof export_f);
    const sp_status status = sp_wasm_check_types(m.bytes, m.size, &err);
    if (status != (words ? SP_ERR_UNSUPPORTED : SP_OK) || (words && !strstr(err.message, words))) {
        fail_msg("says \"%s\"; should say \"%s\"", err.message, words ? words : "");
    }
}
#define TYPES(words, ...) expect_types((const uint8_t[]){__VA_ARGS__}, sizeof(const uint8_t[]){__VA_ARGS__}, words)

static void test_types(void **state) {
    (void)state;
    TYPES(NULL, 0);
    TYPES(NULL, 2, 0x60, 2, 0x7f, 0x7e, 1, 0x7d, 0x60, 0, 0);
    TYPES(NULL, 1, 0x60, 2, 0x63, 0x70, 0x64, 0, 0); /* references to types */
    TYPES("type 0 is no plain function's", 1, 0x50, 0, 0x60, 0, 0);
    TYPES("type 1 is no plain function's", 2, 0x60, 0, 0, 0x5f, 0);
    TYPES("types can't be followed", 1, 0x60, 0);
    TYPES("types can't be followed", 1, 0x60, 0, 0, 0);
    TYPES("types can't be followed", 1, 0x60, 2, 0x7f);
    TYPES("types can't be followed", 2, 0x60, 5, 0x7f);
    module m = begin();
    sp_error err = {0};
    m.bytes[m.size++] = 1;
    put_size(&m, 100); /* more than there is */
    assert_int_equal(sp_wasm_check_types(m.bytes, m.size, &err), SP_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.message, "sections can't be followed"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_instructions), cmocka_unit_test(test_imports), cmocka_unit_test(test_globals),
        cmocka_unit_test(test_sections),     cmocka_unit_test(test_ends),    cmocka_unit_test(test_types),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
