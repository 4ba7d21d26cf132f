/* Which a * symbol + b gives the values that a dimension took? */
#include "model/trace.h"

static bool explains(const trace *traces, const int64_t *values, int symbol, int64_t a, int64_t b) {
    for (int i = 0; i < N_TRACES; i++) {
        if (a * (int64_t)traces[i].symbols[symbol] + b != values[i]) {
            return false;
        }
    }
    return true;
}

bool sp_trace_fit(const trace *traces, const int64_t values[N_TRACES], int *symbol, int64_t *a, int64_t *b) {
    if (explains(traces, values, 0, 0, values[0])) {
        *symbol = NO_NODE, *a = 0, *b = values[0];
        return true;
    }
    for (int s = 0; s < N_SYMS; s++) {
        for (int i = 1; i < N_TRACES; i++) {
            int64_t step = (int64_t)traces[i].symbols[s] - (int64_t)traces[0].symbols[s];
            if (step == 0) {
                continue;
            }
            int64_t slope = (values[i] - values[0]) / step, base = values[0] - slope * (int64_t)traces[0].symbols[s];
            if (explains(traces, values, s, slope, base)) {
                *symbol = s, *a = slope, *b = base;
                return true;
            }
            break; /* the slope follows from any two traces that differ */
        }
    }
    return false;
}
