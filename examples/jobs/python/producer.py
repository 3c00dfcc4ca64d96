"""Submits an order as a job and prints the job's id. Needs `pip install "nats-py[nkeys]"`.

    NATS_URL=nats://127.0.0.1:4222 NATS_NKEY=<data>/nkeys/producer.nk \
        python3 producer.py '{"items": [{"price": 1.5, "count": 2}]}'
"""

import asyncio
import os
import sys
import uuid

import nats


async def main(order: str) -> None:
    connection = await nats.connect(
        os.environ["NATS_URL"],
        nkeys_seed=os.environ["NATS_NKEY"],
        inbox_prefix=os.environ.get("NATS_INBOX_PREFIX", "_INBOX.producer"),
    )
    # The job's id. Submitted again with the same one within two minutes, it is the same job: so what timed out may
    # simply be sent again.
    key = str(uuid.uuid4())
    # Returns when the broker has stored it; raises when it has not.
    await connection.jetstream().publish(
        "jobs.shop.order",
        order.encode(),
        headers={"Nats-Msg-Id": f"shop.order:{key}", "Job-Max-Attempts": "5"},
    )
    print(key)
    await connection.close()


asyncio.run(main(sys.argv[1]))
