#!/usr/bin/env bash
# The work of worker.sh: one order in, its total out.
set -euo pipefail

jq --compact-output '{total: (.items | map(.price * .count) | add)}' <<<"$NATS_REQUEST_BODY"
