#!/usr/bin/env bash
# What `samepage proof` shows, asserted: sharing adds next to nothing, copying adds all of it, every element is right.
set -euo pipefail

devices=$("$SAMEPAGE" devices --json | python3 -c 'import json, sys; print(*[d["name"] for d in json.load(sys.stdin) if d["unified"]])')
for device in $devices; do
    "$SAMEPAGE" proof --device "$device" --json | python3 -c '
import json, os, sys
p = json.load(sys.stdin)
assert p["device"] == sys.argv[1], p
assert p["shared_rss_bytes"] <= 104858, p
assert p["copied_rss_bytes"] >= 16 << 20, p
assert p["elements"] == 16384 and p["wrong"] == 0, p
assert p["same_frame"] is True if os.geteuid() == 0 else p["same_frame"] in (None, True), p
assert p["guest_address"] == p["device_address"], p
print(sys.argv[1], "adds", p["shared_rss_bytes"], "bytes shared,", p["copied_rss_bytes"], "copied")
' "$device"
done
# A device with memory of its own computes the same; its pages are others, and proof says so.
"$SAMEPAGE" proof --device discrete --json | python3 -c '
import json, sys
p = json.load(sys.stdin)
assert p["wrong"] == 0 and p["elements"] == 16384 and p["guest_address"] != p["device_address"], p'
