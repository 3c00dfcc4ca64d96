"""Publishes a job as anybody may who has the right, and waits for the acknowledgement.

Arguments: queue, kind, key, arguments in JSON. Prints the acknowledgement as one JSON object.
"""

import asyncio
import json
import os
import sys

import nats


async def main() -> None:
    queue, kind, key, arguments = sys.argv[1:]
    connection = await nats.connect(
        os.environ["NATS_URL"],
        nkeys_seed_str=os.environ["NATS_SEED"],
        inbox_prefix=os.environ["NATS_INBOX_PREFIX"],
    )
    stored = await connection.jetstream().publish(
        f"jobs.{queue}.{kind}",
        arguments.encode(),
        headers={"Nats-Msg-Id": f"{queue}.{kind}:{key}"},
    )
    print(json.dumps({"stream": stored.stream, "duplicate": bool(stored.duplicate)}))
    await connection.close()


asyncio.run(main())
