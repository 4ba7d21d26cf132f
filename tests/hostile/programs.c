/* A flood of programs, and programs that are too large or not programs.
 * expect: done
 * limits: programs=5 program_bytes=4096 temporary_bytes=1048576 run_flops=100000000 */
#include "hostile.h"

int32_t sp_step(void) {
    uint32_t length;
    float *pages = sp_actor_pages(3 * 512 * 512 * sizeof(float), &length);
    int32_t region = sp_actor_check(sp_region_open(pages, length), "open"), program = -1, n = 0;
    for (; n < 1000 && (program = load_gather(4, 4, 2)) >= 0; n++) {
    }
    EXPECT(SP_E_LIMIT, program);
    EXPECT(5, n);
    for (n = 0; n < 5; n++) {
        EXPECT(0, sp_program_close(n));
    }
    static uint8_t bytes[8192];
    EXPECT(SP_E_LIMIT, sp_program_load(bytes, 4097));
    EXPECT(SP_E_FORMAT, sp_program_load(bytes, 4096));
    memset(bytes, 0xff, sizeof bytes);
    EXPECT(SP_E_FORMAT, sp_program_load(bytes, 4096));

    /* 2 * 512^3 operations. */
    program = sp_actor_check(load_product(512), "load");
    EXPECT(0, sp_program_bind(program, 0, region, 0, 2 * 512 * 512 * 4));
    EXPECT(0, sp_program_bind(program, 1, region, 2 * 512 * 512 * 4, 512 * 512 * 4));
    EXPECT(SP_E_LIMIT, sp_program_run(program, NULL, 0));
    EXPECT(SP_E_LIMIT, sp_program_submit(program, NULL, 0));

    /* The output over the input. */
    int32_t small = sp_actor_check(load_product(64), "load");
    EXPECT(0, sp_program_bind(small, 0, region, 0, 2 * 64 * 64 * 4));
    EXPECT(0, sp_program_bind(small, 1, region, 64 * 64 * 4, 64 * 64 * 4));
    EXPECT(SP_E_RANGE, sp_program_run(small, NULL, 0));
    EXPECT(0, sp_program_bind(small, 1, region, 2 * 64 * 64 * 4, 64 * 64 * 4 - 1));
    EXPECT(SP_E_RANGE, sp_program_run(small, NULL, 0));
    EXPECT(0, sp_program_bind(small, 1, region, 2 * 64 * 64 * 4, 64 * 64 * 4));
    EXPECT(0, sp_program_run(small, NULL, 0));
    return SP_DONE;
}
