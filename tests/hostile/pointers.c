/* Pointers and sizes at each edge of the memory, for every import that takes one.
 * expect: done */
#include "hostile.h"

int32_t sp_step(void) {
    const uint64_t end = memory_size(), last = end - 1;
    const uint32_t huge = UINT32_MAX;
    uint64_t symbols[1];
    int32_t ids[2] = {0, 0};

    const struct {
        uint64_t at;
        uint32_t size;
    } outside[] = {{last, 2},   {end, 1},     {end + 1, 0},          {huge, 1}, {huge, 2}, {0, huge}, {1, huge}, {last, huge},
                   {end, huge}, {huge, huge}, {1ull << 31, 1u << 31}};
    for (unsigned i = 0; i < sizeof outside / sizeof outside[0]; i++) {
        void *p = at(outside[i].at);
        uint32_t n = outside[i].size;
        EXPECT(SP_E_RANGE, sp_region_open(p, n));
        EXPECT(n > 16u << 20 ? SP_E_LIMIT : SP_E_RANGE, sp_program_load(p, n));
        EXPECT(SP_E_RANGE, sp_send(p, n));
        EXPECT(SP_E_RANGE, sp_last_error(p, n));
        EXPECT(n > 16u << 20 ? SP_E_LIMIT : SP_E_RANGE, sp_tokenize(0, p, n, 0, ids, 1));
        EXPECT(SP_E_RANGE, sp_model_get_meta(0, p, n, (char *)symbols, 0));
        EXPECT(SP_E_RANGE, sp_model_get_meta(0, "general.architecture", 20, p, n));
        EXPECT(n > 16u << 20 ? SP_E_LIMIT : SP_E_RANGE, sp_chat_format(0, p, n, 0, NULL, 0));
        EXPECT(SP_E_RANGE, sp_detokenize(0, ids, 1, 0, p, n));
    }
    /* What is multiplied by a size must not wrap. */
    EXPECT(SP_E_RANGE, sp_tokenize(0, "a", 1, 0, at(4), 0x40000001));
    EXPECT(SP_E_LIMIT, sp_detokenize(0, at(4), 0x40000001, 0, NULL, 0));
    EXPECT(SP_E_RANGE, sp_model_get_info(0, at(end - sizeof(sp_model_info) + 1)));
    EXPECT(SP_E_RANGE, sp_model_get_program(0, 1, 1, at(end), 1));
    EXPECT(SP_E_RANGE, sp_model_get_embeddings_program(0, 1, 1, at(end), 1));

    /* The last bytes, and nothing at the end, are inside. */
    EXPECT(0, sp_send(at(last), 1));
    EXPECT(0, sp_send(at(end), 0));
    EXPECT(0, sp_send(at(0), 0));
    EXPECT(0, sp_model_get_info(0, at(end - sizeof(sp_model_info))));
    EXPECT(SP_E_FORMAT, sp_program_load(at(0), 0));
    EXPECT(SP_E_NOT_FOUND, sp_receive(at(huge), huge)); /* there is no message: nothing is written */

    /* Unaligned ones. */
    EXPECT(SP_E_ARGUMENT, sp_tokenize(0, "a", 1, 0, at(1025), 4));
    EXPECT(SP_E_ARGUMENT, sp_detokenize(0, at(1026), 1, 0, NULL, 0));
    EXPECT(SP_E_NOT_FOUND, sp_program_run(0, at(3), 1));
    EXPECT(SP_E_ARGUMENT, sp_region_open(at(8), 65536));
    EXPECT(SP_E_ARGUMENT, sp_region_open(at(65536), 100));
    EXPECT(SP_E_ARGUMENT, sp_region_open(at(65536), 0));
    EXPECT(SP_E_RANGE, sp_model_get_info(0, at(huge)));
    return SP_DONE;
}
