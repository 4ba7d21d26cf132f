/* A region over another, floods of regions, memory that grows while a region is shared.
 * expect: done
 * limits: regions=8 shared_bytes=1048576 */
#include "hostile.h"

int32_t sp_step(void) {
    uint32_t length, page = sp_page_size();
    uint8_t *pages = sp_actor_pages(32 * page > 1 << 18 ? 32 * page : 1 << 18, &length);
    int32_t middle = sp_actor_check(sp_region_open(pages + 8 * page, 8 * page), "open");
    EXPECT(SP_E_RANGE, sp_region_open(pages + 8 * page, 8 * page));
    EXPECT(SP_E_RANGE, sp_region_open(pages, 9 * page));
    EXPECT(SP_E_RANGE, sp_region_open(pages + 15 * page, page));
    EXPECT(SP_E_RANGE, sp_region_open(pages + 10 * page, page));
    EXPECT(SP_E_RANGE, sp_region_open(pages, 32 * page));

    /* Neighbours may touch; their number is limited. */
    int32_t first = sp_actor_check(sp_region_open(pages, 8 * page), "before"), n = 2;
    int32_t opened = sp_actor_check(sp_region_open(pages + 16 * page, page), "behind");
    for (n++; opened >= 0; n++) {
        opened = sp_region_open(pages + (uint32_t)(14 + n) * page, page);
    }
    EXPECT(SP_E_LIMIT, opened);
    EXPECT(9, n);
    char why[100] = "";
    sp_last_error(why, sizeof why - 1);
    EXPECT(0, strcmp(why, "regions open at once: 9; the limit is 8 (--limit-regions)"));

    /* Growth leaves what is shared where it is. */
    EXPECT(0, sp_region_close(first));
    pages[8 * page] = 77;
    EXPECT(0, sp_region_sync(middle, 0, 1, SP_TO_DEVICE));
    uint32_t before = (uint32_t)__builtin_wasm_memory_grow(0, 64);
    EXPECT(0, before == UINT32_MAX);
    pages[8 * page] = sp_device_is_unified() ? 77 : 0;
    EXPECT(0, sp_region_sync(middle, 0, 1, SP_FROM_DEVICE));
    EXPECT(77, pages[8 * page]);
    EXPECT(SP_E_LIMIT, sp_region_open(at((uint64_t)before << 16), 64u << 16)); /* 4 MiB */
    EXPECT(0, sp_region_open(at((uint64_t)before << 16), 1 << 16) < 0);
    return SP_DONE;
}
