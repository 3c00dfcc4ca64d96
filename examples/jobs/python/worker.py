"""Works off orders: answers each with its total. Needs `pip install "nats-py[nkeys]"`.

    NATS_URL=nats://127.0.0.1:4222 NATS_NKEY=<data>/nkeys/worker.nk python3 worker.py [JOBS]

Ends after so many jobs, or at Ctrl-C.
"""

import asyncio
import json
import os
import signal
import sys

import nats
from nats.aio.msg import Msg


class Useless(Exception):
    """Another attempt is of no use."""


def total(order: dict) -> dict:
    if not order.get("items"):
        raise Useless("an order without items")
    return {"total": sum(item["price"] * item["count"] for item in order["items"])}


async def main(jobs: float) -> None:
    connection = await nats.connect(
        os.environ["NATS_URL"],
        nkeys_seed=os.environ["NATS_NKEY"],
        inbox_prefix=os.environ.get("NATS_INBOX_PREFIX", "_INBOX.worker"),
    )
    done, ended = 0, asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, ended.set)

    async def work(message: Msg) -> None:
        nonlocal done
        # What takes long says so every ten seconds, and may tell how far it has come.
        running = {"Job-Status": "running", "Job-Progress": '{"percent": 50}'}
        await connection.publish(message.reply, headers=running)
        try:
            # A job may come twice: key what must happen once by this id.
            job = message.headers["Job-Id"]
            result = total(json.loads(message.data))
            print(job, result)
            await message.respond(json.dumps(result).encode())
        except Exception as error:
            failed = {"Nats-Service-Error-Code": "500", "Nats-Service-Error": str(error)}
            if isinstance(error, Useless):
                failed["Job-Permanent"] = "true"
            await connection.publish(message.reply, headers=failed)
        done += 1
        if done >= jobs:
            ended.set()

    # In a queue group, each job goes to one of the workers.
    await connection.subscribe("work.shop.order", queue="workers", cb=work)
    await ended.wait()
    await connection.drain()


asyncio.run(main(float(sys.argv[1]) if len(sys.argv) > 1 else float("inf")))
