#!/usr/bin/env bash
# A JSON schema with nesting, arrays, enums and numbers: SAMPLES (1000) seeded answers of a model with random weights all parse and validate, 50 of them
# frozen at a random token and thawed. The judge is python3-jsonschema.
set -euo pipefail

schema=$SOURCE_DIR/tests/model/schema.json
samples=${SAMPLES:-1000}
frozen=${FROZEN:-50}

python=
for candidate in python3 /usr/bin/python3; do
    "$candidate" -c 'import jsonschema' 2>/dev/null && python=$candidate && break
done
[ -n "$python" ] || { echo "no Python with jsonschema: install python3-jsonschema"; exit 1; }

"$BUILD_DIR/tests/sample-schema" "$schema" "$samples" "$frozen" | "$python" -c '
import json, sys, jsonschema
schema = json.load(open(sys.argv[1]))
jsonschema.Draft202012Validator.check_schema(schema)
validator = jsonschema.Draft202012Validator(schema)
distinct = set()
n = 0
for n, line in enumerate(sys.stdin, 1):
    value = json.loads(line)
    validator.validate(value)
    distinct.add(line)
print(f"schema: {n} samples parse and validate, {sys.argv[3]} of them frozen on the way; {len(distinct)} differ from one another")
sys.exit(n != int(sys.argv[2]) or len(distinct) < n * 9 // 10)
' "$schema" "$samples" "$frozen"
