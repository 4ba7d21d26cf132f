/* Handles that never were, were closed, or are used for something else.
 * expect: done */
#include "hostile.h"

static const int32_t wrong[] = {-1, 1, 2, 63, 64, 65, 1 << 20, INT32_MAX, INT32_MIN};

int32_t sp_step(void) {
    uint32_t length;
    uint8_t *pages = sp_actor_pages(1 << 16, &length);
    int32_t region = sp_actor_check(sp_region_open(pages, length), "open");
    int32_t program = sp_actor_check(load_gather(4, 4, 2), "load");
    int32_t ids[1] = {0};
    for (unsigned i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        int32_t h = wrong[i];
        EXPECT(SP_E_NOT_FOUND, sp_region_close(h));
        EXPECT(SP_E_NOT_FOUND, sp_region_sync(h, 0, 0, SP_TO_DEVICE));
        EXPECT(SP_E_NOT_FOUND, sp_program_close(h));
        EXPECT(SP_E_NOT_FOUND, sp_program_run(h, NULL, 0));
        EXPECT(SP_E_NOT_FOUND, sp_program_submit(h, NULL, 0));
        EXPECT(SP_E_NOT_FOUND, sp_program_bind(h, 0, region, 0, 16));
        EXPECT(SP_E_NOT_FOUND, sp_program_bind(program, 0, h, 0, 16));
        EXPECT(SP_E_NOT_FOUND, sp_model_get_info(h, NULL));
        EXPECT(SP_E_NOT_FOUND, sp_model_get_meta(h, "", 0, NULL, 0));
        EXPECT(SP_E_NOT_FOUND, sp_model_get_program(h, 1, 1, NULL, 0));
        EXPECT(SP_E_NOT_FOUND, sp_model_get_embeddings_program(h, 1, 1, NULL, 0));
        EXPECT(SP_E_NOT_FOUND, sp_tokenize(h, "", 0, 0, ids, 0));
        EXPECT(SP_E_NOT_FOUND, sp_detokenize(h, ids, 1, 0, NULL, 0));
        EXPECT(SP_E_NOT_FOUND, sp_token_is_end(h, 0));
        EXPECT(SP_E_NOT_FOUND, sp_chat_format(h, "[]", 2, 0, NULL, 0));
    }
    EXPECT(SP_E_NOT_FOUND, sp_program_bind(program, 3, region, 0, 16));
    EXPECT(SP_E_NOT_FOUND, sp_program_bind(program, UINT32_MAX, region, 0, 16));
    EXPECT(SP_E_RANGE, sp_program_bind(program, 0, region, length, 1));
    EXPECT(SP_E_RANGE, sp_program_bind(program, 0, region, UINT32_MAX, 2));
    EXPECT(SP_E_RANGE, sp_region_sync(region, 1, length, SP_TO_DEVICE));
    EXPECT(SP_E_RANGE, sp_region_sync(region, UINT32_MAX, UINT32_MAX, SP_FROM_DEVICE));
    EXPECT(SP_E_ARGUMENT, sp_region_sync(region, 0, 1, 2));
    EXPECT(SP_E_STATE, sp_program_run(program, NULL, 0)); /* slots without a region */
    EXPECT(SP_E_ARGUMENT, sp_program_run(program, (uint64_t *)pages, 1));
    EXPECT(SP_E_ARGUMENT, sp_program_run(program, (uint64_t *)pages, 17));
    EXPECT(SP_E_ARGUMENT, sp_program_run(program, (uint64_t *)pages, UINT32_MAX));

    EXPECT(0, sp_program_bind(program, 0, region, 0, 64));
    EXPECT(SP_E_STATE, sp_region_close(region)); /* bound: the program would run on pages that are no longer shared */
    EXPECT(0, sp_program_close(program));
    EXPECT(SP_E_NOT_FOUND, sp_program_bind(program, 0, region, 0, 64));
    EXPECT(SP_E_NOT_FOUND, sp_program_close(program));
    EXPECT(0, sp_region_close(region));
    EXPECT(SP_E_NOT_FOUND, sp_region_close(region));
    EXPECT(SP_E_RANGE, sp_detokenize(0, (int32_t[]){-1}, 1, 0, NULL, 0));
    EXPECT(SP_E_RANGE, sp_detokenize(0, (int32_t[]){INT32_MAX}, 1, 0, NULL, 0));
    EXPECT(0, sp_token_is_end(0, -1));
    EXPECT(0, sp_token_is_end(0, INT32_MAX));
    return SP_DONE;
}
