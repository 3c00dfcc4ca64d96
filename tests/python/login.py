"""Signs in over NATS knowing nothing but the subject and JSON: what `nats req svc.auth.v1.login '{...}'` sends.

Arguments: e-mail address and password. Prints the reply's headers and body as one JSON object.
"""

import asyncio
import json
import os
import sys

import nats


async def main() -> None:
    connection = await nats.connect(
        os.environ["NATS_URL"],
        nkeys_seed_str=os.environ["NATS_SEED"],
        inbox_prefix=os.environ["NATS_INBOX_PREFIX"],
    )
    body = json.dumps({"email": sys.argv[1], "password": sys.argv[2]}).encode()
    reply = await connection.request("svc.auth.v1.login", body, timeout=15)
    print(json.dumps({"headers": dict(reply.headers or {}), "body": json.loads(reply.data)}))
    await connection.close()


asyncio.run(main())
