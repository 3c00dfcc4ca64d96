#!/usr/bin/env bash
# Submits an order as a job and prints the broker's acknowledgement. Needs the `nats` CLI.
#
#   NATS_URL=nats://127.0.0.1:4222 NATS_NKEY=<data>/nkeys/producer.nk ./producer.sh '{"items":[{"price":1.5,"count":2}]}'
set -euo pipefail

order=${1:?the order, in JSON}
# The job's id. Submitted again with the same one within two minutes, it is the same job.
key=${2:-$(cat /proc/sys/kernel/random/uuid)}

# A request, and not a publish: the acknowledgement is the promise.
nats request --raw --inbox-prefix "${NATS_INBOX_PREFIX:-_INBOX.producer}" \
  --header "Nats-Msg-Id:shop.order:$key" --header "Job-Max-Attempts:5" \
  jobs.shop.order "$order"
