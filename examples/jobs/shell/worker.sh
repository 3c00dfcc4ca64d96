#!/usr/bin/env bash
# Works off orders: answers each with its total. Needs the `nats` CLI and `jq`.
#
#   NATS_URL=nats://127.0.0.1:4222 NATS_NKEY=<data>/nkeys/worker.nk ./worker.sh
set -euo pipefail

# What the command prints is the result of the job. The arguments come by the environment and never become part of the
# command line, where they could be more than arguments.
exec nats reply --inbox-prefix "${NATS_INBOX_PREFIX:-_INBOX.worker}" --queue workers \
  work.shop.order --command "$(dirname "$0")/total.sh"
