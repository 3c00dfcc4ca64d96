"""Does the work of one kind until it is killed. The effect of a job is a file named after it, made once however often the job
runs; a job that is to fail has none. Every run is noted in a file of its own process.

Arguments: queue, kind, folder of the effects, file of the runs.
"""

import asyncio
import json
import os
import sys

import nats


async def main() -> None:
    queue, kind, effects, runs = sys.argv[1:5]
    connection = await nats.connect(
        os.environ["NATS_URL"],
        nkeys_seed_str=os.environ["NATS_SEED"],
        inbox_prefix=os.environ["NATS_INBOX_PREFIX"],
        max_reconnect_attempts=-1,
        reconnect_time_wait=0.2,
    )
    with open(runs, "a", buffering=1, encoding="ascii") as noted:

        async def work(message) -> None:
            job = message.headers["Job-Id"]
            noted.write(job + "\n")
            if json.loads(message.data)["fails"]:
                failed = {"Nats-Service-Error-Code": "500", "Nats-Service-Error": "fails as it was asked to"}
                await connection.publish(message.reply, b"", headers=failed)
                return
            try:
                os.close(os.open(os.path.join(effects, job), os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                pass
            await message.respond(b"")

        await connection.subscribe(f"work.{queue}.{kind}", queue="workers", cb=work)
        await asyncio.Event().wait()


asyncio.run(main())
