"""The hostile clients of the soak, in rotation and at bounded rates. All come from other addresses than the good ones.

The argument is the settings as JSON. A line of JSON a window tells what was done; runs until standard input ends.
"""

import asyncio
import contextvars
import json
import logging
import os
import random
import socket
import ssl
import struct
import sys
import time

import wire

SETTINGS = json.loads(sys.argv[1])
# As many kinds at a time; each lasts some seconds, and the next one takes its place.
AT_A_TIME = SETTINGS.get("at_a_time", 4)
LISTENERS = {listener["name"]: listener for listener in SETTINGS["listeners"]}
RANDOM = random.Random(SETTINGS.get("seed", 1))

done, problems = {}, []


class Tally:
    def __init__(self):
        self.bursts = self.connections = self.closed = self.bytes = 0


# That of the kind whose burst the running task belongs to.
tally = contextvars.ContextVar("tally")


class Line:
    """A raw connection; nothing that happens to it is an error."""

    def __init__(self, reader, writer, counts):
        self.reader, self.writer, self.counts = reader, writer, counts

    async def send(self, data, drain=True):
        """Answers whether the broker still takes it."""
        try:
            self.writer.write(data)
            self.counts.bytes += len(data)
            if drain:
                await asyncio.wait_for(self.writer.drain(), 10)
            return not self.writer.is_closing()
        except (OSError, asyncio.TimeoutError):
            return False

    async def closed(self, seconds=8):
        """Reads until the broker closes; answers whether it did within the time."""
        until = time.monotonic() + seconds
        try:
            while (left := until - time.monotonic()) > 0:
                if not await asyncio.wait_for(self.reader.read(65536), left):
                    self.counts.closed += 1
                    return True
        except asyncio.TimeoutError:
            return False
        except OSError:
            self.counts.closed += 1
            return True
        return False

    def reset(self):
        """Ends it with RST."""
        raw = self.writer.get_extra_info("socket")
        if raw is not None and self.writer.get_extra_info("ssl_object") is None:
            try:
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            except OSError:
                pass
        self.writer.transport.abort()

    def leave(self):
        self.writer.close()


async def dial(listener="mqtt", secure=None, small=False):
    """A TCP connection, with TLS where the listener has it and `secure` is not False."""
    counts = tally.get()
    target = LISTENERS[listener]
    raw = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    raw.setblocking(False)
    if small:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.bind((f"127.0.0.{RANDOM.randrange(2, 250)}", 0))
    await asyncio.get_running_loop().sock_connect(raw, ("127.0.0.1", target["port"]))
    if secure is None:
        secure = target["protocol"] in ("mqtts", "wss")
    limit = 4096 if small else 65536
    reader, writer = await asyncio.open_connection(
        sock=raw, limit=limit, **({"ssl": wire.tls_of(SETTINGS["ca"]), "server_hostname": ""} if secure else {}))
    counts.connections += 1
    return Line(reader, writer, counts)


def hello(name="", version=5, **more):
    """A CONNECT that is let in, as a user that may do a little."""
    more.setdefault("username", "mallory")
    more.setdefault("password", SETTINGS["hostile_token"])
    return wire.connect(name or f"hostile-{RANDOM.randrange(1 << 40):x}", version=version, **more)


async def let_in(listener="mqtt", small=False, **more):
    line = await dial(listener, small=small)
    await line.send(hello(**more))
    try:
        first = await asyncio.wait_for(line.reader.readexactly(4), 10)
        if first[0] == 0x20:
            # The rest of the CONNACK.
            await line.reader.readexactly(first[1] - 2)
    except (OSError, EOFError, asyncio.TimeoutError):
        pass
    return line


async def each(count, rate, one):
    """`one(number)` so many times, so many a second, side by side."""
    running = []
    for number in range(count):
        running.append(asyncio.ensure_future(one(number)))
        await asyncio.sleep(1 / rate)
    await asyncio.gather(*running, return_exceptions=True)


def any_listener():
    return RANDOM.choice([name for name in LISTENERS if LISTENERS[name]["protocol"] in ("mqtt", "mqtts")])


V5 = 5
MALFORMED = [
    b"\x00\x00", b"\xf1\x00", b"\x30\xff\xff\xff\xff\x7f", b"\x36\x05\x00\x01t\x00\x01", b"\x31\x00", b"\x82\x02\x00\x01",
    b"\x80\x05\x00\x01\x00\x00\x00", b"\x82\x00", b"\xa2\x03\x00\x01\x00", b"\x40\x01\x00", b"\x40\x00", b"\x62\x00",
    b"\x60\x02\x00\x01", b"\xc0\x01\x00", b"\xe0\x05\x00\xff\xff\xff\xff", b"\xf0\x02\x00\x00", b"\x3e\x02\x00\x00",
    b"\x30\x02\x00\x05", b"\x30\x04\x00\x01t\xff", b"\x30\x06\x00\x01t\x02\x01\x02", b"\x30\x06\x00\x01t\x02\x63\x00",
    b"\x32\x06\x00\x01t\x00\x00\x00", b"\x82\x07\x00\x01\x00\x00\x01a\x03", b"\x82\x07\x00\x01\x00\x00\x01a\xc0",
    b"\x82\x06\x00\x01\x00\x00\x00\x00", b"\xc1\x00", b"\x38\x04\x00\x01t\x00",
]


async def malformed():
    async def one(number):
        line = await let_in(any_listener())
        await line.send(MALFORMED[number % len(MALFORMED)])
        if not await line.closed():
            problems.append(f"malformed packet {MALFORMED[number % len(MALFORMED)].hex()} did not close the connection")
        line.leave()
    await each(2 * len(MALFORMED), 40, one)


async def malformed_connects():
    whole = hello("victim")

    async def one(number):
        line = await dial(any_listener())
        damaged = bytearray(whole)
        for _ in range(1 + number % 4):
            damaged[RANDOM.randrange(2, 24)] ^= 1 << RANDOM.randrange(8)
        await line.send(bytes(damaged))
        await line.closed(7)
        line.leave()
    await each(100, 40, one)


async def truncated():
    packets = [hello("cut"), wire.publish("hostile/a", b"x" * 500, 1, 1), wire.subscribe([("hostile/#", 1)])]

    async def one(number):
        line = await dial(any_listener())
        data = packets[number % 3]
        if number % 3:
            await line.send(hello())
        await line.send(data[:RANDOM.randrange(1, len(data))])
        line.reset() if number % 2 else line.leave()
    await each(150, 60, one)


async def oversize():
    async def one(number):
        if number % 2:
            line = await dial(any_listener())
            await line.send(b"\x10" + wire.varint(200_000 + number) + b"\0\4MQTT\5\2\0\0" + b"x" * 65536)
        else:
            line = await let_in(any_listener())
            await line.send(b"\x30" + wire.varint(0x0FFFFFFF) + b"\0\x09hostile/a" + b"x" * 65536)
        await line.closed()
        line.leave()
    await each(40, 20, one)


async def wrong_direction():
    async def one(number):
        line = await let_in(any_listener(), version=4 + number % 2)
        await line.send([b"\x20\x02\0\0", b"\x90\x03\0\1\0", b"\xb0\x02\0\1", b"\xd0\0", hello("again")][number % 5])
        if not await line.closed():
            problems.append(f"wrong direction {number % 5} did not close the connection")
        line.leave()
    await each(60, 40, one)


async def half_open():
    async def one(number):
        name = RANDOM.choice(list(LISTENERS))
        line = await dial(name, secure=False)
        if number % 3 == 0:
            await line.send(b"\x10")
        if not await line.closed(20):
            problems.append(f"a silent connection to {name} was not closed within 20 s")
        line.leave()
    await each(100, 50, one)


async def slow_loris():
    async def one(number):
        line = await dial(any_listener())
        for byte in hello(f"loris-{number}"):
            if not await line.send(bytes([byte])):
                break
            await asyncio.sleep(0.4)
            if line.reader.at_eof():
                line.counts.closed += 1
                break
        line.leave()
    await each(60, 30, one)


async def connect_flood():
    async def one(number):
        line = await dial("mqtt")
        await line.send(hello(f"flood-{number}"))
        line.reset() if number % 2 else line.leave()
    await each(600, 150, one)


async def silent_keep_alive():
    async def one(number):
        line = await let_in(any_listener(), keep_alive=1)
        if not await line.closed(6):
            problems.append("a client that was silent for 6 s of a keep alive of 1 s was not disconnected")
        line.leave()
    await each(40, 20, one)


async def subscription_flood():
    async def one(number):
        line = await let_in("mqtt")
        for start in range(0, 1500, 50):
            filters = [(f"hostile/{number}/{index}/+/#", 1) for index in range(start, start + 50)]
            if not await line.send(wire.subscribe(filters, 1 + start)):
                break
            await asyncio.sleep(0.05)
        await line.closed(1)
        line.leave()
    await each(8, 2, one)


async def deep_topics():
    deep = b"/" * 65535
    levels = b"a/" * 32767

    async def one(number):
        line = await let_in("mqtt")
        await line.send([wire.publish(deep, b"x"), wire.publish(levels, b"x", 1, 1), wire.subscribe([(deep, 1)]),
                         wire.subscribe([(b"+/" * 32767, 1)]), wire.subscribe([(b"hostile/" + b"+/" * 30 + b"#", 1)])]
                        [number % 5])
        await line.closed(2)
        line.leave()
    await each(40, 20, one)


BAD_TEXT = [b"\xff\xfe", b"\xc0\x80", b"\xed\xa0\x80", b"a\0b", b"\xf4\x90\x80\x80", b"\xe2\x82", b"\x80"]


async def bad_text():
    async def one(number):
        bad = BAD_TEXT[number % len(BAD_TEXT)]
        where = number // len(BAD_TEXT) % 6
        if where < 3:
            line = await dial(any_listener())
            await line.send([wire.connect(bad), hello("bad", username=bad),
                             hello("bad", will=(b"hostile/" + bad, b"x", 0, False))][where])
        else:
            line = await let_in(any_listener())
            await line.send([wire.publish(b"hostile/" + bad, b"x"), wire.subscribe([(b"hostile/" + bad, 1)]),
                             wire.publish("hostile/a", b"x", properties=b"\x26" + wire.text(bad) + wire.text("x"))]
                            [where - 3])
        if not await line.closed():
            problems.append(f"text {bad!r} in place {where} did not close the connection")
        line.leave()
    await each(6 * len(BAD_TEXT), 30, one)


async def dollar_topics():
    async def one(number):
        line = await let_in(any_listener(), version=4 + number % 2)
        version = 4 + number % 2
        for name in ("$SYS/#", "$share/g/$SYS/#", "$share//a", "$share/g", "$share/g+/a", "$queue/a", "$", "#", "+/#"):
            await line.send(wire.subscribe([(name, 1)], 7, version))
        for name in ("$SYS/broker/uptime", "$share/g/hostile/a", "$", "$SYS"):
            await line.send(wire.publish(name, b"x", 1, 3, version))
        await line.closed(1)
        line.leave()
    await each(40, 20, one)


async def denied():
    async def one(number):
        version = 4 + number % 2
        line = await let_in(any_listener(), version=version)
        for index in range(1, 40):
            if not await line.send(wire.publish("good/qos1/0", b"forged" * 10, index % 3, index, version)):
                break
            await asyncio.sleep(0.02)
        await line.closed(1)
        line.leave()
    await each(20, 10, one)


async def stalled():
    """Subscribers of the good clients' messages, and of large ones, that never read."""
    async def one(number):
        line = await let_in("mqtts" if number % 3 == 1 else "mqtt", small=True, keep_alive=0,
                            version=4 + number % 2)
        await line.send(wire.subscribe([("good/#", number % 3), ("hostile/large", number % 3)], 1, 4 + number % 2))
        line.writer.transport.pause_reading()
        await asyncio.sleep(35)
        line.reset()

    async def speaker():
        line = await let_in("mqtt")
        for number in range(1, 60):
            if not await line.send(wire.publish("hostile/large", bytes(100_000), number % 2, number)):
                break
            await asyncio.sleep(0.5)
        line.leave()
    await asyncio.gather(each(20, 10, one), speaker(), return_exceptions=True)


async def no_acknowledgement():
    """Subscribers that read and never acknowledge."""
    async def one(number):
        version = 4 + number % 2
        line = await let_in("mqtt", version=version, keep_alive=0)
        await line.send(wire.subscribe([("good/qos1/#", 1), ("good/qos2/#", 2)], 1, version))
        await line.closed(30)
        line.leave()
    await each(10, 10, one)


async def takeover_storm():
    async def one(number):
        line = await let_in("mqtt", name="the-one", version=4 + number % 2, clean=number % 3 == 0)
        await line.send(wire.subscribe([("hostile/#", 1)], 1, 4 + number % 2))
        await line.closed(5)
        line.leave()
    await each(200, 60, one)


async def will_storm():
    heir = await let_in("mqtt", keep_alive=0)
    await heir.send(wire.subscribe([("hostile/will/#", 2)]))

    async def one(number):
        will = (f"hostile/will/{number % 10}", b"x" * 1000, number % 3, number % 2 == 0)
        line = await let_in("mqtt", will=will)
        line.reset()
    await each(200, 80, one)
    await heir.closed(1)
    heir.leave()


async def reused_ids():
    async def one(number):
        version = 4 + number % 2
        line = await let_in("mqtt", version=version)
        for _ in range(20):
            await line.send(wire.publish("hostile/ids", b"x", 2, 7, version, dup=number % 3 == 0), drain=False)
        for kind in (wire.PUBREL, wire.PUBACK, wire.PUBREC, wire.PUBCOMP):
            await line.send(wire.acknowledge(kind, 4711))
        await line.send(wire.subscribe([("hostile/ids", 2)], 7, version))
        await line.send(wire.subscribe([("hostile/ids", 2)], 0, version))
        await line.closed(2)
        line.leave()
    await each(60, 30, one)


async def receive_maximum():
    async def one(number):
        line = await let_in("mqtt")
        for index in range(1, 400):
            await line.send(wire.publish("hostile/window", b"x", 2, index), drain=False)
        if not await line.closed():
            problems.append("399 QoS 2 messages without a PUBREL did not close the connection")
        line.leave()
    await each(20, 10, one)


async def aliases():
    async def one(number):
        line = await let_in("mqtt")
        alias = [0, 65535, 3][number % 3]
        await line.send(wire.publish("" if alias == 3 else "hostile/a", b"x", properties=b"\x23" + struct.pack(">H", alias)))
        if not await line.closed():
            problems.append(f"topic alias {alias} did not close the connection")
        line.leave()
    await each(30, 20, one)


async def property_bombs():
    async def one(number):
        many = b"".join(b"\x26" + wire.text("k") + wire.text("v" * 10) for _ in range(5000))
        if number % 2:
            line = await dial("mqtt")
            await line.send(hello("bomb", properties=many))
        else:
            line = await let_in("mqtt")
            await line.send(wire.publish("hostile/a", b"x", 1, 1, properties=many))
        await line.closed(2)
        line.leave()
    await each(30, 15, one)


async def tls_garbage():
    async def one(number):
        line = await dial("mqtts", secure=False)
        await line.send([os.urandom(500), b"\x16\x03\x01\xff\xff" + os.urandom(300), b"GET / HTTP/1.0\r\n\r\n", hello(),
                         b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + os.urandom(40)][number % 5])
        await line.closed(7)
        line.leave()
    await each(60, 30, one)


async def websocket_garbage():
    async def one(number):
        line = await dial("ws")
        request = [b"GET /mqtt HTTP/1.1\r\n\r\n", b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n\r\n", os.urandom(300), hello(),
                   b"GET /mqtt HTTP/1.1\r\n" + b"A: b\r\n" * 5000, wire.upgrade("/elsewhere"),
                   wire.upgrade().replace(b"protocol: mqtt".title(), b"Protocol: chat")]
        if number % 2:
            await line.send(request[number // 2 % len(request)])
        else:
            await line.send(wire.upgrade())
            data = [wire.frame(b"text", opcode=1), b"\x82\x03abc", b"\x82\xff" + b"\x7f" * 8 + b"\0\0\0\0",
                    wire.frame(b"x", opcode=3), wire.frame(b"x" * 200, opcode=9), os.urandom(400),
                    wire.frame(hello(), final=False) + wire.frame(b"\xc0", opcode=0, final=False) * 500,
                    wire.frame(b"", opcode=2) * 2000, wire.frame(b"p", opcode=9) * 2000]
            await line.send(data[number // 2 % len(data)])
        await line.closed(7)
        line.leave()
    await each(72, 30, one)


async def proxy_garbage():
    async def one(number):
        line = await dial("proxied")
        await line.send([b"PROXY TCP4 a b c d\r\n", b"PROXY " + b"x" * 500, os.urandom(300), hello(), b"PROXY TCP4 1.2.3.4",
                         b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff" + b"x" * 100, b"\r\n\r\n\0\r\nQUIT\n\x91\x11\0\0",
                         b"PROXY TCP4 10.1.2.3 10.1.2.4 1 2\r\n" + hello() + b"\xc0\0"][number % 8])
        await line.closed(7)
        line.leave()
    await each(64, 30, one)


async def random_bytes():
    async def one(number):
        name = RANDOM.choice(list(LISTENERS))
        line = await dial(name, secure=None if number % 2 else False)
        if number % 3 == 0 and LISTENERS[name]["protocol"] in ("mqtt", "mqtts"):
            await line.send(hello())
        await line.send(os.urandom(RANDOM.randrange(1, 3000)))
        await line.closed(7)
        line.leave()
    await each(80, 30, one)


async def wrong_passwords():
    async def one(number):
        line = await dial("mqtt")
        await line.send(wire.connect(f"thief-{number}", "good", "guess", 4 + number % 2))
        if not await line.closed():
            problems.append("a wrong password did not close the connection")
        line.leave()
    await each(10, 1, one)


async def forged_tokens():
    head, body, signature = SETTINGS["hostile_token"].split(".")

    async def one(number):
        token = [f"{head}.{body}.{signature[::-1]}", f"{head}.{body}.", "a.b.c", f"{head}.{body[:-4]}AAAA.{signature}",
                 "eyJhbGciOiJub25lIn0.e30."][number % 5]
        line = await dial(any_listener())
        await line.send(wire.connect(f"forger-{number}", "good", token, 4 + number % 2))
        if not await line.closed():
            problems.append("a forged token did not close the connection")
        line.leave()
    await each(60, 30, one)


async def large_messages():
    async def one(number):
        line = await let_in("mqtt")
        await line.send(wire.subscribe([("hostile/mine", 1)]))
        for index in range(1, 10):
            if not await line.send(wire.publish("hostile/mine", bytes(900_000), index % 2, index)):
                break
            await asyncio.sleep(0.2)
        await line.closed(1)
        line.leave()
    await each(3, 1, one)


async def retained_flood():
    line = await let_in("mqtt", keep_alive=0)
    for number in range(2000):
        await line.send(wire.publish(f"hostile/retained/{number}", b"x" * 200, 0, retain=True))
        if number % 20 == 0:
            await asyncio.sleep(0.02)
    reader = await let_in("mqtt", keep_alive=0)
    await reader.send(wire.subscribe([("hostile/retained/#", 0)]))
    await reader.closed(1)
    for number in range(2000):
        await line.send(wire.publish(f"hostile/retained/{number}", b"", 0, retain=True))
        if number % 20 == 0:
            await asyncio.sleep(0.02)
    reader.leave()
    line.leave()


async def abandoned_sessions():
    """Sessions that outlive their connections, on names that are used again."""
    async def one(number):
        version = 4 + number % 2
        line = await let_in("mqtt", name=f"abandoned-{number}", version=version, clean=False,
                            expiry=20 if version == 5 else 0)
        await line.send(wire.subscribe([("hostile/#", 1), (f"hostile/{number}/+", 2)], 1, version))
        line.reset() if number % 2 else line.leave()
    await each(300, 100, one)


async def admin_port():
    async def one(number):
        reader, writer = await asyncio.open_connection("127.0.0.1", SETTINGS["admin"])
        tally.get().connections += 1
        writer.write([b"GET /metrics HTTP/1.1\r\nHost: a\r\n", os.urandom(200), b"GET " + b"/x" * 5000 + b" HTTP/1.1\r\n\r\n",
                      b"DELETE /api/v1/sessions/x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"][number % 4])
        await asyncio.sleep(1)
        writer.close()
    await each(40, 20, one)


KINDS = [
    malformed, malformed_connects, truncated, oversize, wrong_direction, half_open, slow_loris, connect_flood,
    silent_keep_alive, subscription_flood, deep_topics, bad_text, dollar_topics, denied, stalled, no_acknowledgement,
    takeover_storm, will_storm, reused_ids, receive_maximum, aliases, property_bombs, tls_garbage, websocket_garbage,
    proxy_garbage, random_bytes, wrong_passwords, forged_tokens, large_messages, retained_flood, abandoned_sessions,
    admin_port,
]


async def burst(kind):
    name = kind.__name__.replace("_", " ")
    counts = done.setdefault(name, Tally())
    counts.bursts += 1
    tally.set(counts)
    try:
        await asyncio.wait_for(kind(), 90)
    except (OSError, EOFError, asyncio.TimeoutError, ssl.SSLError) as error:
        # The broker may end anything that is done here, at any time.
        if isinstance(error, asyncio.TimeoutError):
            problems.append(f"{name}: not over within 90 s")


async def tell():
    while True:
        await asyncio.sleep(SETTINGS["window"])
        kinds = {name: vars(counts) for name, counts in done.items()}
        print(json.dumps({"kinds": kinds, "problems": problems[:200]}), flush=True)


async def main():
    only = SETTINGS.get("only")
    if only:
        KINDS[:] = [kind for kind in KINDS if kind.__name__ in only]
    # Resets and refusals by the broker are what this is about; asyncio would tell of each.
    logging.disable()
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
    print(json.dumps({"ready": True}), flush=True)
    # One rotation, out of which several take.
    queue = []

    async def worker():
        while True:
            if not queue:
                queue.extend(RANDOM.sample(KINDS, len(KINDS)))
            await asyncio.create_task(burst(queue.pop()))
            await asyncio.sleep(0.5)
    running = [asyncio.create_task(worker()) for _ in range(AT_A_TIME)] + [asyncio.create_task(tell())]
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    for task in running:
        task.cancel()
    os._exit(0)


os.nice(10)
asyncio.run(main())
