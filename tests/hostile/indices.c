/* Row ids out of range, and changed between load, binding and run: checked each time, in a copy.
 * expect: done */
#include "hostile.h"

int32_t sp_step(void) {
    uint32_t length, page = sp_page_size();
    uint8_t *pages = sp_actor_pages(3 * page, &length);
    float *table = (float *)pages, *out = (float *)(pages + 2 * page);
    int32_t *ids = (int32_t *)(pages + page);
    int32_t region = sp_actor_check(sp_region_open(pages, length), "open");
    for (int i = 0; i < 64; i++) {
        table[i] = (float)i;
    }
    ids[0] = 15;
    int32_t program = sp_actor_check(load_gather(4, 16, 2), "load");
    EXPECT(0, sp_program_bind(program, 0, region, 0, 256));
    EXPECT(0, sp_program_bind(program, 1, region, page, 8));
    EXPECT(0, sp_program_bind(program, 2, region, 2 * page, 32));
    EXPECT(0, sp_region_sync(region, 0, length, SP_TO_DEVICE));
    EXPECT(0, sp_program_run(program, NULL, 0));
    static const int32_t bad[] = {16, -1, INT32_MAX, INT32_MIN, 1 << 30};
    for (unsigned i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        for (int at_id = 0; at_id < 2; at_id++) {
            ids[0] = ids[1] = 3;
            ids[at_id] = bad[i];
            out[0] = -5;
            EXPECT(SP_E_RANGE, sp_program_run(program, NULL, 0));
            EXPECT(1, out[0] == -5); /* nothing ran */
        }
    }
    ids[0] = 15, ids[1] = 0;
    EXPECT(0, sp_program_run(program, NULL, 0));
    EXPECT(0, sp_region_sync(region, 2 * page, 32, SP_FROM_DEVICE));
    EXPECT(1, out[0] == 60 && out[3] == 63 && out[4] == 0 && out[7] == 3);
    return SP_DONE;
}
