/* Shapes and checks of the operations that carry state from token to token. */
#include "program/shapes.h"

static void shape(sp_spec_tensor *t, int64_t ne0, int64_t ne1, int64_t ne2) {
    t->type = SP_TYPE_F32;
    t->ne[0] = ne0, t->ne[1] = ne1, t->ne[2] = ne2, t->ne[3] = 1;
}

/*
 * Sizes below are products of dimensions. Sources are F32 of at most 2^40 bytes, so that any product of one's dimensions is at most 2^38, and of
 * three factors of which each two are dimensions of one source at most 2^57: nothing overflows, and sp_check_shape refuses what is no dimension.
 */

const char *sp_shape_ssm_conv(spec_build *build, sp_spec_tensor *t) {
    const sp_spec_tensor *sx = sp_build_source(build, t, 0), *c = sp_build_source(build, t, 1);
    shape(t, sx->ne[1], sx->ne[0] - c->ne[0] + 1, sx->ne[2]);
    return NULL;
}

const char *sp_shape_ssm_scan(spec_build *build, sp_spec_tensor *t) {
    const sp_spec_tensor *s = sp_build_source(build, t, 0), *x = sp_build_source(build, t, 1), *ids = sp_build_source(build, t, 6);
    shape(t, s->ne[0] * s->ne[1] * s->ne[2] * ids->ne[0] + sp_elements(x), 1, 1);
    return NULL;
}

/* Heads follow each other, whatever lies between tokens. */
static bool heads_together(const sp_spec_tensor *t) {
    return t->nb[1] == (uint64_t)t->ne[0] * t->nb[0];
}

const char *sp_extra_ssm_scan(spec_build *build, const sp_spec_tensor *t) {
    const sp_spec_tensor *s = sp_build_source(build, t, 0), *a = sp_build_source(build, t, 3);
    if (a->ne[0] != 1 && a->ne[0] != s->ne[0]) {
        return "A.ne0 must be 1 or s.ne0";
    }
    const bool together =
        heads_together(sp_build_source(build, t, 1)) && heads_together(sp_build_source(build, t, 4)) && heads_together(sp_build_source(build, t, 5));
    return together ? NULL : "rows of x, B and C must follow each other in dimension 1";
}

const char *sp_shape_gated_delta_net(spec_build *build, sp_spec_tensor *t) {
    const sp_spec_tensor *v = sp_build_source(build, t, 2);
    shape(t, v->ne[0] * v->ne[1], (v->ne[2] + v->ne[0]) * v->ne[3], 1);
    return NULL;
}

const char *sp_extra_gated_delta_net(spec_build *build, const sp_spec_tensor *t) {
    const sp_spec_tensor *v = sp_build_source(build, t, 2), *g = sp_build_source(build, t, 3);
    return g->ne[0] == 1 || g->ne[0] == v->ne[0] ? NULL : "g.ne0 must be 1 or v.ne0";
}

const char *sp_shape_wkv(spec_build *build, sp_spec_tensor *t) {
    const sp_spec_tensor *a = sp_build_source(build, t, 0), *state = sp_build_source(build, t, t->n_src - 1u);
    const int64_t width = a->ne[0] * a->ne[1];
    shape(t, width, a->ne[0] * state->ne[1] + a->ne[2], 1); /* below 2^62 + 2^31 */
    if (state->ne[0] % a->ne[0] || state->ne[0] / a->ne[0] != width) {
        return "state.ne0 must be ne0 * ne0 * ne1 of the first source";
    }
    if (t->op == SP_OP_RWKV_WKV7 && a->ne[0] % 64) { /* ggml's vector loops go on to a whole step, past the end */
        return "ne0 must be a multiple of 64";
    }
    return a->ne[2] % state->ne[1] ? "the tokens must be a multiple of state.ne1, the sequences" : NULL;
}
