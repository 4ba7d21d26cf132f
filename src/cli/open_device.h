/* Devices as commands open them: one that takes its time says so. */
#ifndef SP_CLI_OPEN_DEVICE_H
#define SP_CLI_OPEN_DEVICE_H

#include "samepage.h"

/* As sp_device_open. Where standard error is a terminal, a line there counts the seconds that it takes, from the first on; it is gone afterwards. */
sp_status sp_cli_open_device(const char *name, int threads, sp_device **out, sp_error *err);

#endif
