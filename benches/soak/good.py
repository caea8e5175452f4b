"""The good clients of the soak: steady traffic whose every message is numbered and timed.

The argument is the settings as JSON. A line of JSON a window tells what happened in it; runs until standard input ends.
"""

import asyncio
import gc
import json
import struct
import sys
import time

import wire

SETTINGS = json.loads(sys.argv[1])
WINDOW = SETTINGS["window"]
RATE = SETTINGS["rate"]
STAMP = struct.Struct(">QQ")
PADDING = b"." * 84
KEEP_ALIVE = 20


class Window:
    """What happened since the last line."""

    def __init__(self):
        self.latencies, self.connects = [], []
        self.sent = self.delivered = self.away = 0
        self.lost = self.lost_qos0 = self.duplicates = self.redelivered = 0
        self.disconnects, self.errors = [], []


window = Window()
started = time.monotonic()


def note(text):
    if len(window.errors) < 20:
        window.errors.append(f"{time.monotonic() - started:.1f} s: {text}")


class Stream:
    """The messages of one publisher as one subscriber, or one group of them, gets them."""

    def __init__(self, name, qos):
        self.name, self.qos = name, qos
        self.next, self.sent = 0, 0
        self.timed = True
        # Of a shared stream: numbers that have come, because there is no order between the members.
        self.pending = None

    def got(self, number, at, sent_at, dup):
        window.delivered += 1
        if self.timed:
            window.latencies.append((at - sent_at) // 1000)
        else:
            window.away += 1
        if self.pending is not None:
            if number < self.next or number in self.pending:
                return self.twice(number, dup)
            self.pending.add(number)
            while self.next in self.pending:
                self.pending.discard(self.next)
                self.next += 1
        elif number < self.next:
            self.twice(number, dup)
        else:
            if number > self.next:
                self.missing(number - self.next, number)
            self.next = number + 1

    def twice(self, number, dup):
        # The protocol lets a QoS 1 message come again after a lost connection, and marks it.
        if self.qos == 1 and dup:
            window.redelivered += 1
        else:
            window.duplicates += 1
            note(f"{self.name}: {number} came again")

    def missing(self, count, until):
        if self.qos == 0:
            window.lost_qos0 += count
        else:
            window.lost += count
        note(f"{self.name}: {count} lost before {until}")


class Client(wire.Way):
    """Answers what has to be answered, and times what comes."""

    def __init__(self, websocket, name, version):
        super().__init__(websocket)
        self.name, self.version = name, version
        self.streams, self.answers = {}, {}
        self.number = 0
        self.unacknowledged, self.releasing, self.seen = set(), set(), set()
        self.expected = False
        self.over = asyncio.get_running_loop().create_future()

    def data_received(self, data):
        self.now = time.monotonic_ns()
        super().data_received(data)

    def received(self, first, body):
        kind = first >> 4
        if kind == wire.PUBLISH:
            self.message(first, body)
        elif kind in (wire.PUBACK, wire.PUBCOMP):
            number = body[0] << 8 | body[1]
            if len(body) > 2 and body[2] >= 0x80:
                note(f"{self.name}: refused with {body[2]:#x}")
            if number not in self.unacknowledged:
                note(f"{self.name}: acknowledgement of {number}, which is not under way")
            self.unacknowledged.discard(number)
        elif kind == wire.PUBREC:
            if len(body) > 2 and body[2] >= 0x80:
                note(f"{self.name}: refused with {body[2]:#x}")
                self.unacknowledged.discard(body[0] << 8 | body[1])
            else:
                self.send(wire.acknowledge(wire.PUBREL, body[0] << 8 | body[1]))
        elif kind == wire.PUBREL:
            self.seen.discard(body[0] << 8 | body[1])
            self.send(wire.acknowledge(wire.PUBCOMP, body[0] << 8 | body[1]))
        elif kind == wire.DISCONNECT:
            if not self.expected:
                note(f"{self.name}: DISCONNECT {body[0] if body else 0:#x} {body[2:80]!r}")
        elif kind != wire.PINGRESP:
            future = self.answers.get(kind)
            if future and not future.done():
                future.set_result(body)

    def message(self, first, body):
        qos, size = first >> 1 & 3, body[0] << 8 | body[1]
        topic, at, number = body[2:2 + size], 2 + size, 0
        if qos:
            number, at = body[at] << 8 | body[at + 1], at + 2
        if self.version == 5:
            # Properties of our own messages are shorter than 128 bytes.
            at += 1 + body[at]
        again = qos == 2 and number in self.seen
        if qos == 2:
            self.seen.add(number)
        stream = self.streams.get(topic) or self.streams.get(None)
        if stream and not again:
            sequence, sent_at = STAMP.unpack_from(body, at)
            stream.got(sequence, self.now, sent_at, bool(first & 8))
        if qos == 1:
            self.send(wire.acknowledge(wire.PUBACK, number))
        elif qos == 2:
            self.send(wire.acknowledge(wire.PUBREC, number))

    def lost(self):
        if not self.expected:
            window.disconnects.append(self.name)
            note(f"{self.name}: disconnected")
        if not self.over.done():
            self.over.set_result(None)
        for future in self.answers.values():
            if not future.done():
                future.set_exception(ConnectionError("closed"))

    async def ask(self, kind, data):
        future = self.answers[kind] = asyncio.get_running_loop().create_future()
        self.send(data)
        return await asyncio.wait_for(future, 30)

    async def subscribe(self, name, qos):
        answer = await self.ask(wire.SUBACK, wire.subscribe([(name, qos)], 1, self.version))
        if answer[-1] >= 0x80:
            raise RuntimeError(f"{self.name}: {name} refused with {answer[-1]:#x}")

    def publish(self, topic, stream, qos, retain=False):
        number = 0
        if qos:
            number = self.number = self.number % 65535 + 1
            self.unacknowledged.add(number)
        payload = STAMP.pack(stream.sent, time.monotonic_ns()) + PADDING
        stream.sent += 1
        window.sent += 1
        self.send(wire.publish(topic, payload, qos, number, self.version, retain))

    async def acknowledged(self):
        """Until all that was sent is; False when the connection ended before."""
        while self.unacknowledged and not self.over.done():
            await asyncio.sleep(0.005)
        return not self.unacknowledged

    def leave(self, politely=True):
        self.expected = True
        if politely:
            self.send(b"\xe0\0")
            self.transport.close()
        else:
            self.transport.abort()


async def connect(name, listener, version, clean=True, password=None, streams=None):
    began = time.monotonic_ns()
    client = await asyncio.wait_for(
        wire.dial(lambda websocket: Client(websocket, name, version), listener, SETTINGS["ca"]), 30)
    client.streams = streams or {}
    hello = wire.connect(name, "good", password or SETTINGS["token"], version, clean, KEEP_ALIVE,
                         expiry=0 if clean or version != 5 else 600)
    answer = await client.ask(wire.CONNACK, hello)
    if answer[1]:
        client.expected = True
        client.transport.abort()
        raise RuntimeError(f"{name}: refused with {answer[1]:#x}")
    if password is None:
        window.connects.append((time.monotonic_ns() - began) // 1000)
    client.present = bool(answer[0] & 1)
    spawn(ping(client))
    return client


async def ping(client):
    while not client.over.done():
        await asyncio.sleep(KEEP_ALIVE / 2)
        if not client.over.done() and not client.transport.is_closing():
            client.send(b"\xc0\0")


tasks = set()


def spawn(coroutine):
    task = asyncio.get_running_loop().create_task(coroutine)
    tasks.add(task)
    task.add_done_callback(ended)


def ended(task):
    tasks.discard(task)
    if not task.cancelled() and task.exception():
        note(f"a good client gave up: {task.exception()!r}")
        window.disconnects.append("gave up")


async def keep(make):
    """A client for as long as the soak lasts: when it is lost, another takes its place."""
    while True:
        client = await make()
        yield client
        await client.over


async def paced(rate, phase):
    """Yields `rate` times a second; what is late is caught up."""
    at = time.monotonic() + phase
    while True:
        at += 1 / rate
        delay = at - time.monotonic()
        await asyncio.sleep(max(0, delay))
        yield


async def publisher(name, listener, version, topic, streams, qos, rate, phase):
    client = await connect(name, listener, version)
    async for _ in paced(rate, phase):
        if client.over.done():
            client = await connect(name, listener, version)
        stream = streams[0]
        client.publish(topic, stream, qos)
        for other in streams[1:]:
            other.sent = stream.sent


async def subscriber(name, listener, version, topic, qos, streams, ready):
    while True:
        client = await connect(name, listener, version, streams=streams)
        await client.subscribe(topic, qos)
        if not ready.done():
            ready.set_result(None)
        await client.over
        # What was sent meanwhile is not counted as lost: the disconnection is.
        for stream in streams.values():
            stream.next = stream.sent


async def pair(number, listener, version, qos, rate):
    topic = f"good/qos{qos}/{number}"
    stream = Stream(topic, qos)
    ready = asyncio.get_running_loop().create_future()
    spawn(subscriber(f"good-sub-{number}", listener, version, topic, qos, {topic.encode(): stream}, ready))
    await ready
    spawn(publisher(f"good-pub-{number}", listener, version, topic, [stream], qos, rate, number / 977))
    return stream


async def fan_out(listener, members, rate):
    streams = []
    for number in range(members):
        ready = asyncio.get_running_loop().create_future()
        stream = Stream(f"fan-out member {number}", 1)
        spawn(subscriber(f"good-fan-{number}", listener, 4 + number % 2, "good/fan/+", 1, {None: stream}, ready))
        await ready
        streams.append(stream)
    spawn(publisher("good-fan-pub", listener, 5, "good/fan/all", streams, 1, rate, 0))
    return streams


async def shared(listener, members, rate):
    stream = Stream("shared", 1)
    stream.pending = set()
    for number in range(members):
        ready = asyncio.get_running_loop().create_future()
        spawn(subscriber(f"good-shared-{number}", listener, 5, "$share/group/good/shared", 1, {None: stream}, ready))
        await ready
    spawn(publisher("good-shared-pub", listener, 4, "good/shared", [stream], 1, rate, 0.003))
    return stream


async def wanderer(number, listener, version, qos, rate):
    """A session that outlives its connections, which end without a word every few seconds."""
    topic, name = f"good/away/{number}", f"good-away-{number}"
    stream = Stream(topic, qos)
    stream.timed = False
    seen = set()

    async def once(first):
        client = await connect(name, listener, version, clean=False, streams={topic.encode(): stream})
        # QoS 2 numbers outlive the connection with the session.
        client.seen = seen
        if first:
            await client.subscribe(topic, qos)
        elif not client.present:
            note(f"{name}: the session is gone")
            window.lost += 1
            await client.subscribe(topic, qos)
        return client

    client = await once(True)
    spawn(publisher(f"good-away-pub-{number}", listener, 9 - version, topic, [stream], qos, rate, 0.001 * number))
    while True:
        await asyncio.wait([client.over], timeout=8 + number)
        if not client.over.done():
            client.leave(politely=number % 2 == 0)
            await client.over
        await asyncio.sleep(2)
        client = await once(False)


async def retained(listener):
    """Whoever subscribes gets the last value that was acknowledged, or a later one."""
    topic = "good/retained/value"
    writer = await connect("good-retained-pub", listener, 5)
    values, turn = Stream("retained", 1), 0
    while True:
        if writer.over.done():
            writer = await connect("good-retained-pub", listener, 5)
        writer.publish(topic, values, 1, retain=True)
        if await writer.acknowledged():
            kept, turn = values.sent - 1, turn + 1
            reader = await connect(f"good-retained-{turn % 4}", listener, 4 + turn % 2)
            first = asyncio.get_running_loop().create_future()

            class Once:
                @staticmethod
                def got(number, at, sent_at, dup):
                    window.delivered += 1
                    if not first.done():
                        first.set_result(number)

            reader.streams = {None: Once}
            await reader.subscribe("good/retained/#", 1)
            try:
                number = await asyncio.wait_for(first, 10)
                if number < kept:
                    window.lost += 1
                    note(f"retained: {number} instead of {kept}")
            except asyncio.TimeoutError:
                window.lost += 1
                note("retained: nothing came")
            reader.leave()
        await asyncio.sleep(2)


async def by_password(listener):
    """A password costs a hash; it is not part of the figure for connecting."""
    while True:
        client = await connect("good-password", listener, 5, password=SETTINGS["password"])
        client.leave()
        await asyncio.sleep(10)


def percentile(values, share):
    return values[min(len(values) - 1, int(share * len(values)))] if values else None


def histogram(values):
    """Microseconds to how often, with three digits."""
    found = {}
    for value in values:
        step = 1 if value < 1000 else 10 if value < 10000 else 100 if value < 100000 else 1000
        key = value // step * step
        found[key] = found.get(key, 0) + 1
    return found


async def tell(checked):
    """The lines. A message that is under way at the end of a window belongs to the next."""
    global window
    at = time.monotonic()
    while True:
        at += WINDOW
        await asyncio.sleep(max(0, at - time.monotonic()))
        done, window = window, Window()
        latencies, connects = sorted(done.latencies), sorted(done.connects)
        line = {
            "sent": done.sent, "delivered": done.delivered, "away": done.away, "lost": done.lost,
            "lost_qos0": done.lost_qos0, "duplicates": done.duplicates, "redelivered": done.redelivered,
            "disconnects": done.disconnects, "errors": done.errors,
            "p50": percentile(latencies, 0.5), "p99": percentile(latencies, 0.99),
            "p999": percentile(latencies, 0.999), "max": latencies[-1] if latencies else None,
            "connect_p50": percentile(connects, 0.5), "connect_p99": percentile(connects, 0.99),
            "histogram": histogram(latencies),
            "late": {stream.name: stream.sent - stream.next for stream in checked
                     if stream.timed and stream.sent - stream.next > 50},
        }
        print(json.dumps(line), flush=True)


async def settle(streams):
    """At the end: what is under way arrives, or is lost."""
    for task in list(tasks):
        if "publisher" in str(task.get_coro()) or "wanderer" in str(task.get_coro()):
            task.cancel()
    until = time.monotonic() + 10
    while time.monotonic() < until and any(stream.timed and stream.next < stream.sent for stream in streams):
        await asyncio.sleep(0.05)
    for stream in streams:
        if stream.timed and stream.next < stream.sent:
            stream.missing(stream.sent - stream.next, "the end")
    print(json.dumps({"end": True, "lost": window.lost, "lost_qos0": window.lost_qos0, "errors": window.errors}),
          flush=True)


async def main():
    listeners = {listener["name"]: listener for listener in SETTINGS["listeners"]}
    ways = [listeners[name] for name in ("mqtt", "mqtts", "ws", "wss") if name in listeners]
    # Out of a hundred parts: 72 for the pairs, 10 each for fan-out and shared, 8 for sessions that outlive connections.
    pairs = [(way, qos) for way in ways for qos in range(3)]
    streams = []
    for number, (way, qos) in enumerate(pairs):
        streams.append(await pair(number, way, 4 + number % 2, qos, 0.72 * RATE / len(pairs)))
    streams += await fan_out(listeners["mqtt"], 10, 0.10 * RATE / 10)
    streams.append(await shared(listeners["mqtt"], 4, 0.10 * RATE))
    for number in range(4):
        way = ways[number % len(ways)]
        spawn(wanderer(number, way, 4 + number % 2, 1 + number // 2, 0.08 * RATE / 4))
    spawn(retained(listeners["mqtt"]))
    spawn(by_password(listeners["mqtt"]))
    # No pause for what is not garbage.
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 50)
    print(json.dumps({"ready": True}), flush=True)
    spawn(tell(streams))
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await settle(streams)


asyncio.run(main())
