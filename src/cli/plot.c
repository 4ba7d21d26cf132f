/* See plot.h. */
#include "cli/plot.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"

enum { WIDTH = 760, HEIGHT = 460, LEFT = 76, RIGHT = 190, TOP = 48, BOTTOM = 64 };

/* Logarithms of what the axes span. */
typedef struct span {
    double x0, x1;
    int y0, y1; /* whole decades */
} span;

static double x_at(const span *s, double x) {
    double width = WIDTH - LEFT - RIGHT;
    return LEFT + (s->x1 > s->x0 ? (log10(x) - s->x0) / (s->x1 - s->x0) * width : width / 2);
}

static double y_at(const span *s, double y) {
    return HEIGHT - BOTTOM - (log10(y) - s->y0) / (s->y1 - s->y0) * (HEIGHT - TOP - BOTTOM);
}

static bool measure(const sp_plot *p, span *out) {
    double low = INFINITY, high = 0;
    bool good = p->n_points > 0 && p->n_points <= SP_PLOT_POINTS && p->n_lines <= SP_PLOT_LINES;
    for (int i = 0; good && i < p->n_points; i++) {
        good = p->x[i] > 0;
        for (int l = 0; l < p->n_lines; l++) {
            double y = p->lines[l].y[i];
            good = good && y > 0 && isfinite(y);
            low = fmin(low, y);
            high = fmax(high, y);
        }
    }
    if (good) {
        *out = (span){log10(p->x[0]), log10(p->x[p->n_points - 1]), (int)floor(log10(low)), (int)ceil(log10(high))};
        out->y1 += out->y1 == out->y0;
    }
    return good;
}

static void text(FILE *f, double x, double y, const char *anchor, const char *more, const char *words) {
    fprintf(f, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\"%s>", x, y, anchor, more);
    for (; *words; words++) {
        if (strchr("<>&", *words)) {
            fprintf(f, "&#%d;", *words);
        } else {
            putc(*words, f);
        }
    }
    fputs("</text>\n", f);
}

static void draw_axes(FILE *f, const sp_plot *p, const span *s) {
    char label[32];
    for (int d = s->y0; d <= s->y1; d++) {
        double y = y_at(s, pow(10, d));
        fprintf(f, "<line x1=\"%d\" y1=\"%.1f\" x2=\"%d\" y2=\"%.1f\" stroke=\"#ddd\"/>\n", LEFT, y, WIDTH - RIGHT, y);
        snprintf(label, sizeof label, "%g", pow(10, d));
        text(f, LEFT - 8, y + 4, "end", "", label);
    }
    for (int i = 0; i < p->n_points; i++) {
        double x = x_at(s, p->x[i]);
        fprintf(f, "<line x1=\"%.1f\" y1=\"%d\" x2=\"%.1f\" y2=\"%d\" stroke=\"#888\"/>\n", x, HEIGHT - BOTTOM, x, HEIGHT - BOTTOM + 5);
        snprintf(label, sizeof label, "%.0f", p->x[i]);
        text(f, x, HEIGHT - BOTTOM + 19, "middle", "", label);
    }
    fprintf(f, "<path d=\"M%d %dV%dH%d\" fill=\"none\" stroke=\"#444\"/>\n", LEFT, TOP, HEIGHT - BOTTOM, WIDTH - RIGHT);
    text(f, LEFT + (WIDTH - LEFT - RIGHT) / 2.0, HEIGHT - BOTTOM + 40, "middle", "", p->x_name);
    text(f, LEFT, TOP - 8, "end", "", p->y_name);
    text(f, WIDTH / 2.0, 20, "middle", " font-size=\"15\" font-weight=\"bold\"", p->title);
    if (p->note) {
        text(f, WIDTH / 2.0, HEIGHT - 6, "middle", " font-size=\"11\" fill=\"#666\"", p->note);
    }
}

static void draw_line(FILE *f, const sp_plot *p, const span *s, int l) {
    const sp_plot_line *line = &p->lines[l];
    fprintf(f, "<polyline fill=\"none\" stroke=\"%s\" stroke-width=\"2.5\" points=\"", line->colour);
    for (int i = 0; i < p->n_points; i++) {
        fprintf(f, "%.1f,%.1f ", x_at(s, p->x[i]), y_at(s, line->y[i]));
    }
    fputs("\"/>\n", f);
    for (int i = 0; i < p->n_points; i++) {
        fprintf(f, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3.5\" fill=\"%s\"><title>%s, %.0f: %.4g</title></circle>\n", x_at(s, p->x[i]),
                y_at(s, line->y[i]), line->colour, line->name, p->x[i], line->y[i]);
    }
    double y = TOP + 14 + 24.0 * l;
    fprintf(f, "<line x1=\"%d\" y1=\"%.1f\" x2=\"%d\" y2=\"%.1f\" stroke=\"%s\" stroke-width=\"2.5\"/>\n", WIDTH - RIGHT + 16, y - 4,
            WIDTH - RIGHT + 40, y - 4, line->colour);
    text(f, WIDTH - RIGHT + 46, y, "start", "", line->name);
}

sp_status sp_plot_write(const sp_plot *plot, const char *path, sp_error *err) {
    span s;
    if (!measure(plot, &s)) {
        return sp_fail(err, SP_ERR_ARGUMENT, "%s: there is nothing to draw, or a value that is not above 0", path);
    }
    char temporary[4200];
    snprintf(temporary, sizeof temporary, "%s.new-%ld", path, (long)getpid());
    FILE *f = fopen(temporary, "w");
    if (!f) {
        return sp_fail(err, SP_ERR_IO, "%s: %s", path, strerror(errno));
    }
    fprintf(
        f,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" viewBox=\"0 0 %d %d\" font-family=\"sans-serif\" font-size=\"12\">\n"
        "<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n",
        WIDTH, HEIGHT, WIDTH, HEIGHT);
    draw_axes(f, plot, &s);
    for (int l = 0; l < plot->n_lines; l++) {
        draw_line(f, plot, &s, l);
    }
    fputs("</svg>\n", f);
    bool failed = ferror(f);
    failed = fclose(f) != 0 || failed;
    if (failed || rename(temporary, path) != 0) {
        sp_fail(err, SP_ERR_IO, "%s: can't be written: %s", path, strerror(errno));
        unlink(temporary);
        return SP_ERR_IO;
    }
    return SP_OK;
}
