/* Runs programs for as long as it may: the device's time is limited as well, and the guest lives on.
 * expect: done
 * limits: device_ms=50 step_ms=60000 */
#include "hostile.h"

int32_t sp_step(void) {
    uint32_t length;
    float *pages = sp_actor_pages(3 * 256 * 256 * sizeof(float), &length);
    int32_t region = sp_actor_check(sp_region_open(pages, length), "open"), program = sp_actor_check(load_product(256), "load"), got;
    EXPECT(0, sp_program_bind(program, 0, region, 0, 2 * 256 * 256 * 4));
    EXPECT(0, sp_program_bind(program, 1, region, 2 * 256 * 256 * 4, 256 * 256 * 4));
    while ((got = sp_program_run(program, NULL, 0)) == 0) {
    }
    EXPECT(SP_E_LIMIT, got);
    char why[100] = "";
    sp_last_error(why, sizeof why - 1);
    EXPECT(1, strstr(why, "--limit-device-ms") != NULL);
    return SP_DONE;
}
