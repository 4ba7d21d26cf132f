/* See plot.h. */
#include "cli/plot.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"

enum { WIDTH = 760, HEIGHT = 440, LEFT = 72, RIGHT = 184, TOP = 52, BOTTOM = 78, LABEL = 36 };

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

/* "0.82 ms", "83 ms", "150 s" */
static void time_text(char out[32], double ms) {
    bool seconds = ms >= 999.5;
    double value = seconds ? ms / 1000 : ms;
    snprintf(out, 32, value < 9.95 ? "%.2g %s" : "%.0f %s", value, seconds ? "s" : "ms");
}

/* "16,384" */
static void count_text(char out[32], double count) {
    char digits[32];
    int n = snprintf(digits, sizeof digits, "%.0f", count);
    char *to = out;
    for (int i = 0; i < n && i < 20; i++) {
        if (i && (n - i) % 3 == 0) {
            *to++ = ',';
        }
        *to++ = digits[i];
    }
    *to = 0;
}

static void draw_axes(FILE *f, const sp_plot *p, const span *s) {
    char label[32];
    for (int d = s->y0; d <= s->y1; d++) {
        double y = y_at(s, pow(10, d));
        fprintf(f, "<line x1=\"%d\" y1=\"%.1f\" x2=\"%d\" y2=\"%.1f\" stroke=\"#ddd\"/>\n", LEFT, y, WIDTH - RIGHT, y);
        time_text(label, pow(10, d));
        text(f, LEFT - 8, y + 4, "end", "", label);
    }
    for (int i = 0; i < p->n_points; i++) {
        double x = x_at(s, p->x[i]);
        fprintf(f, "<line x1=\"%.1f\" y1=\"%d\" x2=\"%.1f\" y2=\"%d\" stroke=\"#888\"/>\n", x, HEIGHT - BOTTOM, x, HEIGHT - BOTTOM + 5);
        count_text(label, p->x[i]);
        text(f, x, HEIGHT - BOTTOM + 19, "middle", "", label);
    }
    fprintf(f, "<path d=\"M%d %dV%dH%d\" fill=\"none\" stroke=\"#444\"/>\n", LEFT, TOP, HEIGHT - BOTTOM, WIDTH - RIGHT);
    text(f, LEFT + (WIDTH - LEFT - RIGHT) / 2.0, HEIGHT - BOTTOM + 40, "middle", "", p->x_name);
    text(f, LEFT, 28, "start", " font-size=\"17\" font-weight=\"bold\"", p->title);
    text(f, LEFT, HEIGHT - 10, "start", " font-size=\"11\" fill=\"#666\"", p->note);
}

/* label_y: where the label of the line before is; this one's on return. */
static void draw_line(FILE *f, const sp_plot *p, const span *s, int l, double *label_y) {
    const sp_plot_line *line = &p->lines[l];
    char value[32], colour[64];
    fprintf(f, "<polyline fill=\"none\" stroke=\"%s\" stroke-width=\"2.5\" points=\"", line->colour);
    for (int i = 0; i < p->n_points; i++) {
        fprintf(f, "%.1f,%.1f ", x_at(s, p->x[i]), y_at(s, line->y[i]));
    }
    fputs("\"/>\n", f);
    for (int i = 0; i < p->n_points; i++) {
        time_text(value, line->y[i]);
        fprintf(f, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"4\" fill=\"%s\"><title>%s, %.0f: %s</title></circle>\n", x_at(s, p->x[i]),
                y_at(s, line->y[i]), line->colour, line->name, p->x[i], value);
    }
    *label_y = fmax(y_at(s, line->y[p->n_points - 1]), *label_y + LABEL);
    snprintf(colour, sizeof colour, " fill=\"%s\"", line->colour);
    text(f, WIDTH - RIGHT + 14, *label_y - 2, "start", colour, line->name);
    snprintf(colour, sizeof colour, " font-size=\"15\" font-weight=\"bold\" fill=\"%s\"", line->colour);
    text(f, WIDTH - RIGHT + 14, *label_y + 15, "start", colour, value);
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
    double label_y = 0;
    for (int l = 0; l < plot->n_lines; l++) {
        draw_line(f, plot, &s, l, &label_y);
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
