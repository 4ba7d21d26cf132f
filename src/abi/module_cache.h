/*
 * Compiled modules in the host's cache folder. What is read from there is run as machine code, so the folder and the file must be the user's
 * alone (see sp_host_cache_folder), the file must be whole, and its name is a hash that nobody can find two modules for.
 */
#ifndef SP_ABI_MODULE_CACHE_H
#define SP_ABI_MODULE_CACHE_H

#include "abi/abi.h"

/* Fills module->module from the cache; false, without an error, where it is not there or not to be trusted. */
bool sp_module_cache_load(sp_module *module);

/* Keeps module->module. A cache that can't be written costs time, nothing else. */
void sp_module_cache_save(const sp_module *module);

#endif
