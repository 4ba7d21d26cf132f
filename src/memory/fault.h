/* Accesses to pages that can't be read (SIGBUS) become zeros instead of the process's end. Inner to the memory layer; thread-safe. */
#ifndef SP_MEMORY_FAULT_H
#define SP_MEMORY_FAULT_H

#include <stdbool.h>
#include <stdint.h>

typedef struct sp_fault_watch sp_fault_watch;

/*
 * From now on a bus error in [base, base + size) turns all of that range to zeros. NULL: no memory. Installs the handler, where somebody
 * else's stands, and passes on to that one what is not ours.
 */
sp_fault_watch *sp_fault_watch_open(void *base, uint64_t size);
void sp_fault_watch_resize(sp_fault_watch *watch, uint64_t size);
/* Did that happen? */
bool sp_fault_watch_lost(const sp_fault_watch *watch);
/* Before the range is unmapped. */
void sp_fault_watch_close(sp_fault_watch *watch);

#endif
