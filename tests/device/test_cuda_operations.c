/* Every operation of programs on the CUDA device, against the CPU device, over shapes that change from case to case. */
#define DEVICE_TEST_REGION (8 << 20) /* room for the largest case that may be drawn */
#include "device_test.h"
#include "memory/os.h"

static const uint32_t all_types[] = {SP_TYPE_F32,   SP_TYPE_F16,     SP_TYPE_BF16,   SP_TYPE_Q4_0,    SP_TYPE_Q4_1,  SP_TYPE_Q5_0,
                                     SP_TYPE_Q5_1,  SP_TYPE_Q8_0,    SP_TYPE_Q2_K,   SP_TYPE_Q3_K,    SP_TYPE_Q4_K,  SP_TYPE_Q5_K,
                                     SP_TYPE_Q6_K,  SP_TYPE_IQ2_XXS, SP_TYPE_IQ2_XS, SP_TYPE_IQ3_XXS, SP_TYPE_IQ1_S, SP_TYPE_IQ4_NL,
                                     SP_TYPE_IQ3_S, SP_TYPE_IQ2_S,   SP_TYPE_IQ4_XS, SP_TYPE_IQ1_M,   SP_TYPE_MXFP4};
enum { N_TYPES = sizeof all_types / sizeof all_types[0] };

/* A few results may all be small by chance, by what cancels out in their sums: their error, which does not, is large for them. */
enum { LEAST_ROWS = 20 };

/* What ggml's CPU backend itself rounds: it turns the right side of a product into 8 bits where weights are quantised, into halves where they are
 * halves. */
static double product_tolerance(uint32_t type) {
    return type == SP_TYPE_F32 || type == SP_TYPE_F16 ? 1e-6 : 1e-4;
}

static void test_products(void **state) {
    graph_case c;
    for (int i = 0; i < N_TYPES; i++) {
        for (int columns = 1; columns <= 19; columns += 6) {
            char name[64];
            snprintf(name, sizeof name, "mul_mat %s, %d columns", sp_type_get(all_types[i])->name, columns);
            begin_case(&c, name, product_tolerance(all_types[i]));
            int64_t n0 = 256 * random_int(1, 3), n1 = random_int(LEAST_ROWS, 70);
            result(&c, sp_mul_mat(&c.g, model_weight(&c, all_types[i], n0, n1, 1), numbers(&c, SP_TYPE_F32, n0, columns, 1, 1)), SP_TYPE_F32, n1,
                   columns, 1, 1);
            compare(state, &c);
        }
    }
}

/* Rows that are longer than what comes at once: whole or by slices; two matrices, whose results gate each other, one with a residual, one behind a
 * norm. */
static void test_long_rows(void **state) {
    graph_case c;
    static const int64_t lengths[] = {8448, 10752, 11008, 12288, 14336, 16384, 21504};
    static const uint32_t types[] = {SP_TYPE_F16, SP_TYPE_Q4_0, SP_TYPE_Q8_0};
    enum { LENGTHS = sizeof lengths / sizeof lengths[0], CASES = 5 };
    const bool card = is_card();
    for (int i = 0; i < LENGTHS * CASES; i++) {
        const int kind = i % CASES;
        const uint32_t type = types[kind < 3 ? 0 : kind - 2], gated = kind == 0;
        char name[64];
        int64_t n0 = lengths[i / CASES],
                n1 = card && kind == 1 && n0 == 14336 ? 5000 /* more of a block than have sums at once */ : random_int(LEAST_ROWS, 300);
        snprintf(name, sizeof name, "long rows, %s, %lld elements, case %d", sp_type_get(type)->name, (long long)n0, kind);
        begin_case(&c, name, product_tolerance(type));
        sp_graph *g = &c.g;
        sp_tensor x = numbers(&c, SP_TYPE_F32, n0, 1, 1, 1), both[2];
        if (kind == 2) {
            x = sp_graph_op2(g, SP_OP_MUL, sp_rms_norm(g, x, 1e-5f), model_weight(&c, SP_TYPE_F32, n0, 1, 1));
        }
        for (int m = 0; m < 2; m++) {
            both[m] = sp_mul_mat(g, model_weight(&c, type, n0, n1, 1), m && !gated ? sp_scale(g, x, 0.5f) : x);
        }
        uint32_t swapped = 0;
        result(&c, gated ? sp_graph_op(g, SP_OP_SWIGLU, 2, both, 1, &swapped) : sp_graph_op2(g, SP_OP_ADD, both[0], both[1]), SP_TYPE_F32, n1, 1, 1,
               1);
        compare(state, &c);
    }
    static const int64_t longer[] = {10752, 14336, 24832};
    for (int i = 0; i < 6; i++) {
        int64_t n0 = longer[i / 2], n1 = random_int(1, 70), columns = random_int(2, 15);
        begin_case(&c, "long rows, some columns", product_tolerance(types[i % 3]));
        sp_tensor x = numbers(&c, SP_TYPE_F32, n0, columns, 1, 1), product = sp_mul_mat(&c.g, model_weight(&c, types[i % 3], n0, n1, 1), x);
        result(&c, sp_graph_op2(&c.g, SP_OP_ADD, product, numbers(&c, SP_TYPE_F32, n1, columns, 1, 1)), SP_TYPE_F32, n1, columns, 1, 1);
        compare(state, &c);
    }
}

/* Many columns, with what products by tiles take in and share: their right side, made halves once; what comes before it; a residual. */
static void test_tiles(void **state) {
    graph_case c;
    static const uint32_t types[] = {SP_TYPE_F16, SP_TYPE_Q4_0, SP_TYPE_Q8_0, SP_TYPE_BF16, SP_TYPE_Q4_K, SP_TYPE_IQ4_XS};
    enum { CASES = 30 };
    for (int i = 0; i < CASES; i++) {
        char name[64];
        uint32_t type = types[i % 6], swapped = 0;
        snprintf(name, sizeof name, "products by tiles, %s, case %d", sp_type_get(type)->name, i);
        begin_case(&c, name, 4 * product_tolerance(type)); /* squares have twice the error */
        int64_t n0 = 256 * random_int(1, i < 6 ? 9 : 3), n1 = random_int(1, 300), columns = random_int(16, i % 2 ? 300 : 70);
        sp_graph *g = &c.g;
        sp_tensor x = numbers(&c, SP_TYPE_F32, n0, columns, 1, 1);
        if (i / 6 == 1) { /* more than halves hold, unless the CPU makes it halves itself */
            x = sp_scale(g, x, type == SP_TYPE_F16 ? 1e4f : 5e6f);
        } else if (i / 6 == 2) {
            x = sp_graph_op2(g, SP_OP_MUL, sp_rms_norm(g, x, 1e-5f), model_weight(&c, SP_TYPE_F32, n0, 1, 1));
        } else if (i / 6 == 3) {
            sp_tensor both[2] = {x, numbers(&c, SP_TYPE_F32, n0, columns, 1, 1)};
            x = sp_graph_op(g, i % 2 ? SP_OP_SWIGLU : SP_OP_GEGLU, 2, both, 1, &swapped);
        }
        sp_tensor y = sp_mul_mat(g, model_weight(&c, type, n0, n1, 1), x), z = sp_mul_mat(g, model_weight(&c, type, n0, n1, 1), x);
        sp_tensor pair[2] = {y, z}, squares = sp_graph_op2(g, SP_OP_MUL, z, z);
        result(&c, i / 6 == 4 ? sp_graph_op(g, SP_OP_SWIGLU, 2, pair, 1, &swapped) : sp_graph_op2(g, SP_OP_ADD, y, squares), SP_TYPE_F32, n1, columns,
               1, 1);
        compare(state, &c);
    }
}

/* Short rows, of a card more to a block than have sums at once; alone, and of two matrices whose results gate each other. */
static void test_many_rows(void **state) {
    graph_case c;
    static const uint32_t types[] = {SP_TYPE_F16, SP_TYPE_Q4_0, SP_TYPE_Q8_0};
    const bool card = is_card();
    for (int i = 0; i < 6; i++) {
        const uint32_t type = types[i % 3], swapped = 0;
        const int64_t n0 = 2048, n1 = !card ? 150 : i < 3 ? 36000 : 18000;
        begin_case(&c, "many rows", (i < 3 ? 1 : 4) * product_tolerance(type)); /* what gates has an error, too */
        sp_tensor x = numbers(&c, SP_TYPE_F32, n0, 1, 1, 1), both[2] = {0};
        for (int m = 0; m < 1 + i / 3; m++) {
            both[m] = sp_mul_mat(&c.g, model_weight(&c, type, n0, n1, 1), x);
        }
        result(&c, i < 3 ? both[0] : sp_graph_op(&c.g, SP_OP_SWIGLU, 2, both, 1, &swapped), SP_TYPE_F32, n1, 1, 1, 1);
        compare(state, &c);
    }
}

/* A product that ends in its largest result, which joins it. */
static void test_largest(void **state) {
    graph_case c;
    static const uint32_t types[] = {SP_TYPE_F16, SP_TYPE_Q4_0, SP_TYPE_Q8_0, SP_TYPE_F32};
    for (int i = 0; i < 12; i++) {
        begin_case(&c, "a product and its largest", product_tolerance(types[i % 4]));
        int64_t n0 = 256 * random_int(1, 4), n1 = i < 4 ? random_int(1, 30) : random_int(300, 3000);
        sp_tensor logits = add_window(&c, OUT, SP_TYPE_F32, n1, 1, 1, 1), largest = add_window(&c, OUT, SP_TYPE_I32, 1, 1, 1, 1);
        sp_tensor y = sp_mul_mat(&c.g, model_weight(&c, types[i % 4], n0, n1, 1), numbers(&c, SP_TYPE_F32, n0, 1, 1, 1));
        sp_tensor chosen = sp_argmax(&c.g, sp_graph_into(&c.g, y, logits));
        if (i < 8) {
            sp_graph_into(&c.g, chosen, largest);
        } else { /* not where others wait for it */
            sp_cpy(&c.g, chosen, largest);
        }
        compare(state, &c);
    }
}

/* So many tiles that a block of a card has several; in the last two cases several blocks share one, or one of those that are left where all have had
 * some. The emulated device gets few. Of the result some columns are looked at. */
static void test_many_tiles(void **state) {
    graph_case c;
    static const uint32_t types[] = {SP_TYPE_F16, SP_TYPE_Q4_0, SP_TYPE_Q8_0, SP_TYPE_F16, SP_TYPE_Q4_0, SP_TYPE_Q8_0, SP_TYPE_Q4_0, SP_TYPE_F16};
    enum { APART = 17, CASES = 8 };
    const bool card = is_card();
    for (int i = 0; i < CASES; i++) {
        char name[64];
        uint32_t type = types[i], swapped = 0;
        snprintf(name, sizeof name, "many tiles, %s, case %d", sp_type_get(type)->name, i);
        begin_case(&c, name, 4 * product_tolerance(type));
        int64_t n0 = i < 6  ? 256
                     : card ? 5120
                            : 1024,
                n1 = !card   ? 150
                     : i < 3 ? 8410
                     : i < 6 ? 4210
                     : i < 7 ? 2110
                             : 4810,
                columns = card ? 500 : 140;
        sp_graph *g = &c.g;
        sp_tensor x = sp_mul_mat(g, model_weight(&c, SP_TYPE_F32, 32, n0, 1), numbers(&c, SP_TYPE_F32, 32, columns, 1, 1));
        sp_tensor pair[2] = {sp_mul_mat(g, model_weight(&c, type, n0, n1, 1), x)}, y = pair[0];
        if (i < 6) {
            pair[1] = sp_mul_mat(g, model_weight(&c, type, n0, n1, 1), x);
            y = i < 3 ? sp_graph_op2(g, SP_OP_ADD, pair[0], pair[1]) : sp_graph_op(g, SP_OP_SWIGLU, 2, pair, 1, &swapped);
        }
        y = sp_view_2d(g, y, sp_dim(n1), sp_dim(columns / APART), sp_dim(n1 * APART * 4), sp_dim(0));
        result(&c, y, SP_TYPE_F32, n1, columns / APART, 1, 1);
        compare(state, &c);
    }
}

static void test_batched_products(void **state) {
    graph_case c;
    static const uint32_t types[] = {SP_TYPE_F32, SP_TYPE_F16, SP_TYPE_Q8_0, SP_TYPE_Q4_0};
    for (int i = 0; i < 4; i++) {
        begin_case(&c, "mul_mat in batches", product_tolerance(types[i]));
        int64_t n0 = 32 * random_int(1, 5), n1 = random_int(1, 20), n = random_int(1, 12);
        result(&c, sp_mul_mat(&c.g, numbers(&c, types[i], n0, n1, 2, 3), numbers(&c, SP_TYPE_F32, n0, n, 4, 3)), SP_TYPE_F32, n1, n, 4, 3);
        compare(state, &c);
    }
    begin_case(&c, "mul_mat f16 f16", 1e-6);
    result(&c, sp_mul_mat(&c.g, numbers(&c, SP_TYPE_F16, 72, 5, 1, 1), numbers(&c, SP_TYPE_F16, 72, 7, 1, 1)), SP_TYPE_F32, 5, 7, 1, 1);
    compare(state, &c);
    begin_case(&c, "mul_mat of a view", 1e-6);
    sp_tensor b = sp_permute(&c.g, numbers(&c, SP_TYPE_F32, 64, 3, 5, 1), 0, 2, 1, 3);
    result(&c, sp_mul_mat(&c.g, numbers(&c, SP_TYPE_F32, 64, 9, 1, 1), b), SP_TYPE_F32, 9, 5, 3, 1);
    compare(state, &c);
}

static void test_experts(void **state) {
    graph_case c;
    for (int i = 0; i < N_TYPES; i++) {
        begin_case(&c, sp_type_get(all_types[i])->name, product_tolerance(all_types[i]));
        int64_t n0 = 256, n1 = random_int(LEAST_ROWS, 40), tokens = random_int(1, 5), used = random_int(1, 4);
        int64_t b1 = i % 2 ? used : 1;
        sp_tensor as = model_weight(&c, all_types[i], n0, n1, 8), b = numbers(&c, SP_TYPE_F32, n0, b1, tokens, 1);
        result(&c, sp_mul_mat_id(&c.g, as, b, row_ids(&c, SP_TYPE_I32, used, tokens, 1, 8, true)), SP_TYPE_F32, n1, used, tokens, 1);
        compare(state, &c);
    }
    begin_case(&c, "experts by top_k", 1e-6);
    sp_tensor score = sp_clamp(&c.g, numbers(&c, SP_TYPE_F32, 8, 3, 1, 1), -INFINITY, INFINITY);
    c.windows[0].distinct = true; /* the order of equal ones is anybody's */
    sp_tensor ids = sp_argsort(&c.g, score, 1), first = sp_view_2d(&c.g, ids, sp_dim(2), sp_dim(3), sp_dim(32), sp_dim(0));
    result(&c, sp_mul_mat_id(&c.g, model_weight(&c, SP_TYPE_F32, 64, 10, 8), numbers(&c, SP_TYPE_F32, 64, 1, 3, 1), first), SP_TYPE_F32, 10, 2, 3, 1);
    compare(state, &c);
}

static void test_arithmetic(void **state) {
    graph_case c;
    static const uint32_t ops[] = {SP_OP_ADD, SP_OP_SUB, SP_OP_MUL, SP_OP_DIV};
    static const uint32_t types[][2] = {
        {SP_TYPE_F32, SP_TYPE_F32}, {SP_TYPE_F16, SP_TYPE_F16}, {SP_TYPE_F16, SP_TYPE_F32}, {SP_TYPE_BF16, SP_TYPE_BF16}};
    for (int i = 0; i < 16; i++) {
        begin_case(&c, sp_op_name(ops[i % 4]), 1e-6);
        int64_t n0 = random_int(1, 90), n1 = random_int(1, 5), n2 = random_int(1, 3);
        sp_tensor a = numbers(&c, types[i / 4][0], n0, n1, n2, 2), b = numbers(&c, types[i / 4][1], i % 2 ? n0 : 1, i % 3 ? n1 : 1, n2, 1);
        c.windows[1].low = 0.5f;
        result(&c, sp_graph_op2(&c.g, ops[i % 4], a, b), types[i / 4][0], n0, n1, n2, 2);
        compare(state, &c);
    }
    begin_case(&c, "add_id", 1e-6);
    sp_tensor a = numbers(&c, SP_TYPE_F32, 33, 2, 5, 1), b = numbers(&c, SP_TYPE_F32, 33, 7, 1, 1);
    result(&c, sp_add_id(&c.g, a, b, row_ids(&c, SP_TYPE_I32, 2, 5, 1, 7, false)), SP_TYPE_F32, 33, 2, 5, 1);
    compare(state, &c);
    begin_case(&c, "scale", 1e-6);
    result(&c, sp_scale_bias(&c.g, numbers(&c, SP_TYPE_F32, 33, 2, 5, 1), 3, 0.5f), SP_TYPE_F32, 33, 2, 5, 1);
    compare(state, &c);
    begin_case(&c, "clamp", 1e-6);
    result(&c, sp_clamp(&c.g, numbers(&c, SP_TYPE_F32, 33, 2, 5, 1), -0.3f, 0.7f), SP_TYPE_F32, 33, 2, 5, 1);
    compare(state, &c);
    begin_case(&c, "fill", 1e-6);
    result(&c, sp_fill(&c.g, numbers(&c, SP_TYPE_F32, 33, 2, 5, 1), 2.5f), SP_TYPE_F32, 33, 2, 5, 1);
    compare(state, &c);
}

static void test_unary(void **state) {
    graph_case c;
    for (uint32_t op = SP_OP_SQR; op <= SP_OP_NEG; op++) {
        for (int half = 0; half < 2; half++) {
            uint32_t type = half ? SP_TYPE_F16 : SP_TYPE_F32;
            begin_case(&c, sp_op_name(op), 1e-6);
            int64_t n0 = random_int(1, 300), n1 = random_int(1, 5);
            sp_tensor a = numbers(&c, type, n0, n1, 2, 1);
            c.windows[0].low = op == SP_OP_SQRT ? 0 : -9;
            c.windows[0].high = 9;
            result(&c, sp_graph_op1(&c.g, op, a), type, n0, n1, 2, 1);
            compare(state, &c);
        }
    }
}

static void test_gated(void **state) {
    graph_case c;
    static const uint32_t ops[] = {SP_OP_REGLU, SP_OP_GEGLU, SP_OP_SWIGLU, SP_OP_GEGLU_ERF, SP_OP_GEGLU_QUICK};
    for (int i = 0; i < 15; i++) {
        begin_case(&c, sp_op_name(ops[i % 5]), 1e-6);
        int64_t n0 = random_int(1, 100), n1 = random_int(1, 5);
        uint32_t swapped = i % 2;
        bool split = i >= 10;
        sp_tensor sources[2] = {numbers(&c, SP_TYPE_F32, split ? n0 : n0 * 2, n1, 1, 1), SP_NONE};
        if (split) {
            sources[1] = numbers(&c, SP_TYPE_F32, n0, n1, 1, 1);
            swapped = 0;
        }
        c.windows[0].low = -4;
        c.windows[0].high = 4;
        result(&c, sp_graph_op(&c.g, ops[i % 5], split ? 2 : 1, sources, 1, &swapped), SP_TYPE_F32, n0, n1, 1, 1);
        compare(state, &c);
    }
    begin_case(&c, "swiglu_oai", 1e-6);
    sp_tensor a = numbers(&c, SP_TYPE_F32, 44, 3, 1, 1), b = numbers(&c, SP_TYPE_F32, 44, 3, 1, 1);
    result(&c, sp_swiglu_oai(&c.g, a, b, 1.702f, 0.7f), SP_TYPE_F32, 44, 3, 1, 1);
    compare(state, &c);
}

static void test_rows(void **state) {
    graph_case c;
    for (int i = 0; i < 4; i++) {
        int64_t n0 = random_int(1, 700), n1 = random_int(1, 6), n2 = random_int(1, 3);
        begin_case(&c, "norms", 1e-6);
        sp_tensor a = numbers(&c, SP_TYPE_F32, n0 + 1, n1, n2, 1);
        c.windows[0].high = 3;
        result(&c, sp_norm(&c.g, a, 1e-5f), SP_TYPE_F32, n0 + 1, n1, n2, 1);
        result(&c, sp_rms_norm(&c.g, a, 1e-5f), SP_TYPE_F32, n0 + 1, n1, n2, 1);
        result(&c, sp_l2_norm(&c.g, a, 1e-5f), SP_TYPE_F32, n0 + 1, n1, n2, 1);
        result(&c, sp_graph_op1(&c.g, SP_OP_SUM_ROWS, a), SP_TYPE_F32, 1, n1, n2, 1);
        compare(state, &c);
        begin_case(&c, "argmax", 0);
        result(&c, sp_graph_op1(&c.g, SP_OP_ARGMAX, numbers(&c, SP_TYPE_F32, n0, n1, 1, 1)), SP_TYPE_I32, n1, 1, 1, 1);
        compare(state, &c);
        begin_case(&c, "argsort", 0);
        sp_tensor x = sp_clamp(&c.g, numbers(&c, SP_TYPE_F32, n0, n1, n2, 1), -INFINITY, INFINITY);
        c.windows[0].distinct = true;
        result(&c, sp_argsort(&c.g, x, i % 2), SP_TYPE_I32, n0, n1, n2, 1);
        compare(state, &c);
    }
}

static void test_soft_max(void **state) {
    graph_case c;
    for (int i = 0; i < 8; i++) {
        begin_case(&c, "soft_max_ext", 1e-6);
        int64_t n0 = random_int(1, 300), n1 = random_int(1, 4), heads = random_int(1, 6);
        sp_tensor a = numbers(&c, SP_TYPE_F32, n0, n1, heads, 2), mask = SP_NONE;
        if (i % 4) {
            mask = numbers(&c, i % 2 ? SP_TYPE_F32 : SP_TYPE_F16, n0, n1, 1, 1);
        }
        result(&c, sp_soft_max_ext(&c.g, a, mask, 2, i % 4 == 3 ? 8 : 0), SP_TYPE_F32, n0, n1, heads, 2);
        compare(state, &c);
    }
}

static void test_rope(void **state) {
    graph_case c;
    for (int i = 0; i < 12; i++) {
        begin_case(&c, "rope_ext", 1e-6);
        int64_t n0 = 2 * random_int(8, 64), heads = random_int(1, 4), tokens = random_int(1, 5);
        uint32_t type = i % 5 == 4 ? SP_TYPE_F16 : SP_TYPE_F32;
        sp_tensor a = numbers(&c, type, n0, heads, tokens, 1), positions = row_ids(&c, SP_TYPE_I32, tokens, 1, 1, 5000, false);
        sp_tensor factors = SP_NONE;
        if (i % 3 == 2) {
            factors = numbers(&c, SP_TYPE_F32, n0 / 2, 1, 1, 1);
            c.windows[2].low = 0.5f;
            c.windows[2].high = 4;
        }
        bool yarn = i % 4 == 3;
        result(&c,
               sp_rope_ext(&c.g, a, positions, factors, (int)(i % 2 ? n0 : n0 / 4 * 2), i / 2 % 2 * 2, 4096, 10000, yarn ? 0.25f : 1, yarn ? 1 : 0, 1,
                           32, 1),
               type, n0, heads, tokens, 1);
        compare(state, &c);
    }
}

static void test_attention(void **state) {
    graph_case c;
    static const uint32_t types[] = {SP_TYPE_F16,  SP_TYPE_F32,  SP_TYPE_BF16, SP_TYPE_Q8_0,  SP_TYPE_Q4_0,
                                     SP_TYPE_Q4_1, SP_TYPE_Q5_0, SP_TYPE_Q5_1, SP_TYPE_IQ4_NL};
    for (int i = 0; i < 27; i++) {
        uint32_t type = types[i % 9];
        char name[64];
        snprintf(name, sizeof name, "flash_attn_ext %s, case %d", sp_type_get(type)->name, i);
        begin_case(&c, name, type == SP_TYPE_F32 ? 1e-6 : 1e-4); /* ggml adds up halves in half precision */
        int64_t d = 32 * random_int(1, 4), kv_heads = random_int(1, 3), heads = kv_heads * random_int(1, 5), n = random_int(1, 4),
                positions = random_int(1, 700);
        sp_tensor q = numbers(&c, SP_TYPE_F32, d, n, heads, 1), k = numbers(&c, type, d, positions, kv_heads, 1),
                  v = numbers(&c, type, d, positions, kv_heads, 1);
        sp_tensor mask = SP_NONE;
        if (i % 3) {
            mask = numbers(&c, SP_TYPE_F16, positions, n, 1, 1);
            c.windows[3].masked = 0.5f;
        }
        float bias = i % 3 == 2 ? 8 : 0, softcap = i % 4 == 3 ? 20 : 0;
        result(&c, sp_flash_attn_ext(&c.g, q, k, v, mask, 1 / sqrtf((float)d), bias, softcap), SP_TYPE_F32, d, heads, n, 1);
        compare(state, &c);
    }
}

/* Few tokens to caches of halves: every width of heads, heads that share keys in all numbers, and what is added to scores or kept from them; now and
 * then the cache is in pieces. */
static void test_attention_of_few(void **state) {
    graph_case c;
    static const int64_t shares[] = {1, 2, 3, 4, 5, 7, 8, 12, 16};
    enum { SHARES = sizeof shares / sizeof shares[0], CASES = 3 * SHARES };
    for (int i = 0; i < CASES; i++) {
        char name[64];
        snprintf(name, sizeof name, "flash_attn_ext of few, case %d", i);
        begin_case(&c, name, 1e-4); /* ggml adds up halves in half precision */
        int64_t d = 64 << i % 3, kv_heads = random_int(1, 3), heads = kv_heads * shares[i / 3], n = random_int(1, i % 4 ? 2 : 9),
                positions = random_int(1, (i % 2 ? 100000 : 20000) / d);
        sp_tensor q = numbers(&c, SP_TYPE_F32, d, n, heads, 1), k = numbers(&c, SP_TYPE_F16, d, positions, kv_heads, 1),
                  v = numbers(&c, SP_TYPE_F16, d, positions, kv_heads, 1);
        c.windows[0].low = -8, c.windows[0].high = 8; /* so that a cap matters */
        sp_tensor mask = SP_NONE, sinks = SP_NONE;
        if (i % 5) {
            mask = numbers(&c, SP_TYPE_F16, positions, n, 1, 1);
            c.windows[3].masked = i % 5 == 1 ? 0.5f : 0.9f;
            c.windows[3].window = i % 5 == 2 ? 100 : 0;
        }
        float bias = i % 5 == 3 ? 8 : 0, softcap = i % 4 == 3 ? 2 : 0;
        if (i % 4 == 1) {
            sinks = numbers(&c, SP_TYPE_F32, heads, 1, 1, 1);
        }
        sp_tensor attended = sp_flash_attn_ext(&c.g, q, k, v, mask, 1 / sqrtf((float)d), bias, softcap);
        if (i % 4 == 1) {
            sp_flash_attn_ext_add_sinks(&c.g, attended, sinks);
        }
        result(&c, attended, SP_TYPE_F32, d, heads, n, 1);
        compare(state, &c);
    }
}

/* Many tokens at once, as when a prompt is read. */
static void test_attention_of_many(void **state) {
    graph_case c;
    for (int i = 0; i < 18; i++) {
        char name[64];
        snprintf(name, sizeof name, "flash_attn_ext of many, case %d", i);
        begin_case(&c, name, 1e-4); /* ggml adds up halves in half precision */
        int64_t d = i % 2 ? 128 : 64, kv_heads = random_int(1, 3), heads = kv_heads * random_int(1, 5), n = random_int(16, 70),
                positions = random_int(i < 12 ? 1 : 100, 400);
        sp_tensor q = numbers(&c, SP_TYPE_F32, d, n, heads, 1), k = numbers(&c, SP_TYPE_F16, d, positions, kv_heads, 1),
                  v = numbers(&c, SP_TYPE_F16, d, positions, kv_heads, 1);
        sp_tensor mask = SP_NONE;
        if (i % 3) {
            mask = numbers(&c, SP_TYPE_F16, positions, n, 1, 1);
            c.windows[3].masked = i % 3 == 1 ? 0.5f : 0.99f;
            c.windows[3].window = i < 12 ? 0 : i % 2 ? 130 : 1000; /* whole pieces of the cache are masked, or nothing of them */
        }
        result(&c, sp_flash_attn_ext(&c.g, q, k, v, mask, 1 / sqrtf((float)d), 0, 0), SP_TYPE_F32, d, heads, n, 1);
        compare(state, &c);
    }
}

static void test_moving(void **state) {
    graph_case c;
    for (int i = 0; i < N_TYPES; i++) {
        begin_case(&c, sp_type_get(all_types[i])->name, 1e-6);
        int64_t n = random_int(1, 6);
        result(&c, sp_graph_op2(&c.g, SP_OP_GET_ROWS, model_weight(&c, all_types[i], 512, 9, 1), row_ids(&c, SP_TYPE_I32, n, 1, 1, 9, false)),
               SP_TYPE_F32, 512, n, 1, 1);
        compare(state, &c);
    }
    begin_case(&c, "get_rows i32", 0);
    result(&c, sp_graph_op2(&c.g, SP_OP_GET_ROWS, numbers(&c, SP_TYPE_I32, 5, 9, 1, 1), row_ids(&c, SP_TYPE_I32, 4, 1, 1, 9, false)), SP_TYPE_I32, 5,
           4, 1, 1);
    result(&c, sp_repeat_4d(&c.g, numbers(&c, SP_TYPE_I32, 5, 2, 1, 1), sp_dim(10), sp_dim(4), sp_dim(3), sp_dim(1)), SP_TYPE_I32, 10, 4, 3, 1);
    compare(state, &c);
    begin_case(&c, "concat, repeat, cont, views", 1e-6);
    sp_tensor a = numbers(&c, SP_TYPE_F32, 12, 3, 2, 1), b = numbers(&c, SP_TYPE_F32, 12, 5, 2, 1);
    result(&c, sp_concat(&c.g, a, b, 1), SP_TYPE_F32, 12, 8, 2, 1);
    result(&c, sp_concat(&c.g, a, a, 0), SP_TYPE_F32, 24, 3, 2, 1);
    result(&c, sp_repeat_4d(&c.g, a, sp_dim(24), sp_dim(3), sp_dim(4), sp_dim(2)), SP_TYPE_F32, 24, 3, 4, 2);
    result(&c, sp_cont_3d(&c.g, sp_graph_op1(&c.g, SP_OP_TRANSPOSE, a), sp_dim(3), sp_dim(12), sp_dim(2)), SP_TYPE_F32, 3, 12, 2, 1);
    result(&c, sp_cont_2d(&c.g, sp_permute(&c.g, b, 2, 0, 1, 3), sp_dim(20), sp_dim(6)), SP_TYPE_F32, 20, 6, 1, 1);
    result(&c, sp_graph_op1(&c.g, SP_OP_SQR, sp_view_2d(&c.g, b, sp_dim(4), sp_dim(3), sp_dim(96), sp_dim(16))), SP_TYPE_F32, 4, 3, 1, 1);
    compare(state, &c);
}

static const uint32_t cache_types[] = {SP_TYPE_F32,  SP_TYPE_F16,  SP_TYPE_BF16, SP_TYPE_Q4_0,  SP_TYPE_Q4_1,
                                       SP_TYPE_Q5_0, SP_TYPE_Q5_1, SP_TYPE_Q8_0, SP_TYPE_IQ4_NL};

static void test_caches(void **state) {
    graph_case c;
    for (int i = 0; i < 9; i++) {
        begin_case(&c, sp_type_get(cache_types[i])->name, 1e-5); /* a value between two quants may go either way */
        sp_tensor cache = add_window(&c, OUT, cache_types[i], 64, 20, 2, 1), rows = numbers(&c, SP_TYPE_F32, 64, 5, 2, 1);
        sp_set_rows(&c.g, cache, rows, row_ids(&c, i % 2 ? SP_TYPE_I64 : SP_TYPE_I32, 5, 1, 1, 20, true));
        compare(state, &c);
        begin_case(&c, sp_type_get(cache_types[i])->name, 1e-5);
        sp_tensor to = add_window(&c, OUT, cache_types[i], 64, 5, 2, 1), from = numbers(&c, SP_TYPE_F32, 64, 5, 2, 1);
        sp_graph_op2(&c.g, SP_OP_CPY, from, to);
        sp_tensor packed = sp_cast(&c.g, from, cache_types[i]);
        if (cache_types[i] != SP_TYPE_F32) {
            result(&c, sp_cast(&c.g, packed, SP_TYPE_F32), SP_TYPE_F32, 64, 5, 2, 1);
        }
        compare(state, &c);
    }
}

static sp_tensor f32(graph_case *c, int64_t n0, int64_t n1, int64_t n2, int64_t n3) {
    return numbers(c, SP_TYPE_F32, n0, n1, n2, n3);
}

static void test_recurrent(void **state) {
    graph_case c;
    begin_case(&c, "ssm_conv", 1e-6);
    sp_tensor sx = f32(&c, 9, 33, 2, 1), taps = f32(&c, 4, 33, 1, 1);
    result(&c, sp_graph_op2(&c.g, SP_OP_SSM_CONV, sx, taps), SP_TYPE_F32, 33, 6, 2, 1);
    compare(state, &c);
    for (int each = 1; each <= 16; each += 15) {
        begin_case(&c, "ssm_scan", 1e-6);
        uint32_t kept = 1;
        sp_tensor in[7] = {f32(&c, 16, 8, 4, 3),
                           f32(&c, 8, 4, 5, 2),
                           f32(&c, 4, 5, 2, 1),
                           f32(&c, each, 4, 1, 1),
                           f32(&c, 16, 2, 5, 2),
                           f32(&c, 16, 2, 5, 2),
                           row_ids(&c, SP_TYPE_I32, 2, 1, 1, 3, false)};
        result(&c, sp_graph_op(&c.g, SP_OP_SSM_SCAN, 7, in, 1, &kept), SP_TYPE_F32, 8 * 4 * 5 * 2 + 16 * 8 * 4 * 2, 1, 1, 1);
        compare(state, &c);
    }
    for (int each = 1; each <= 16; each += 15) {
        begin_case(&c, "gated_delta_net", 1e-6);
        uint32_t kept = 1;
        sp_tensor in[6] = {f32(&c, 16, 2, 5, 1),   f32(&c, 16, 4, 5, 2), f32(&c, 16, 4, 5, 2),
                           f32(&c, each, 4, 5, 2), f32(&c, 1, 4, 5, 2),  f32(&c, 16, 16, 4, 2)};
        result(&c, sp_graph_op(&c.g, SP_OP_GATED_DELTA_NET, 6, in, 1, &kept), SP_TYPE_F32, 64, (5 + 16) * 2, 1, 1);
        compare(state, &c);
    }
    begin_case(&c, "rwkv_wkv6", 1e-6);
    sp_tensor six[6] = {f32(&c, 64, 2, 6, 1), f32(&c, 64, 2, 6, 1), f32(&c, 64, 2, 6, 1),
                        f32(&c, 64, 2, 1, 1), f32(&c, 64, 2, 6, 1), f32(&c, 64 * 64 * 2, 2, 1, 1)};
    result(&c, sp_graph_op(&c.g, SP_OP_RWKV_WKV6, 6, six, 0, NULL), SP_TYPE_F32, 128, 6 + 64 * 2, 1, 1);
    compare(state, &c);
    begin_case(&c, "rwkv_wkv7", 1e-6);
    sp_tensor seven[7];
    for (int i = 0; i < 6; i++) {
        seven[i] = f32(&c, 64, 2, 6, 1);
        c.windows[i].low = -0.3f;
        c.windows[i].high = 0.3f;
    }
    seven[6] = f32(&c, 64 * 64 * 2, 2, 1, 1);
    result(&c, sp_graph_op(&c.g, SP_OP_RWKV_WKV7, 7, seven, 0, NULL), SP_TYPE_F32, 128, 6 + 64 * 2, 1, 1);
    compare(state, &c);
    begin_case(&c, "lightning_indexer", 1e-6);
    sp_tensor four[4] = {f32(&c, 64, 3, 5, 1), numbers(&c, SP_TYPE_F16, 64, 1, 20, 1), f32(&c, 3, 5, 1, 1), numbers(&c, SP_TYPE_F16, 20, 5, 1, 1)};
    result(&c, sp_graph_op(&c.g, SP_OP_LIGHTNING_INDEXER, 4, four, 0, NULL), SP_TYPE_F32, 20, 5, 1, 1);
    compare(state, &c);
    begin_case(&c, "dsv4_hc_pre", 1e-6);
    result(&c, sp_dsv4_hc_pre(&c.g, f32(&c, 64, 3, 5, 1), f32(&c, 3, 5, 1, 1)), SP_TYPE_F32, 64, 5, 1, 1);
    compare(state, &c);
}

/* Positions in sections, interleaved and not, and what is turned not at a row's start. */
static void test_rope_sections(void **state) {
    graph_case c;
    for (uint32_t i = 0; i < 3; i++) {
        begin_case(&c, "rope_ext in sections", 1e-6);
        sp_tensor in[2] = {f32(&c, 64, 2, 5, 1), row_ids(&c, SP_TYPE_I32, i < 2 ? 20 : 5, 1, 1, 900, false)};
        float base = 10000, one = 1, fast = 32;
        uint32_t params[14] = {
            i < 2 ? 64 : 32, i == 0 ? 8 : i == 1 ? 40 : 2, 4096, 0, 0, 0, 0, 0, 0, i < 2 ? 8 : 0, i < 2 ? 12 : 0, i < 2 ? 12 : 0, 0, i < 2 ? 0 : 16};
        memcpy(&params[3], &base, 4), memcpy(&params[4], &one, 4), memcpy(&params[6], &one, 4), memcpy(&params[7], &fast, 4),
            memcpy(&params[8], &one, 4);
        result(&c, sp_graph_op(&c.g, SP_OP_ROPE_EXT, 2, in, 14, params), SP_TYPE_F32, 64, 2, 5, 1);
        compare(state, &c);
    }
}

/* A layer as models have them: what is fused must give what is not. */
static void layer(graph_case *c, uint32_t type, int64_t n, int64_t tokens, bool f16_cache) {
    int64_t heads = 4, kv = 2, d = n / heads, positions = 300;
    sp_graph *g = &c->g;
    sp_tensor x = sp_graph_op2(g, SP_OP_GET_ROWS, model_weight(c, type, n, 30, 1), row_ids(c, SP_TYPE_I32, tokens, 1, 1, 30, false));
    sp_tensor h = sp_graph_op2(g, SP_OP_MUL, sp_rms_norm(g, x, 1e-5f), model_weight(c, SP_TYPE_F32, n, 1, 1));
    sp_tensor q = sp_mul_mat(g, model_weight(c, type, n, n, 1), h), k = sp_mul_mat(g, model_weight(c, type, n, kv * d, 1), h);
    sp_tensor positions_in = row_ids(c, SP_TYPE_I32, tokens, 1, 1, 300, false);
    q = sp_rope(g, sp_reshape_3d(g, q, sp_dim(d), sp_dim(heads), sp_dim(tokens)), positions_in, (int)d, 0);
    k = sp_rope(g, sp_reshape_3d(g, k, sp_dim(d), sp_dim(kv), sp_dim(tokens)), positions_in, (int)d, 0);
    sp_tensor cache = add_window(c, OUT, f16_cache ? SP_TYPE_F16 : SP_TYPE_F32, kv * d, positions, 1, 1);
    sp_tensor ids = row_ids(c, SP_TYPE_I64, tokens, 1, 1, positions, true);
    sp_tensor all = sp_set_rows(g, cache, sp_reshape_2d(g, k, sp_dim(kv * d), sp_dim(tokens)), ids);
    int64_t size = f16_cache ? 2 : 4;
    sp_tensor keys = sp_view_3d(g, all, sp_dim(d), sp_dim(positions), sp_dim(kv), sp_dim(kv * d * size), sp_dim(d * size), sp_dim(0));
    sp_tensor attended = sp_flash_attn_ext(g, sp_permute(g, q, 0, 2, 1, 3), keys, keys, SP_NONE, 0.1f, 0, 0);
    attended = sp_mul_mat(g, model_weight(c, type, n, n, 1), sp_reshape_2d(g, attended, sp_dim(n), sp_dim(tokens)));
    x = sp_graph_op2(g, SP_OP_ADD, attended, x);
    h = sp_graph_op2(g, SP_OP_MUL, sp_rms_norm(g, x, 1e-5f), model_weight(c, SP_TYPE_F32, n, 1, 1));
    uint32_t swapped = 0;
    sp_tensor both[2] = {sp_mul_mat(g, model_weight(c, type, n, 2 * n, 1), h), sp_mul_mat(g, model_weight(c, type, n, 2 * n, 1), h)};
    h = sp_graph_op(g, SP_OP_SWIGLU, 2, both, 1, &swapped);
    result(c, sp_graph_op2(g, SP_OP_ADD, sp_mul_mat(g, model_weight(c, type, 2 * n, n, 1), h), x), SP_TYPE_F32, n, tokens, 1, 1);
}

static void test_layers(void **state) {
    graph_case c;
    static const uint32_t types[] = {SP_TYPE_F32, SP_TYPE_F16, SP_TYPE_Q8_0, SP_TYPE_Q4_0};
    for (int i = 0; i < 8; i++) {
        /* The CPU rounds columns to 8 bits before products with quants, and that grows through three of them; the card does so for few alone. */
        begin_case(&c, "a layer", i % 4 == 0 ? 1e-6 : 4e-3);
        layer(&c, types[i % 4], 256, i < 4 ? 1 : 20, i % 4 != 0);
        compare(state, &c);
    }
}

/* Small writes wait for the next command. Each has the bytes of its time, and what comes later is later. */
static void test_writes_in_order(void **state) {
    const devices *d = *state;
    enum { AT = 16, SMALL = 16, LARGE = 65536 }; /* other blocks copy the small piece than copy it as a part of all */
    sp_device_memory *memory = NULL;
    sp_error err = {0};
    uint8_t *pages = sp_os_reserve(LARGE);
    assert_true(pages && sp_os_commit(pages, LARGE));
    assert_int_equal(sp_device_memory_open(d->tested, pages, LARGE, &memory, &err), SP_OK);
    for (int round = 0; round < 300; round++) {
        memset(pages + AT, 1, SMALL);
        assert_int_equal(sp_device_memory_sync(memory, AT, SMALL, SP_SYNC_TO_DEVICE, &err), SP_OK);
        memset(pages + AT, 2 + round % 100, SMALL);
        assert_int_equal(sp_device_memory_sync(memory, AT, SMALL, SP_SYNC_TO_DEVICE, &err), SP_OK);
        memset(pages + AT, 200, SMALL); /* not synced: the device must not see it */
        assert_int_equal(sp_device_memory_sync(memory, AT, SMALL, SP_SYNC_FROM_DEVICE, &err), SP_OK);
        assert_int_equal(pages[AT], 2 + round % 100);
        assert_int_equal(pages[AT + SMALL - 1], 2 + round % 100);
        memset(pages, 201, LARGE);
        assert_int_equal(sp_device_memory_sync(memory, AT, SMALL, SP_SYNC_TO_DEVICE, &err), SP_OK);
        memset(pages, 202, LARGE);
        assert_int_equal(sp_device_memory_sync(memory, 0, LARGE, SP_SYNC_TO_DEVICE, &err), SP_OK);
        memset(pages, 203, LARGE);
        assert_int_equal(sp_device_memory_sync(memory, 0, LARGE, SP_SYNC_FROM_DEVICE, &err), SP_OK);
        for (int i = 0; i < LARGE; i += 64) {
            assert_int_equal(pages[i], 202);
        }
    }
    sp_device_memory_close(memory);
    sp_os_release(pages, LARGE);
}

int main(void) {
    struct CMUnitTest tests[] = {
        cmocka_unit_test(test_arithmetic),
        cmocka_unit_test(test_unary),
        cmocka_unit_test(test_gated),
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_soft_max),
        cmocka_unit_test(test_rope),
        cmocka_unit_test(test_moving),
        cmocka_unit_test(test_caches),
        cmocka_unit_test(test_products),
        cmocka_unit_test(test_long_rows),
        cmocka_unit_test(test_experts),
        cmocka_unit_test(test_tiles),
        cmocka_unit_test(test_many_tiles),
        cmocka_unit_test(test_batched_products),
        cmocka_unit_test(test_attention),
        cmocka_unit_test(test_attention_of_few),
        cmocka_unit_test(test_attention_of_many),
        cmocka_unit_test(test_layers),
        cmocka_unit_test(test_recurrent),
        cmocka_unit_test(test_rope_sections),
        cmocka_unit_test(test_writes_in_order),
        cmocka_unit_test(test_largest),
        cmocka_unit_test(test_many_rows),
    };
    for (size_t i = 0; i < sizeof tests / sizeof tests[0]; i++) {
        tests[i].setup_func = draw_anew;
    }
    cmocka_set_test_filter(getenv("SAMEPAGE_TEST_FILTER"));
    return cmocka_run_group_tests(tests, open_devices, close_devices);
}
