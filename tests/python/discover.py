"""Reads $SRV.PING, INFO and STATS with the types of nats-py's own micro module (ADR-32).

Argument: how many answers are expected. Prints one JSON object: verb -> list of answers as received, every one of
which the micro module has taken.
"""

import asyncio
import json
import os
import sys

import nats
from nats.micro.service import ServiceInfo, ServicePing, ServiceStats

READERS = {"PING": ServicePing, "INFO": ServiceInfo, "STATS": ServiceStats}


# Seconds to wait at most for those that are expected, and then for any more.
WAIT_MAX = 20
WAIT_MORE = 0.5


async def gather(connection, subject: str, expected: int) -> list:
    answers = []
    inbox = connection.new_inbox()

    async def take(message) -> None:
        answers.append(json.loads(message.data))

    subscription = await connection.subscribe(inbox, cb=take)
    await connection.publish(subject, b"", reply=inbox)
    deadline = asyncio.get_running_loop().time() + WAIT_MAX
    while len(answers) < expected and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(0.02)
    await asyncio.sleep(WAIT_MORE)
    await subscription.unsubscribe()
    return answers


async def main() -> None:
    expected = int(sys.argv[1])
    connection = await nats.connect(
        os.environ["NATS_URL"],
        nkeys_seed_str=os.environ["NATS_SEED"],
        inbox_prefix=os.environ["NATS_INBOX_PREFIX"],
    )
    found = {}
    for verb, reader in READERS.items():
        found[verb] = await gather(connection, f"$SRV.{verb}", expected)
        for answer in found[verb]:
            reader.from_dict(answer)
    print(json.dumps(found))
    await connection.close()


asyncio.run(main())
