/* A host, its devices and the pocket model, made once, for targets that run guests. */
#ifndef SP_FUZZ_HOST_H
#define SP_FUZZ_HOST_H

#include <stdbool.h>

#include "samepage.h"

typedef struct fuzz_host {
    sp_host *host; /* without a cache */
    sp_device *cpu, *discrete;
    sp_model *pocket;
} fuzz_host;

const fuzz_host *fuzz_host_get(void);

/* An actor with tight limits; NULL, with a reason that was checked, where it can't be. */
sp_actor *fuzz_spawn(sp_module *module, bool discrete, sp_error *err);

/* Steps until it is idle, done or dead, a few times at most. An error has a status and a reason, and the actor stays dead. */
void fuzz_step(sp_actor *actor);

#endif
