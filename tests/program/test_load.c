/* The first check: a valid program loads; each field spoilt, each truncation and each flipped bit gets an answer. */
#include "program/program_test.h"

/* Bytes of a program with everything in them, to be spoilt. */
typedef struct spoilt {
    _Alignas(8) uint8_t bytes[8192];
    uint32_t size;
    sp_program_header *header;
    sp_program_symbol *symbols;
    sp_program_expr *exprs;
    sp_program_slot *slots;
    sp_program_tensor *tensors;
    char *strings;
} spoilt;

enum { A, B, W, PRODUCT, VIEW, LAST }; /* its tensors */

static spoilt whole(void) {
    spoilt s;
    sp_graph g;
    sp_graph_init(&g);
    sp_expr n = sp_symbol(&g, "n", 1, 512);
    uint32_t in = sp_graph_slot(&g, "in", SP_SLOT_READ), out = sp_graph_slot(&g, "out", SP_SLOT_WRITE | SP_SLOT_OUTPUT);
    sp_graph_memory_2d(&g, "a", in, SP_TYPE_F32, sp_dim(64), n, sp_dim(0));
    sp_graph_memory_2d(&g, "b", out, SP_TYPE_F32, sp_dim(8), n, sp_dim(0));
    sp_graph_weight(&g, "0 64 8 1 1");
    sp_mul_mat(&g, W, A);
    sp_view_2d(&g, PRODUCT, sp_dim(8), n, sp_dim(32), sp_dim(0));
    sp_graph_into(&g, sp_scale(&g, VIEW, 2), B);
    s.size = sp_graph_finish(&g, s.bytes, sizeof s.bytes);
    assert_true(s.size > 0 && s.size <= sizeof s.bytes);
    sp_graph_free(&g);
    s.header = (void *)s.bytes;
    s.symbols = (void *)(s.header + 1);
    s.exprs = (void *)(s.symbols + s.header->n_symbols);
    s.slots = (void *)(s.exprs + s.header->n_exprs);
    s.tensors = (void *)(s.slots + s.header->n_slots);
    s.strings = (void *)(s.tensors + s.header->n_tensors);
    return s;
}

/* The pointers of a copy must point into the copy. */
#define FRESH(s)                                                                                                                                     \
    spoilt s = whole();                                                                                                                              \
    s.header = (void *)s.bytes;                                                                                                                      \
    s.symbols = (void *)(s.header + 1);                                                                                                              \
    s.exprs = (void *)(s.symbols + s.header->n_symbols);                                                                                             \
    s.slots = (void *)(s.exprs + s.header->n_exprs);                                                                                                 \
    s.tensors = (void *)(s.slots + s.header->n_slots);                                                                                               \
    s.strings = (void *)(s.tensors + s.header->n_tensors)

static void expect_refusal(const spoilt *s, sp_status status, const char *words) {
    sp_program *program = (sp_program *)s;
    sp_error err;
    assert_int_equal(sp_program_load(s->bytes, s->size, &described, &program, &err), status);
    assert_null(program);
    assert_int_equal(err.status, status);
    if (!strstr(err.message, words)) {
        fail_msg("says: %s; should say: %s", err.message, words);
    }
}

#define SPOIL(status, words, ...)                                                                                                                    \
    do {                                                                                                                                             \
        FRESH(s);                                                                                                                                    \
        __VA_ARGS__;                                                                                                                                 \
        expect_refusal(&s, status, words);                                                                                                           \
    } while (0)
#define FORMAT(words, ...) SPOIL(SP_ERR_FORMAT, words, __VA_ARGS__)

static void test_valid(void **state_) {
    (void)state_;
    FRESH(s);
    sp_program *program;
    sp_error err;
    assert_int_equal(sp_program_load(s.bytes, s.size, &described, &program, &err), SP_OK);
    memset(s.bytes, 0xee, s.size); /* it owns a copy */
    assert_int_equal(sp_program_get_header(program)->n_tensors, 6);
    assert_string_equal(sp_program_name(program, sp_program_symbols(program)[0].name), "n");
    assert_string_equal(sp_program_name(program, sp_program_slots(program)[1].name), "out");
    assert_string_equal(sp_program_name(program, SP_PROGRAM_NONE), "");
    assert_int_equal(sp_program_tensors(program)[PRODUCT].op, SP_OP_MUL_MAT);
    assert_int_equal(sp_program_exprs(program)[sp_program_tensors(program)[A].ne[0]].b, 64);
    sp_program_free(program);
    sp_program_free(NULL);
}

static void test_header(void **state_) {
    (void)state_;
    FORMAT("shorter than its header", s.size = 0);
    FORMAT("shorter than its header", s.size = 63);
    FORMAT("begin with SPRG", s.header->magic++);
    SPOIL(SP_ERR_UNSUPPORTED, "format version 2", s.header->version = 2);
    FORMAT("sizes do not fit", s.header->size += 8);
    FORMAT("sizes do not fit", s.header->strings_size++);
    FORMAT("sizes do not fit", s.header->reserved[6] = 1);
    FORMAT("flags are not known", s.header->flags = 2);
    FORMAT("do not add up", s.header->n_symbols++);
    FORMAT("do not add up", s.header->n_exprs++);
    FORMAT("do not add up", s.header->n_slots--);
    FORMAT("do not add up", s.header->n_tensors++);
    FORMAT("do not add up", s.header->strings_size = 0xfffffff8u);
    SPOIL(SP_ERR_LIMIT, "17 symbols", s.header->n_symbols = 17);
    SPOIL(SP_ERR_LIMIT, "1025 slots", s.header->n_slots = 1025);
    SPOIL(SP_ERR_LIMIT, "65537 tensors", s.header->n_tensors = 65537);
    SPOIL(SP_ERR_LIMIT, "0 tensors", s.header->n_tensors = 0);
    SPOIL(SP_ERR_LIMIT, "expressions", s.header->n_exprs = UINT32_MAX);
}

static void test_tables(void **state_) {
    (void)state_;
    FORMAT("symbol 0", s.symbols[0].name = SP_PROGRAM_NONE);
    FORMAT("symbol 0", s.symbols[0].name = s.header->strings_size);
    FORMAT("symbol 0", s.symbols[0].reserved = 1);
    FORMAT("symbol 0", s.symbols[0].min = 513);
    FORMAT("symbol 0", s.symbols[0].max = UINT64_C(1) << 31);
    FORMAT("symbol 0", s.strings[s.symbols[0].name] = 0);
    FORMAT("symbol 0", s.strings[s.symbols[0].name] = '\n');
    FORMAT("symbol 0", s.strings[s.symbols[0].name] = 0x7f);
    FORMAT("expression 0", s.exprs[0].symbol = 1);
    FORMAT("expression 0", s.exprs[0].reserved = 1);
    FORMAT("expression 0", s.exprs[0].a = 1); /* the constant 64 */
    FORMAT("slot 1", s.slots[1].flags = 0);
    FORMAT("slot 1", s.slots[1].flags = 16);
    FORMAT("slot 1", s.slots[1].flags = SP_SLOT_STATE);
    FORMAT("slot 1", s.slots[1].flags = SP_SLOT_READ | SP_SLOT_OUTPUT);
    FORMAT("slot 1", s.slots[1].name = SP_PROGRAM_NONE);
    FORMAT("two slots are called in", s.slots[1].name = s.slots[0].name);
}

static void test_tensor_fields(void **state_) {
    (void)state_;
    FORMAT("no such kind", s.tensors[W].kind = 0);
    FORMAT("no such kind", s.tensors[W].kind = 4);
    FORMAT("reserved", s.tensors[A].reserved = 1);
    FORMAT("reserved", s.tensors[A].reserved2[1] = 1);
    FORMAT("name lies outside", s.tensors[A].name = s.header->strings_size);
    FORMAT("name lies outside", s.tensors[A].name = s.header->strings_size - 1; s.strings[s.header->strings_size - 1] = 'x'); /* no end */
    FORMAT("no expression", s.tensors[A].ne[3] = s.header->n_exprs);
    FORMAT("no expression", s.tensors[VIEW].nb[2] = s.header->n_exprs);
    FORMAT("no expression", s.tensors[VIEW].offset = 0x80000000u);
    FORMAT("missing", s.tensors[A].ne[1] = SP_PROGRAM_NONE);
    FORMAT("missing", s.tensors[VIEW].nb[0] = SP_PROGRAM_NONE);
    FORMAT("not a tensor before it", s.tensors[PRODUCT].src[0] = PRODUCT);
    FORMAT("not a tensor before it", s.tensors[PRODUCT].src[0] = LAST);
    FORMAT("not a tensor before it", s.tensors[PRODUCT].src[2] = A);
    FORMAT("not a tensor before it", s.tensors[A].src[0] = A);
}

static void test_leaves(void **state_) {
    (void)state_;
    FORMAT("operation's fields", s.tensors[A].op = 1);
    FORMAT("operation's fields", s.tensors[A].n_src = 1);
    FORMAT("operation's fields", s.tensors[B].dst = A);
    FORMAT("operation's fields", s.tensors[W].params[15] = 1);
    FORMAT("no slot, type or shape", s.tensors[A].slot = 2);
    FORMAT("no slot, type or shape", s.tensors[A].type = 5);
    FORMAT("no slot, type or shape", memset(s.tensors[A].ne, 0xff, 16));
    FORMAT("no shape of its own", s.tensors[W].name = SP_PROGRAM_NONE);
    FORMAT("no shape of its own", s.tensors[W].type = 1);
    FORMAT("no shape of its own", memset(s.tensors[W].ne, 0, 16));
    FORMAT("no shape of its own", memset(s.tensors[W].nb, 0, 12));
    FORMAT("no shape of its own", s.tensors[W].offset = 0);
    SPOIL(SP_ERR_NOT_FOUND, "weight n of model 0", s.tensors[W].name = s.symbols[0].name);
    SPOIL(SP_ERR_NOT_FOUND, "of model 1", s.tensors[W].slot = 1);
    SPOIL(SP_ERR_UNSUPPORTED, "has type 5", s.strings[s.tensors[W].name] = '5');
    FRESH(s);
    sp_program *program;
    assert_int_equal(sp_program_load(s.bytes, s.size, NULL, &program, NULL), SP_ERR_NOT_FOUND);
    assert_null(program);
}

static void test_operations(void **state_) {
    (void)state_;
    FORMAT("no such operation", s.tensors[PRODUCT].op = 0);
    FORMAT("no such operation", s.tensors[PRODUCT].op = 58);
    FORMAT("no such operation", s.tensors[PRODUCT].op = 0xffff);
    FORMAT("number of sources", s.tensors[PRODUCT].n_src = 3);
    FORMAT("number of sources", s.tensors[VIEW].n_src = 0; s.tensors[VIEW].src[0] = SP_PROGRAM_NONE);
    FORMAT("number of sources", s.tensors[PRODUCT].slot = 1);
    FORMAT("a source is missing", s.tensors[PRODUCT].src[0] = SP_PROGRAM_NONE);
    FORMAT("does not take", s.tensors[PRODUCT].params[2] = 1);
    FORMAT("its operation takes", s.tensors[PRODUCT].type = 1);
    FORMAT("its operation takes", s.tensors[LAST].op = SP_OP_CAST; s.tensors[LAST].type = 5; s.tensors[LAST].params[0] = 0);
    FORMAT("its operation takes", memcpy(s.tensors[PRODUCT].ne, s.tensors[A].ne, 16));
    FORMAT("its operation takes", memset(s.tensors[VIEW].ne, 0xff, 16));
    FORMAT("its operation takes", s.tensors[PRODUCT].offset = 0);
    FORMAT("its operation takes", s.tensors[VIEW].op = SP_OP_RESHAPE);
    FORMAT("memory window before it", s.tensors[LAST].dst = LAST);
    FORMAT("memory window before it", s.tensors[LAST].dst = PRODUCT);
}

static void test_truncations(void **state_) {
    (void)state_;
    FRESH(s);
    const uint32_t size = s.size;
    for (uint32_t length = 0; length < size; length++) {
        sp_program *program;
        uint8_t *exact = malloc(length + 1); /* so that a sanitizer sees a byte too many */
        memcpy(exact, s.bytes, length);
        assert_int_not_equal(sp_program_load(exact, length, &described, &program, NULL), SP_OK);
        if (length >= sizeof(sp_program_header)) {
            ((sp_program_header *)exact)->size = length;
            assert_int_not_equal(sp_program_load(exact, length, &described, &program, NULL), SP_OK);
        }
        free(exact);
    }
}

/* Whatever a flipped bit makes of the program, each stage gives an answer. */
static void test_flipped_bits(void **state_) {
    (void)state_;
    FRESH(s);
    const uint64_t symbols[1] = {7};
    FILE *null = fopen("/dev/null", "w");
    uint32_t loaded = 0, accepted = 0;
    for (uint32_t bit = 0; bit < s.size * 8; bit++) {
        s.bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
        sp_program *program;
        sp_spec *spec;
        if (sp_program_load(s.bytes, s.size, &described, &program, NULL) == SP_OK) {
            loaded++;
            assert_int_equal(sp_program_print(program, null, NULL), SP_OK);
            if (sp_program_specialise(program, symbols, 1, NULL, &spec, NULL) == SP_OK) {
                accepted++;
                sp_spec_free(spec);
            }
            sp_program_free(program);
        }
        s.bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    fclose(null);
    assert_true(loaded > accepted && accepted > 0 && loaded < s.size * 8);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_valid),  cmocka_unit_test(test_header),     cmocka_unit_test(test_tables),      cmocka_unit_test(test_tensor_fields),
        cmocka_unit_test(test_leaves), cmocka_unit_test(test_operations), cmocka_unit_test(test_truncations), cmocka_unit_test(test_flipped_bits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
