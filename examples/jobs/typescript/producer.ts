// Submits an order as a job and prints the job's id.
//
//   npm ci && npx tsc
//   NATS_URL=nats://127.0.0.1:4222 NATS_NKEY=<data>/nkeys/producer.nk \
//     node dist/producer.js '{"items":[{"price":1.5,"count":2}]}'

import { jetstream } from "@nats-io/jetstream";
import { connect, headers, nkeyAuthenticator } from "@nats-io/transport-node";
import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";

const [order = "{}"] = process.argv.slice(2);
const seed = readFileSync(process.env.NATS_NKEY!, "utf8").trim();
const connection = await connect({
  servers: process.env.NATS_URL!,
  authenticator: nkeyAuthenticator(new TextEncoder().encode(seed)),
  inboxPrefix: process.env.NATS_INBOX_PREFIX ?? "_INBOX.producer",
});

// The job's id. Submitted again with the same one within two minutes, it is the same job: so what timed out may simply be
// sent again.
const key = randomUUID();
const options = headers();
options.set("Job-Max-Attempts", "5");
// Resolves when the broker has stored it; rejects when it has not.
await jetstream(connection).publish("jobs.shop.order", order, { msgID: `shop.order:${key}`, headers: options });
console.log(key);
await connection.close();
