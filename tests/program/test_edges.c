/* The edges of the verifier: sizes that only just do not fit, places that only just touch, and what else the other tests do not come by. */
#include "program/program_test.h"

#define G (&b->g)
#define GRAPH bench bench_ = new_bench(), *b = &bench_
#define REFUSED(words, ...)                                                                                                                          \
    do {                                                                                                                                             \
        GRAPH;                                                                                                                                       \
        __VA_ARGS__;                                                                                                                                 \
        refuse_graph(b, words);                                                                                                                      \
    } while (0)
#define ACCEPTED(...)                                                                                                                                \
    do {                                                                                                                                             \
        GRAPH;                                                                                                                                       \
        __VA_ARGS__;                                                                                                                                 \
        accept_graph(b);                                                                                                                             \
    } while (0)

static const int64_t MOST = INT32_MAX, ROWS = INT32_MAX - (1 << 20);

static sp_tensor huge(bench *b, uint32_t type, int64_t ne0, int64_t ne1, int64_t ne2, int64_t ne3) {
    return sp_graph_memory_4d(G, NULL, IN, type, sp_dim(ne0), sp_dim(ne1), sp_dim(ne2), sp_dim(ne3), sp_dim(0));
}

static sp_tensor far_apart(bench *b, uint32_t type, int64_t ne0, int64_t ne1, int64_t nb1) {
    const sp_expr ne[4] = {sp_dim(ne0), sp_dim(ne1), sp_dim(1), sp_dim(1)}, nb[3] = {sp_dim(nb1), sp_dim(nb1), sp_dim(nb1)};
    return sp_graph_memory(G, NULL, IN, type, ne, nb, sp_dim(0));
}

static void test_sizes(void **state_) {
    (void)state_;
    ACCEPTED(huge(b, SP_TYPE_F16, 1, ROWS, 1, 1));
    REFUSED("too many rows", huge(b, SP_TYPE_F16, 1, MOST, MOST, MOST));
    REFUSED("larger than 2^40", huge(b, SP_TYPE_I64, MOST, ROWS, 1, 1));
    REFUSED("larger than 2^40", huge(b, SP_TYPE_F32, (1 << 28) + 1, 1024, 1, 1));
    REFUSED("at most 2^31-1 elements", huge(b, SP_TYPE_F32, 1 << 28, 1024, 1, 1)); /* which no stride can name */
    REFUSED("larger than 2^40", far_apart(b, SP_TYPE_Q6_K, 256, ROWS, MOST * 210));
    REFUSED("larger than 2^40", far_apart(b, SP_TYPE_F32, 1, 1024, INT64_C(1) << 31));
    REFUSED("1 to 2^31-1", sp_tensor a = huge(b, SP_TYPE_F16, 1 << 30, 1, 1, 1); sp_concat(G, a, huge(b, SP_TYPE_F16, 1 << 30, 1, 1, 1), 0));
    REFUSED("reaches out", strided(b, f32(b, 64, 1, 1, 1), 1, 2, 1, 1, INT64_C(1) << 32, INT64_C(1) << 32, INT64_C(1) << 32, 0));
    REFUSED("reaches out", strided(b, f32(b, 64, 1, 1, 1), 1, 1024, 1, 1, INT64_C(1) << 32, INT64_C(1) << 32, INT64_C(1) << 32, 0));
    REFUSED("reaches out", sp_view_1d(G, f32(b, 64, 1, 1, 1), sp_dim(1), sp_dim(INT64_MAX - 3)));
    REFUSED("at most 2^31-2^20-1 elements", sp_cast(G, huge(b, SP_TYPE_F16, 4, 1 << 9, 1, 1 << 21), SP_TYPE_F32));
    REFUSED("multiple of the type's block", sp_reshape_2d(G, typed(b, SP_TYPE_Q8_0, 64, 1, 1, 1), sp_dim(16), sp_dim(4)));
}

static sp_status specialise_with(bench *b, const sp_spec_limits *limits, sp_error *err) {
    uint32_t size;
    const void *bytes = sp_graph_bytes(G, &size);
    sp_program *program;
    sp_spec *spec = NULL;
    assert_int_equal(sp_program_load(bytes, size, NULL, &program, err), SP_OK);
    const sp_status status = sp_program_specialise(program, NULL, 0, limits, &spec, err);
    sp_spec_free(spec);
    sp_program_free(program);
    return status;
}

/* Work beyond 64 bits is as much as 64 bits hold, and stays it. */
static void test_estimates_saturate(void **state_) {
    (void)state_;
    GRAPH;
    const sp_spec_limits limits = {.flops = UINT64_MAX - 1, .temporary_bytes = UINT64_MAX};
    sp_error err = {0};
    for (int i = 0; i < 3; i++) { /* each a little less than 2^64 */
        sp_tensor q = huge(b, SP_TYPE_F32, 1, ROWS, 1, 1), k = huge(b, SP_TYPE_F16, 1, ROWS, 1, 1);
        sp_flash_attn_ext(G, q, k, k, SP_NONE, 1, 0, 0);
        assert_int_equal(specialise_with(b, &limits, &err), i ? SP_ERR_LIMIT : SP_OK);
    }
    assert_non_null(strstr(err.message, "operations"));
    sp_graph_free(G);
}

static sp_status load_changed(bench *b, void (*change)(sp_program_header *h), const char **message) {
    static sp_error err;
    uint32_t size;
    sp_graph_bytes(G, &size);
    change(G->bytes);
    sp_program *program;
    sp_status status = sp_program_load(G->bytes, size, NULL, &program, &err);
    sp_program_free(program);
    *message = err.message;
    return status;
}

static sp_program_tensor *first_tensor(sp_program_header *h) {
    return (sp_program_tensor *)(uintptr_t)sp_program_tensor_table(h);
}
static void give_nb1(sp_program_header *h) {
    first_tensor(h)->nb[0] = 0;
}
static void give_nb2(sp_program_header *h) {
    first_tensor(h)->nb[1] = 0;
}
static void give_nb3(sp_program_header *h) {
    first_tensor(h)->nb[2] = 0;
}
static void give_nb12(sp_program_header *h) {
    first_tensor(h)->nb[0] = first_tensor(h)->nb[1] = 0;
}
/* The end of the first slot's name becomes a letter: the name is long. */
static void join_names(sp_program_header *h) {
    char *text = (char *)(uintptr_t)sp_program_text(h, 0);
    for (int i = 0; i < 64; i++) {
        text[i] = 'x';
    }
}

static void test_bytes(void **state_) {
    (void)state_;
    GRAPH;
    const char *message;
    sp_graph_slot(G, "a name that is as long as it takes to fill the strings", SP_SLOT_READ);
    sp_graph_slot(G, "and another one, that is behind the one before this one", SP_SLOT_READ);
    f32(b, 4, 1, 1, 1);
    void (*const changes[])(sp_program_header *) = {give_nb1, give_nb2, give_nb3, give_nb12};
    for (int i = 0; i < 4; i++) {
        load_changed(b, changes[i], &message);
        assert_non_null(strstr(message, "dimensions or strides are missing"));
    }
    assert_int_equal(load_changed(b, join_names, &message), SP_ERR_FORMAT);
    assert_non_null(strstr(message, "no good name"));
    sp_program *program;
    sp_error err;
    assert_int_equal(sp_program_load(G->bytes, UINT64_C(1) << 33, NULL, &program, &err), SP_ERR_LIMIT);
    sp_graph_free(G);
}

static sp_tensor part(bench *b, sp_tensor a, int64_t n, int64_t offset) {
    return sp_view_1d(G, a, sp_dim(n), sp_dim(offset));
}

/* Reads and writes of one window that do not meet, and some that do. */
static void test_places(void **state_) {
    (void)state_;
    ACCEPTED(sp_tensor s = state(b, SP_TYPE_F32, 64, 1, 1, 1); sp_cpy(G, part(b, s, 32, 0), part(b, s, 32, 128)));
    ACCEPTED(sp_tensor s = state(b, SP_TYPE_F32, 64, 1, 1, 1); sp_cpy(G, part(b, s, 32, 128), part(b, s, 32, 0)));
    REFUSED("reads what it writes", sp_tensor s = state(b, SP_TYPE_F32, 64, 1, 1, 1); sp_cpy(G, part(b, s, 32, 124), part(b, s, 32, 0)));
    REFUSED("also its source", sp_tensor s = state(b, SP_TYPE_F32, 32, 1, 1, 1), w = state(b, SP_TYPE_F32, 64, 1, 1, 1);
            (void)s, sp_graph_into(G, sp_neg(G, part(b, w, 64, 0)), w); sp_graph_into(G, sp_add(G, f32(b, 64, 1, 1, 1), w), w));
    REFUSED("also its source", sp_tensor w = state(b, SP_TYPE_F32, 64, 2, 1, 1);
            sp_graph_into(G, sp_repeat_4d(G, part(b, w, 64, 256), sp_dim(64), sp_dim(2), sp_dim(1), sp_dim(1)), w));
    /* The operation before reads the destination in another shape, or at another place: devices fuse neighbours. */
    REFUSED("by the operation before it", sp_tensor w = state(b, SP_TYPE_F32, 8, 8, 1, 1);
            sp_graph_into(G, sp_cont_2d(G, sp_neg(G, sp_reshape_1d(G, w, sp_dim(64))), sp_dim(8), sp_dim(8)), w));
    REFUSED("by the operation before it", sp_tensor w = state(b, SP_TYPE_F32, 64, 1, 1, 1), half = sp_neg(G, part(b, w, 32, 128));
            sp_graph_into(G, sp_concat(G, half, half, 0), w));
    REFUSED("contiguous window of the result's type", const sp_expr ne[4] = {sp_dim(8), sp_dim(4), sp_dim(1), sp_dim(1)},
            nb[3] = {sp_dim(64), sp_dim(256), sp_dim(256)};
            sp_tensor w = sp_graph_memory(G, NULL, STATE, SP_TYPE_F32, ne, nb, sp_dim(0)); sp_graph_into(G, sp_neg(G, f32(b, 8, 4, 1, 1)), w));
    /* An absent source in the middle, read, placed and followed by an operation that is placed. */
    ACCEPTED(sp_tensor q = f32(b, 64, 5, 8, 1), k = typed(b, SP_TYPE_F16, 64, 32, 2, 1), sinks = f32(b, 8, 1, 1, 1),
             w = state(b, SP_TYPE_F32, 64, 8, 5, 1), x = state(b, SP_TYPE_F32, 64, 8, 5, 1);
             sp_tensor t = sp_flash_attn_ext(G, q, k, k, SP_NONE, 1, 0, 0); sp_flash_attn_ext_add_sinks(G, t, sinks); sp_graph_into(G, t, w);
             t = sp_flash_attn_ext(G, q, k, k, SP_NONE, 1, 0, 0); sp_flash_attn_ext_add_sinks(G, t, sinks); sp_graph_into(G, sp_neg(G, t), x));
    /* Windows of several slots that are written. */
    ACCEPTED(uint32_t out = sp_graph_slot(G, "out", SP_SLOT_WRITE); for (int i = 0; i < 3; i++) {
        sp_tensor w = sp_graph_memory_1d(G, NULL, out, SP_TYPE_F32, sp_dim(4), sp_dim(i * 32)), s = state(b, SP_TYPE_F32, 4, 1, 1, 1);
        sp_graph_into(G, sp_neg(G, s), w);
    });
}

static sp_tensor sorted(bench *b, int64_t ne0, int64_t ne1, int64_t ne2) {
    return sp_argsort(G, sp_clamp(G, f32(b, ne0, ne1, ne2, 1), -INFINITY, INFINITY), 0);
}
static void choose_experts(bench *b, sp_tensor chosen, int64_t used, int64_t tokens, int64_t experts) {
    sp_mul_mat_id(G, f32(b, 64, 16, experts, 1), f32(b, 64, used, tokens, 1), chosen);
}

static void test_row_ids(void **state_) {
    (void)state_;
    ACCEPTED(choose_experts(b, strided(b, sorted(b, 8, 3, 1), 2, 3, 1, 1, 32, 96, 96, 0), 2, 3, 8));
    ACCEPTED(choose_experts(b, sp_top_k(G, sp_clamp(G, f32(b, 8, 3, 1, 1), 0, 1), 2), 2, 3, 8));
    ACCEPTED(choose_experts(b, strided(b, sorted(b, 8, 3, 1), 2, 1, 1, 1, 8, 8, 8, 32), 2, 1, 8));
    REFUSED("one row of argsort", choose_experts(b, strided(b, sorted(b, 8, 3, 1), 4, 1, 1, 1, 16, 16, 16, 24), 4, 1, 8));
    REFUSED("must be a window of memory", sp_tensor w = state(b, SP_TYPE_I32, 8, 3, 1, 1);
            choose_experts(b, sp_graph_into(G, sorted(b, 8, 3, 1), w), 8, 3, 8));
    REFUSED("without WRITE", sp_get_rows(G, f32(b, 64, 9, 1, 1), weight(b, SP_TYPE_I32, 4, 1, 1, 1)));
    REFUSED("contiguous window", const sp_expr ne[4] = {sp_dim(2), sp_dim(3), sp_dim(1), sp_dim(1)}, nb[3] = {sp_dim(32), sp_dim(96), sp_dim(96)};
            sp_get_rows(G, f32(b, 64, 9, 3, 1), sp_graph_memory(G, NULL, IN, SP_TYPE_I32, ne, nb, sp_dim(0))));
    REFUSED("at most 256", choose_experts(b, ids(b, 257, 1), 257, 1, 300));
    REFUSED("row side by side", choose_experts(b, sp_transpose(G, ids(b, 3, 2)), 2, 3, 8));
    REFUSED("one row of their window", choose_experts(b, part(b, ids(b, 4, 2), 4, 8), 4, 1, 8));
    ACCEPTED(choose_experts(b, part(b, ids(b, 4, 2), 4, 16), 4, 1, 8));
    /* Sorting what clamp made, by way of cont; not by way of a window that the guest can write. */
    ACCEPTED(sp_argsort(G, sp_cont(G, sp_transpose(G, sp_clamp(G, f32(b, 8, 3, 1, 1), 0, 1))), 0));
    REFUSED("may hold NaN", sp_tensor w = state(b, SP_TYPE_F32, 8, 3, 1, 1);
            sp_argsort(G, sp_graph_into(G, sp_cont(G, sp_clamp(G, f32(b, 8, 3, 1, 1), 0, 1)), w), 0));
    REFUSED("may hold NaN", sp_argsort(G, sp_cont(G, f32(b, 8, 3, 1, 1)), 0));
    /* Some of what was sorted, copied: where ids may repeat; not by way of a window, and of nothing else. */
    ACCEPTED(sp_get_rows(G, f32(b, 4, 8, 1, 1), sp_cont(G, sp_view_1d(G, sorted(b, 8, 1, 1), sp_dim(4), sp_dim(8)))));
    REFUSED("must be a window of memory", choose_experts(b, sp_cont(G, sorted(b, 8, 3, 1)), 8, 3, 8));
    REFUSED("must be a window of memory", sp_tensor w = state(b, SP_TYPE_I32, 8, 1, 1, 1);
            sp_get_rows(G, f32(b, 4, 8, 1, 1), sp_graph_into(G, sp_cont(G, sorted(b, 8, 1, 1)), w)));
    REFUSED("must be a window of memory", sp_get_rows(G, f32(b, 4, 8, 1, 1), sp_cont(G, ids(b, 8, 1))));
}

static void test_special_rules(void **state_) {
    (void)state_;
    REFUSED("with b, swapped must be 0", sp_tensor t = sp_swiglu_split(G, f32(b, 64, 4, 1, 1), f32(b, 64, 4, 1, 1)); *sp_graph_param(G, t, 0) = 1);
    REFUSED("at one distance", sp_swiglu(G, sp_transpose(G, f32(b, 4, 64, 1, 1))));
    REFUSED("finite and above 0", sp_rope_ext(G, f32(b, 64, 8, 5, 1), ids(b, 5, 1), SP_NONE, 64, 0, 0, 0, 1, 0, 1, 0, 0));
    REFUSED(
        "offset and a.ne0 must be even", sp_tensor t = sp_rope(G, f32(b, 64, 8, 5, 1), ids(b, 5, 1), 32, 0);
        for (uint32_t i = 9; i < 13; i++) { *sp_graph_param(G, t, i) = 0; } * sp_graph_param(G, t, 13) = 1);
    ACCEPTED(sp_cast(G, typed(b, SP_TYPE_I32, 8, 4, 1, 1), SP_TYPE_F32));
    /* Copies of quantised tensors of one type: as they are, or row by row. */
    ACCEPTED(sp_cont_2d(G, typed(b, SP_TYPE_Q8_0, 64, 4, 1, 1), sp_dim(32), sp_dim(8)));
    ACCEPTED(sp_cpy(G, typed(b, SP_TYPE_Q8_0, 32, 8, 1, 1), strided(b, state(b, SP_TYPE_Q8_0, 64, 8, 1, 1), 32, 8, 1, 1, 68, 544, 544, 0)));
    REFUSED("one shape",
            sp_cpy(G, typed(b, SP_TYPE_Q8_0, 64, 4, 1, 1), strided(b, state(b, SP_TYPE_Q8_0, 64, 8, 1, 1), 32, 8, 1, 1, 68, 544, 544, 0)));
    REFUSED("rows side by side", sp_cpy(G, typed(b, SP_TYPE_Q8_0, 32, 4, 1, 1), sp_transpose(G, state(b, SP_TYPE_F32, 4, 32, 1, 1))));
}

/* Ranges of slots: empty ones meet nothing. */
static void test_ranges(void **state_) {
    (void)state_;
    GRAPH;
    f32(b, 4, 1, 1, 1);
    outcome o = check_with(b, NULL, 0);
    assert_int_equal(sp_spec_check_ranges(o.spec, (sp_slot_range[]){{4096, 4096}, {4096, 0}}, &o.err), SP_OK);
    assert_int_equal(sp_spec_check_ranges(o.spec, (sp_slot_range[]){{4096, 4096}, {6144, 8}}, &o.err), SP_ERR_RANGE);
    assert_int_equal(sp_spec_check_ranges(o.spec, (sp_slot_range[]){{4096, 4096}, {6144, 0}}, &o.err), SP_OK);
    drop(&o);
    sp_graph_free(G);
    bench other = new_bench();
    b = &other;
    state(b, SP_TYPE_F32, 4, 1, 1, 1);
    o = check_with(b, NULL, 0);
    assert_int_equal(sp_spec_check_ranges(o.spec, (sp_slot_range[]){{6144, 0}, {4096, 4096}}, &o.err), SP_OK);
    drop(&o);
    sp_graph_free(G);
}

/* What is wrong with ids is said with the window's name, if it has one. */
static void test_names_of_ids(void **state_) {
    (void)state_;
    GRAPH;
    const int32_t bad[2] = {1, 1}, beyond[2] = {1, 8};
    sp_tensor chosen = sp_graph_memory_2d(G, "experts", IN, SP_TYPE_I32, sp_dim(2), sp_dim(1), sp_dim(4096 * 100));
    choose_experts(b, chosen, 2, 1, 8);
    outcome o = check_with(b, NULL, 0);
    assert_int_equal(sp_spec_check_index(o.spec, &o.spec->indices[0], bad, &o.err), SP_ERR_RANGE);
    assert_string_equal(o.err.message, "experts names 1 twice for one token");
    assert_int_equal(sp_spec_check_index(o.spec, &o.spec->indices[0], beyond, &o.err), SP_ERR_RANGE);
    assert_string_equal(o.err.message, "experts[1] is 8; it must be 0 to 7");
    drop(&o);
    sp_graph_free(G);
}

static void test_listings(void **state_) {
    (void)state_;
    GRAPH;
    sp_set_name(G, sp_neg(G, f32(b, 4, 1, 1, 1)), "a \\ and a \"");
    uint32_t size;
    sp_program *program;
    sp_error err;
    const void *bytes = sp_graph_bytes(G, &size);
    assert_int_equal(sp_program_load(bytes, size, NULL, &program, &err), SP_OK);
    char *text = NULL;
    size_t length = 0;
    FILE *out = open_memstream(&text, &length);
    assert_int_equal(sp_program_print_dot(program, out, &err), SP_OK);
    fclose(out);
    assert_non_null(strstr(text, "a \\\\ and a \\\""));
    free(text);
    out = fopen("/dev/full", "w");
    setvbuf(out, NULL, _IONBF, 0); /* the error is older than the last flush */
    assert_int_equal(sp_program_print(program, out, &err), SP_ERR_IO);
    fclose(out);
    sp_program_free(program);
    sp_graph_free(G);
}

/* x, B or C of ssm_scan with a gap between heads: 1, 2 or 3. 0: none. */
static sp_tensor scan(bench *b, int gap, int64_t decay) {
    sp_tensor s = f32(b, 16, 8, 4, 3), x = f32(b, 8, 4, 5, 2), dt = f32(b, 4, 5, 2, 1), a = f32(b, decay, 4, 1, 1);
    sp_tensor bs = f32(b, 16, 2, 5, 2), c = f32(b, 16, 2, 5, 2);
    x = gap == 1 ? strided(b, f32(b, 16, 4, 5, 2), 8, 4, 5, 2, 64, 256, 1280, 0) : x;
    bs = gap == 2 ? strided(b, f32(b, 32, 2, 5, 2), 16, 2, 5, 2, 128, 256, 1280, 0) : bs;
    c = gap == 3 ? strided(b, f32(b, 32, 2, 5, 2), 16, 2, 5, 2, 128, 256, 1280, 0) : c;
    return sp_ssm_scan(G, s, x, dt, a, bs, c, ids(b, 2, 1));
}

static void test_state(void **state_) {
    (void)state_;
    ACCEPTED(scan(b, 0, 1));
    ACCEPTED(scan(b, 0, 16));
    for (int gap = 1; gap <= 3; gap++) {
        REFUSED("rows of x, B and C must follow each other", scan(b, gap, 1));
    }
    REFUSED("1 to 2^31-1", sp_tensor in = huge(b, SP_TYPE_F32, 65536, 1, 1, 2);
            sp_ssm_scan(G, huge(b, SP_TYPE_F32, 65536, 256, 127, 1), f32(b, 256, 127, 1, 2), f32(b, 127, 1, 2, 1), f32(b, 1, 127, 1, 1), in, in,
                        ids(b, 2, 1)));
    const int64_t many = (1 << 30) + 4;
    REFUSED("1 to 2^31-1", sp_tensor q = f32(b, 1, 1, 1, 1), v = huge(b, SP_TYPE_F32, 1, 1, 1, many); sp_gated_delta_net(G, q, q, v, v, v, v));
    REFUSED("1 to 2^31-1", sp_tensor k = huge(b, SP_TYPE_F32, 1, 1, many, 1);
            sp_rwkv_wkv6(G, k, k, k, f32(b, 1, 1, 1, 1), k, huge(b, SP_TYPE_F32, 1, many, 1, 1)));
    ACCEPTED(sp_tensor r = f32(b, 16, 4, 6, 1); sp_rwkv_wkv6(G, r, r, r, f32(b, 16, 4, 1, 1), r, f32(b, 16 * 16 * 4, 3, 1, 1)));
    ACCEPTED(sp_tensor r = f32(b, 64, 4, 6, 1); sp_rwkv_wkv7(G, r, r, r, r, r, r, f32(b, 64 * 64 * 4, 3, 1, 1)));
    REFUSED("state.ne0 must be", sp_tensor r = f32(b, 64, 4, 6, 1); sp_rwkv_wkv7(G, r, r, r, r, r, r, f32(b, 64 * 64 * 4 + 1, 1, 1, 1)));
    ACCEPTED(sp_tensor q = f32(b, 16, 2, 5, 1), v = f32(b, 16, 4, 5, 2);
             sp_gated_delta_net(G, q, q, v, f32(b, 16, 4, 5, 2), f32(b, 1, 4, 5, 2), f32(b, 16, 16, 4, 2)));
    ACCEPTED(sp_ssm_conv(G, f32(b, 10, 8, 2, 1), f32(b, 4, 8, 1, 1)));
}

static sp_tensor hinted(bench *b, sp_tensor x, sp_tensor y) {
    const sp_tensor t = sp_mul_mat(G, x, y);
    sp_mul_mat_set_hint(G, t, 1);
    return t;
}

static sp_tensor turned(bench *b, uint32_t mode, int s0, int s1, int s2, int s3) {
    const int all[4] = {s0, s1, s2, s3};
    return sp_rope_multi(G, f32(b, 64, 8, 5, 1), ids(b, mode < 8 ? 5 : 20, 1), SP_NONE, 64, all, (int)mode, 0, 10000, 1, 0, 1, 0, 0);
}

/* Each part of conditions that have several. */
static void test_parts_of_conditions(void **state_) {
    (void)state_;
    ACCEPTED(hinted(b, f32(b, 8, 8, 1, 1), f32(b, 8, 3, 1, 1)));
    REFUSED("square matrix", hinted(b, f32(b, 8, 4, 1, 1), f32(b, 8, 3, 1, 1)));
    REFUSED("square matrix", hinted(b, f32(b, 8, 8, 2, 1), f32(b, 8, 3, 2, 1)));
    REFUSED("square matrix", hinted(b, f32(b, 8, 8, 1, 2), f32(b, 8, 3, 1, 2)));
    REFUSED("square matrix", hinted(b, f32(b, 6, 6, 1, 1), f32(b, 6, 3, 1, 1)));
    REFUSED("must be f32", hinted(b, typed(b, SP_TYPE_F16, 8, 8, 1, 1), f32(b, 8, 3, 1, 1)));
    REFUSED("must be f32", hinted(b, f32(b, 8, 8, 1, 1), typed(b, SP_TYPE_F16, 8, 3, 1, 1)));
    for (int i = 0; i < 4; i++) {
        REFUSED("sections must be 0 in this mode", turned(b, 0, i == 0, i == 1, i == 2, i == 3));
    }
    ACCEPTED(turned(b, 0, 0, 0, 0, 0));
    ACCEPTED(turned(b, 8, 1, 0, 0, 0));
    ACCEPTED(turned(b, 8, 0, 1, 0, 0));
    ACCEPTED(turned(b, 40, 0, 0, 1, 0));
    REFUSED("one of the first three", turned(b, 8, 0, 0, 0, 1));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_state),    cmocka_unit_test(test_parts_of_conditions),
        cmocka_unit_test(test_sizes),    cmocka_unit_test(test_estimates_saturate),
        cmocka_unit_test(test_bytes),    cmocka_unit_test(test_places),
        cmocka_unit_test(test_row_ids),  cmocka_unit_test(test_special_rules),
        cmocka_unit_test(test_ranges),   cmocka_unit_test(test_names_of_ids),
        cmocka_unit_test(test_listings),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
