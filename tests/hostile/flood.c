/* Keeps the device busy with long runs and the processor with a loop: the neighbour of the well-behaved.
 * expect: step LIMIT --limit-step-ms
 * limits: step_ms=300 */
#include "hostile.h"

enum { N = 512 };

int32_t sp_step(void) {
    uint32_t length;
    float *pages = sp_actor_pages(3 * N * N * sizeof(float), &length);
    int32_t region = sp_actor_check(sp_region_open(pages, length), "open"), program = sp_actor_check(load_product(N), "load");
    EXPECT(0, sp_program_bind(program, 0, region, 0, 2 * N * N * 4));
    EXPECT(0, sp_program_bind(program, 1, region, 2 * N * N * 4, N * N * 4));
    for (;;) {
        EXPECT(0, sp_program_run(program, NULL, 0));
        for (uint64_t from = sp_clock(); sp_clock() - from < 1000000;) {
        }
    }
}
