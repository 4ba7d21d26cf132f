/* Inside the actor layer: making actors that do not begin afresh, and an actor at rest as bytes. */
#ifndef SP_ACTOR_ACTOR_H
#define SP_ACTOR_ACTOR_H

#include "abi/abi.h"

/* sp_actor_spawn; not fresh: the module's _initialize is not called, since all that it made is about to be replaced. */
sp_status sp_actor_create(sp_host *host, sp_module *module, const sp_actor_options *options, bool fresh, sp_actor **out, sp_error *err);

/* Calls the guest's sp_resumed, if it has one, with the actor's seed. */
sp_status sp_actor_resume(sp_actor *actor, int32_t reason, sp_error *err);

/* ---- state.c: everything but the memory's pages. The bytes are in docs/snapshot.md. ---- */

/* Writes it to malloc'ed blobs: meta, and in side the programs, each from a page on, so that one that stays costs a commit nothing. */
sp_status sp_state_save(sp_actor *actor, sp_log_blobs *out, sp_error *err);
/* The reverse, on an actor that was created not fresh and whose memory is in place. The blobs are untrusted. */
sp_status sp_state_load(sp_actor *actor, const sp_log_blobs *blobs, sp_error *err);
/* From an actor of the same module in this process, sharing what can be. */
sp_status sp_state_copy(const sp_actor *from, sp_actor *to, sp_error *err);
/* Grows the linear memory to size bytes. SP_ERR_LIMIT, SP_ERR_FORMAT: it is larger already, or size can't be. */
sp_status sp_state_grow(sp_actor *actor, uint64_t size, sp_error *err);
void sp_state_free(sp_log_blobs *blobs);

#endif
