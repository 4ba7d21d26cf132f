#!/usr/bin/env bash
# Kills a chat at random moments. SAMEPAGE_KILLS says how often: a few here; the record is make kill.
set -euo pipefail
store=$(mktemp -d)
trap 'rm -rf "$store"' EXIT
python3 "$SOURCE_DIR/tests/cli/kill_chat.py" "$SAMEPAGE" "$store" "${SAMEPAGE_KILLS:-60}"
