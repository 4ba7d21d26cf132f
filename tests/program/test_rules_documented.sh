#!/bin/bash
# docs/program.md has the table of rules as the code has it. To mend it: program-rules > the part between the two marks.
set -euo pipefail
diff -u <(sed -n '/^<!-- rules: begin -->$/,/^<!-- rules: end -->$/{//!p}' "$SOURCE_DIR/docs/program.md") <("$BUILD_DIR/tests/program-rules")
