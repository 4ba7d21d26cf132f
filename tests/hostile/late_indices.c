/* Row ids are good when the run is submitted and bad when the step is over. Nothing of it may run.
 * expect: step RANGE [1] is 99 */
#include "hostile.h"

int32_t sp_step(void) {
    uint32_t length, page = sp_page_size();
    uint8_t *pages = sp_actor_pages(3 * page, &length);
    int32_t *ids = (int32_t *)(pages + page);
    int32_t region = sp_actor_check(sp_region_open(pages, length), "open");
    int32_t program = sp_actor_check(load_gather(4, 16, 2), "load");
    EXPECT(0, sp_program_bind(program, 0, region, 0, 256));
    EXPECT(0, sp_program_bind(program, 1, region, page, 8));
    EXPECT(0, sp_program_bind(program, 2, region, 2 * page, 32));
    for (int i = 0; i < 16; i++) {
        EXPECT(0, sp_program_submit(program, NULL, 0));
    }
    EXPECT(SP_E_LIMIT, sp_program_submit(program, NULL, 0));
    EXPECT(SP_E_STATE, sp_program_close(program)); /* what is submitted stays */
    EXPECT(SP_E_STATE, sp_program_bind(program, 0, region, 0, 256));
    EXPECT(SP_E_STATE, sp_region_close(region));
    ids[1] = 99;
    return SP_AGAIN;
}
