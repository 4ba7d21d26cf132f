/* Inside the program layer: what the table of rules refers to: shapes and checks that are special to an operation. */
#ifndef SP_PROGRAM_SHAPES_H
#define SP_PROGRAM_SHAPES_H

#include "program/program_impl.h"

#define COPY_TEXT                                                                                                                                    \
    "as many elements in a as in b; types equal, or both of f32, f16 and bf16, or f32 and i32, or from f32, f16 or bf16 to a quantised type, or "    \
    "from a "                                                                                                                                        \
    "quantised type to f32; where one is quantised, both have rows side by side and one shape (b contiguous, if a is not quantised), or both are "   \
    "contiguous and of one type"
#define SORT_TEXT "a is free of NaN: a result of clamp, maybe by way of view, reshape or cont"

const char *sp_shape_glu(spec_build *build, sp_spec_tensor *t);
const char *sp_shape_cont(spec_build *build, sp_spec_tensor *t);
const char *sp_shape_reshape(spec_build *build, sp_spec_tensor *t);
const char *sp_shape_view(spec_build *build, sp_spec_tensor *t);
const char *sp_shape_permute(spec_build *build, sp_spec_tensor *t);
const char *sp_shape_transpose(spec_build *build, sp_spec_tensor *t);
const char *sp_shape_repeat(spec_build *build, sp_spec_tensor *t);
const char *sp_shape_concat(spec_build *build, sp_spec_tensor *t);
const char *sp_shape_top_k(spec_build *build, sp_spec_tensor *t);

const char *sp_shape_ssm_conv(spec_build *build, sp_spec_tensor *t);
const char *sp_shape_ssm_scan(spec_build *build, sp_spec_tensor *t);
const char *sp_shape_gated_delta_net(spec_build *build, sp_spec_tensor *t);
const char *sp_shape_wkv(spec_build *build, sp_spec_tensor *t);

const char *sp_extra_ssm_scan(spec_build *build, const sp_spec_tensor *t);
const char *sp_extra_gated_delta_net(spec_build *build, const sp_spec_tensor *t);
const char *sp_extra_binary(spec_build *build, const sp_spec_tensor *t);
const char *sp_extra_mul_mat(spec_build *build, const sp_spec_tensor *t);
const char *sp_extra_rope(spec_build *build, const sp_spec_tensor *t);
const char *sp_extra_soft_max(spec_build *build, const sp_spec_tensor *t);
const char *sp_extra_flash_attn(spec_build *build, const sp_spec_tensor *t);
const char *sp_extra_copy(spec_build *build, const sp_spec_tensor *t);
const char *sp_extra_cast(spec_build *build, const sp_spec_tensor *t);
const char *sp_extra_clamp(spec_build *build, const sp_spec_tensor *t);
const char *sp_extra_sort(spec_build *build, const sp_spec_tensor *t);

/* A parameter as the float whose bits it is. */
float sp_param_float(uint32_t word);

#endif
