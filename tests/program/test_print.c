/* The listing and the graph, word for word. */
#include "program/program_test.h"

static sp_program *small(void) {
    sp_graph g;
    sp_graph_init(&g);
    sp_expr n = sp_symbol(&g, "n", 1, 512);
    uint32_t in = sp_graph_slot(&g, "in", SP_SLOT_READ), out = sp_graph_slot(&g, "a \"b\"", SP_SLOT_WRITE | SP_SLOT_OUTPUT);
    sp_tensor x = sp_graph_memory_2d(&g, "x", in, SP_TYPE_F32, sp_dim(64), n, sp_affine(256, n, -256));
    sp_tensor y = sp_graph_memory_2d(&g, NULL, out, SP_TYPE_F32, sp_dim(8), n, sp_dim(0)), w = sp_graph_weight(&g, "12 256 8 1 1");
    sp_tensor v = sp_view_2d(&g, w, sp_dim(256), sp_dim(4), sp_dim(144), sp_dim(0));
    sp_set_name(&g, sp_graph_into(&g, sp_scale_bias(&g, sp_cast(&g, x, SP_TYPE_F16), 0.5f, 0), y), "scaled");
    sp_soft_max_ext(&g, x, SP_NONE, 1, 0);
    sp_flash_attn_ext(&g, x, v, v, SP_NONE, 1, 0, 0);
    g.tensors[g.n_tensors - 1].n_src = 5;
    g.tensors[g.n_tensors - 1].src[4] = x;
    uint32_t size;
    const void *bytes = sp_graph_bytes(&g, &size);
    sp_program *program;
    assert_non_null(bytes);
    assert_int_equal(sp_program_load(bytes, size, &described, &program, NULL), SP_OK);
    sp_graph_free(&g);
    return program;
}

static void expect_text(sp_status (*print)(const sp_program *, FILE *, sp_error *), const char *expected) {
    sp_program *program = small();
    char *text;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    assert_int_equal(print(program, out, NULL), SP_OK);
    fclose(out);
    assert_string_equal(text, expected);
    free(text);
    FILE *full = fopen("/dev/full", "w");
    sp_error err;
    assert_int_equal(print(program, full, &err), SP_ERR_IO);
    fclose(full);
    sp_program_free(program);
}

static void test_listing(void **state_) {
    (void)state_;
    expect_text(sp_program_print, "program, version 1: 1 symbols, 2 slots, 8 tensors, 1728 bytes\n"
                                  "symbol n: 1 to 512\n"
                                  "slot in: read\n"
                                  "slot a \"b\": write output\n"
                                  "%0 = memory in f32 [64, n, 1, 1] at 256*n-256  ; x\n"
                                  "%1 = memory a \"b\" f32 [8, n, 1, 1] at 0\n"
                                  "%2 = weight q4_K [256, 8, 1, 1] of model 0  ; 12 256 8 1 1\n"
                                  "%3 = view(%2) [256, 4, 1, 1] nb [144, 576, 576] at 0\n"
                                  "%4 = cast(%0) f16\n"
                                  "%5 = scale(%4, scale=0.5, bias=0) -> %1  ; scaled\n"
                                  "%6 = soft_max_ext(%0, scale=1, max_bias=0)\n"
                                  "%7 = flash_attn_ext(%0, %3, %3, -, %0, scale=1, max_bias=0, logit_softcap=0, prec=0)\n");
}

static void test_dot(void **state_) {
    (void)state_;
    expect_text(sp_program_print_dot, "digraph program {\n"
                                      "  node [shape=box, fontname=monospace];\n"
                                      "  t0 [style=filled, fillcolor=lightblue, label=\"memory\\nin\"];\n"
                                      "  t1 [style=filled, fillcolor=lightblue, label=\"memory\\na \\\"b\\\"\"];\n"
                                      "  t2 [style=filled, fillcolor=lightgrey, label=\"weight\\n12 256 8 1 1\"];\n"
                                      "  t3 [style=filled, fillcolor=white, label=\"view\"];\n"
                                      "  t2 -> t3;\n"
                                      "  t4 [style=filled, fillcolor=white, label=\"cast\"];\n"
                                      "  t0 -> t4;\n"
                                      "  t5 [style=filled, fillcolor=white, label=\"scale\\nscaled\"];\n"
                                      "  t4 -> t5;\n"
                                      "  t5 -> t1 [style=dashed, constraint=false];\n"
                                      "  t6 [style=filled, fillcolor=white, label=\"soft_max_ext\"];\n"
                                      "  t0 -> t6;\n"
                                      "  t7 [style=filled, fillcolor=white, label=\"flash_attn_ext\"];\n"
                                      "  t0 -> t7;\n"
                                      "  t3 -> t7;\n"
                                      "  t3 -> t7;\n"
                                      "  t0 -> t7;\n"
                                      "}\n");
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_listing), cmocka_unit_test(test_dot)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
