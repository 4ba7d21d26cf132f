#!/usr/bin/env bash
# `samepage perplexity` tells the figure that libllama gives in the same chunks: with the embedded model, in one batch a chunk and in several.
set -euo pipefail
text=$SOURCE_DIR/docs/program.md
model=$SOURCE_DIR/models/pocket/pocket-q8_0.gguf

compare() { # compare CONTEXT CHUNKS
    "$SAMEPAGE" perplexity -t 1 -m "$model" -c "$1" --chunks "$2" --json "$text" >"$work/ours"
    "$BUILD_DIR/tests/score-text" "$model" "$text" "$1" "$2" >"$work/theirs"
    python3 - "$work/ours" "$work/theirs" "$1" <<'PYTHON'
import json, math, sys
ours = json.load(open(sys.argv[1]))
perplexity, error, count = (float(x) for x in open(sys.argv[2]).read().split())
print(f"chunks of {sys.argv[3]}: {ours['perplexity']:.6f} +/- {ours['error']:.6f}, libllama {perplexity:.6f} +/- {error:.6f}, of {int(count)} tokens")
assert ours["scored_tokens"] == count > 0
assert math.isclose(ours["perplexity"], perplexity, rel_tol=1e-6), "the figures differ"
assert math.isclose(ours["error"], error, rel_tol=1e-4), "the errors differ"
PYTHON
}

work=$(mktemp -d "$BUILD_DIR/perplexity.XXXXXX")
trap 'rm -rf "$work"' EXIT
compare 128 8
compare 1024 2
