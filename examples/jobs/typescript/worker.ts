// Works off orders: answers each with its total. Ends after so many jobs, or at Ctrl-C.
//
//   npm ci && npx tsc
//   NATS_URL=nats://127.0.0.1:4222 NATS_NKEY=<data>/nkeys/worker.nk node dist/worker.js [JOBS]

import { connect, headers, nkeyAuthenticator } from "@nats-io/transport-node";
import { readFileSync } from "node:fs";

interface Order {
  items?: { price: number; count: number }[];
}

/** Another attempt is of no use. */
class Useless extends Error {}

function total(order: Order): { total: number } {
  if (!order.items?.length) {
    throw new Useless("an order without items");
  }
  return { total: order.items.reduce((sum, item) => sum + item.price * item.count, 0) };
}

function reply(fields: Record<string, string>) {
  const map = headers();
  Object.entries(fields).forEach(([name, value]) => map.set(name, value));
  return { headers: map };
}

const [jobs = "Infinity"] = process.argv.slice(2);
const seed = readFileSync(process.env.NATS_NKEY!, "utf8").trim();
const connection = await connect({
  servers: process.env.NATS_URL!,
  authenticator: nkeyAuthenticator(new TextEncoder().encode(seed)),
  inboxPrefix: process.env.NATS_INBOX_PREFIX ?? "_INBOX.worker",
});
process.once("SIGINT", () => connection.drain());

// In a queue group, each job goes to one of the workers.
const work = connection.subscribe("work.shop.order", { queue: "workers" });
let left = Number(jobs);
for await (const message of work) {
  // What takes long says so every ten seconds, and may tell how far it has come.
  message.respond("", reply({ "Job-Status": "running", "Job-Progress": '{"percent":50}' }));
  try {
    // A job may come twice: key what must happen once by this id.
    const job = message.headers?.get("Job-Id");
    const result = total(message.json<Order>());
    console.log(job, result);
    message.respond(JSON.stringify(result));
  } catch (error) {
    const said = error instanceof Error ? error.message : String(error);
    const failed = { "Nats-Service-Error-Code": "500", "Nats-Service-Error": said };
    message.respond("", reply(error instanceof Useless ? { ...failed, "Job-Permanent": "true" } : failed));
  }
  left -= 1;
  if (left <= 0) break;
}
await connection.drain();
