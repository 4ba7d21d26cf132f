/* oracle/fill: data for the windows of a generated program. */
#ifndef SP_TESTS_ORACLE_FILL_H
#define SP_TESTS_ORACLE_FILL_H

#include "oracle/generate.h"

/* Fills slot bytes (by slot, spec->slots[i].size long): row ids within their bounds and differing where they can, masks with some minus infinities,
 * everything else with numbers of a sensible size, or, if wild, with any bytes. */
void fill_slots(const sp_spec *spec, uint8_t *const *slots, uint64_t seed, bool wild);

#endif
