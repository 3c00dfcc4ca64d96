"""Does the work of one kind, doubling `n`: fails the first attempt, tells its progress in the second, and then answers.

Arguments: queue, kind, number of jobs to do before it ends.
"""

import asyncio
import json
import os
import sys

import nats


async def main() -> None:
    queue, kind, number = sys.argv[1], sys.argv[2], int(sys.argv[3])
    connection = await nats.connect(
        os.environ["NATS_URL"],
        nkeys_seed_str=os.environ["NATS_SEED"],
        inbox_prefix=os.environ["NATS_INBOX_PREFIX"],
    )
    done = asyncio.Semaphore(0)

    async def work(message) -> None:
        if message.headers["Job-Attempt"] == "1":
            failed = {"Nats-Service-Error-Code": "500", "Nats-Service-Error": "not yet", "Job-Retry-After-Ms": "100"}
            await connection.publish(message.reply, b"", headers=failed)
            return
        running = {"Job-Status": "running", "Job-Progress": '{"percent": 50}'}
        await connection.publish(message.reply, b"", headers=running)
        arguments = json.loads(message.data)
        await message.respond(json.dumps({"doubled": arguments["n"] * 2}).encode())
        done.release()

    await connection.subscribe(f"work.{queue}.{kind}", queue="workers", cb=work)
    for _ in range(number):
        await done.acquire()
    await connection.drain()


asyncio.run(main())
