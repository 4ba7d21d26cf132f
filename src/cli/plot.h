/* A picture of a few lines over logarithmic axes, times over counts, as SVG. */
#ifndef SP_CLI_PLOT_H
#define SP_CLI_PLOT_H

#include "samepage.h"

enum { SP_PLOT_POINTS = 32, SP_PLOT_LINES = 6 };

typedef struct sp_plot_line {
    const char *name, *colour; /* "#1b7f5a" */
    double y[SP_PLOT_POINTS];  /* milliseconds, above 0 */
} sp_plot_line;

typedef struct sp_plot {
    const char *title, *x_name, *note; /* plain text */
    int n_points, n_lines;
    double x[SP_PLOT_POINTS];          /* above 0, ascending; each has a tick */
    sp_plot_line lines[SP_PLOT_LINES]; /* named at their right ends: the one that ends highest first */
} sp_plot;

/* Writes the file through a temporary one. SP_ERR_ARGUMENT: no points, or one that is not above 0. SP_ERR_IO. */
sp_status sp_plot_write(const sp_plot *plot, const char *path, sp_error *err);

#endif
