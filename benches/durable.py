#!/usr/bin/env python3
"""Measures what keeping messages costs, and writes the figures into docs/durability.md.

  publish    64 publishers with 16 messages of QoS 1 in flight, each with a subscriber whose session outlives its
             connection: ours with fsync, ours with memory, and mosquitto with its own persistence, which does not sync.
             PUBACK at calm rates, beside what the disk itself takes in the same round: for a program on the broker's core
             that does nothing but write and sync, as often.
  restart    100,000 sessions with 10 messages each; SIGKILL; how long until a client is served by the next process.
  drain      1,000 sessions with 1,000 messages each, whose clients come back at the same time; ours and mosquitto.

The broker runs on one core, the load on another.

  cargo build --profile bench --bins
  benches/durable.py
"""

import argparse
import json
import os
import pathlib
import selectors
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request

from compare import ROOT, Mosquitto, Ours, await_port, machine, spread

PAGE = ROOT / "docs" / "durability.md"
TOPIC = b"bench/drain/0"
PAYLOAD = b"x" * 100
# Messages per second of all publishers at which acknowledgements are timed.
CALM = (1000, 5000)


class Kept(Ours):
    """Ours, with a durability."""

    def __init__(self, arguments, durability):
        super().__init__(arguments)
        self.name, self.durability = f"ours, {durability}", durability

    def command(self, directory, port, admin):
        command, credentials = super().command(directory, port, admin)
        path = directory / "etc" / "config" / "broker.json"
        document = json.loads(path.read_text())
        document["storage"] = {"durability": self.durability, "size": 8 << 30}
        document["limits"] = {"maxSessions": 1000000, "maxConnections": 20000, "connectRate": None}
        path.write_text(json.dumps(document))
        return [*command, "--state", directory / "state"], credentials


class Persistent(Mosquitto):
    """mosquitto that writes what it keeps into a file every half an hour, and when it ends."""

    name = "mosquitto, persistence"

    def command(self, directory, port, admin):
        command, credentials = super().command(directory, port, admin)
        path = directory / "mosquitto.conf"
        text = path.read_text().replace("persistence false", f"persistence true\npersistence_location {directory}/")
        path.write_text(text)
        return command, credentials


class Running:
    """A broker's process."""

    def __init__(self, broker, directory, arguments):
        self.arguments, self.directory = arguments, directory
        self.line, self.credentials = broker.command(directory, arguments.port, arguments.port + 1)
        self.process = None
        self.start()

    def start(self):
        log = self.directory / "log"
        began = time.monotonic()
        with log.open("w") as output:
            line = ["taskset", "-c", self.arguments.broker_core, *self.line]
            self.process = subprocess.Popen(line, stdout=output, stderr=output)
        await_port(self.arguments.port, self.process, log)
        return time.monotonic() - began

    def metric(self, name, label=""):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.arguments.port + 1}/metrics") as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name) and label in line)

    def cpu(self):
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory(self, field):
        for line in pathlib.Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1]) / 1024
        return 0

    def kill(self, how=signal.SIGTERM):
        self.process.send_signal(how)
        self.process.wait(30)

    def password(self):
        return (self.directory / "token").read_text().encode() if self.credentials else b""


def text(value):
    return struct.pack(">H", len(value)) + value


def packet(first, body):
    length, out = len(body), bytearray([first])
    while True:
        out.append(length & 0x7F | (0x80 if length > 0x7F else 0))
        length >>= 7
        if not length:
            return bytes(out) + body


def connect(client_id, password):
    """CONNECT of 3.1.1 for a session that outlives the connection."""
    credentials = text(b"bench") + text(password) if password else b""
    flags = 0xC0 if password else 0
    return packet(0x10, text(b"MQTT") + bytes([4, flags]) + struct.pack(">H", 600) + text(client_id) + credentials)


def receive(client, count):
    got = b""
    while len(got) < count:
        more = client.recv(65536)
        if not more:
            sys.exit("the broker closed a connection")
        got += more
    return got


def make_sessions(arguments, password, number, topic):
    """Sessions with one subscription of QoS 1 each, whose clients have left."""
    group = 200
    for first in range(0, number, group):
        clients = []
        for index in range(first, min(first + group, number)):
            client = socket.create_connection(("127.0.0.1", arguments.port))
            subscribe = packet(0x82, b"\0\1" + text(topic(index)) + b"\1")
            client.sendall(connect(b"kept-%d" % index, password) + subscribe)
            clients.append(client)
        for client in clients:
            receive(client, 4 + 5)
            client.sendall(b"\xe0\0")
            client.close()
        if first % 20000 == 0:
            print(f"  {first} of {number} sessions", file=sys.stderr, flush=True)


def publish(arguments, password, topics):
    """Publishes to these topics at QoS 1, a hundred at a time."""
    client = socket.create_connection(("127.0.0.1", arguments.port))
    client.sendall(connect(b"publisher", password))
    receive(client, 4)
    for first in range(0, len(topics), 100):
        some = topics[first:first + 100]
        client.sendall(b"".join(packet(0x32, text(topic) + struct.pack(">H", index + 1) + PAYLOAD)
                                for index, topic in enumerate(some)))
        receive(client, 4 * len(some))
    client.close()


def drain(arguments, password, sessions, messages):
    """Brings all clients back at the same time and takes what waits for them; answers the seconds."""
    size = len(packet(0x32, text(TOPIC) + b"\0\0" + PAYLOAD))
    at = 2 + 2 + len(TOPIC)
    waiting = selectors.DefaultSelector()
    began = time.monotonic()
    for index in range(sessions):
        client = socket.create_connection(("127.0.0.1", arguments.port))
        client.sendall(connect(b"kept-%d" % index, password))
        client.setblocking(False)
        waiting.register(client, selectors.EVENT_READ, {"rest": b"", "left": messages, "connack": False})
    open_ = sessions
    while open_:
        for key, _ in waiting.select(30) or sys.exit("nothing comes any more"):
            state = key.data
            data = state["rest"] + key.fileobj.recv(1 << 18)
            if not state["connack"]:
                data, state["connack"] = data[4:], True
            whole = len(data) // size
            if whole:
                key.fileobj.sendall(b"".join(b"\x40\2" + data[n * size + at:n * size + at + 2] for n in range(whole)))
            state["rest"] = data[whole * size:]
            state["left"] -= whole
            if state["left"] <= 0:
                open_ -= 1
                waiting.unregister(key.fileobj)
                key.fileobj.close()
    return time.monotonic() - began


def disk(arguments, rate, length=150):
    """What the disk takes for a write of so many bytes into a file full of zeroes and fdatasync, so many times per second:
    p50 and p99 in milliseconds."""
    path = pathlib.Path(arguments.directory) / "disk"
    times = int(rate * arguments.seconds)
    with path.open("wb") as file:
        file.write(bytes(length * times))
        os.fsync(file.fileno())
    file = os.open(path, os.O_RDWR)
    os.sched_setaffinity(0, {int(arguments.broker_core)})
    took, content, due = [], os.urandom(length), time.perf_counter()
    for index in range(times):
        due += 1 / rate
        time.sleep(max(0, due - time.perf_counter()))
        began = time.perf_counter()
        os.pwrite(file, content, index * length)
        os.fdatasync(file)
        took.append((time.perf_counter() - began) * 1000)
    os.sched_setaffinity(0, {int(arguments.loader_core)})
    os.close(file)
    path.unlink()
    took.sort()
    return took[times // 2], took[times * 99 // 100]


def bench(running, arguments, *flags):
    line = ["taskset", "-c", arguments.loader_core, arguments.bin / "mqttctl", "bench", *flags, "--qos", "1",
            "--port", str(arguments.port), "--pid", str(running.process.pid), "--threads", "1", "--quiet", "-o", "json",
            "--persistent", "--duration", str(arguments.seconds), *running.credentials]
    result = subprocess.run(line, capture_output=True, text=True)
    if not result.stdout.startswith("{"):
        sys.exit(f"{result.stderr.strip()}\n{(running.directory / 'log').read_text()[-2000:]}")
    report = json.loads(result.stdout)
    if report["lost"] or report["failed_connections"]:
        sys.exit(f"void: {report['lost']} lost, {report['failure']}")
    return report


def in_directory(broker, arguments, work):
    with tempfile.TemporaryDirectory(dir=arguments.directory) as name:
        directory = pathlib.Path(name)
        directory.chmod(0o755)
        running = Running(broker, directory, arguments)
        try:
            return work(running)
        finally:
            if running.process.poll() is None:
                running.kill()


def measure_publish(brokers, arguments):
    runs = {broker.name: [] for broker in brokers}
    disks = []
    for round_ in range(arguments.rounds):
        disks.append([disk(arguments, rate) for rate in CALM])
        for broker in brokers[round_ % len(brokers):] + brokers[:round_ % len(brokers)]:
            def busy(running):
                full = bench(running, arguments, "pairs", "--clients", "64", "--inflight", "16")
                syncs, received = None, None
                if isinstance(broker, Kept) and broker.durability == "fsync":
                    syncs = running.metric("mqtt_storage_syncs_total")
                    received = running.metric("mqtt_messages_received_total", 'qos="1"')
                return {"rate": full["delivered_per_second"], "cpu": full["broker"]["cpu_per_delivery"],
                        "syncs": syncs / received if syncs else None}

            def calm(rate):
                def work(running):
                    took = bench(running, arguments, "pairs", "--clients", "64", "--rate", str(rate))["acknowledgement"]
                    return took["p50"] / 1000, took["p99"] / 1000
                # A broker of its own: sessions of the load before would get everything as well.
                return in_directory(broker, arguments, work)
            run = in_directory(broker, arguments, busy) | {"calm": [calm(rate) for rate in CALM]}
            runs[broker.name].append(run)
            print(f"round {round_ + 1}  {broker.name:<24} {run['rate']:9,.0f}/s  {run['cpu']:.2f} CPU µs  PUBACK "
                  f"{run['calm']} ms  syncs/message {run['syncs']}  disk {disks[-1]}", file=sys.stderr, flush=True)

    def times(measured):
        return " | ".join(f"{spread([it[at][0] for it in measured], 2)} / {spread([it[at][1] for it in measured], 2)}"
                          for at in range(len(CALM)))
    columns = " | ".join(f"PUBACK p50 / p99 ms at {rate:,}/s" for rate in CALM)
    lines = [f"| 64 publishers × 16 in flight | messages/s | broker CPU µs per message | syncs per message | {columns} |",
             "|---" * (4 + len(CALM)) + "|"]
    for broker in brokers:
        mine = runs[broker.name]
        syncs = [run["syncs"] for run in mine if run["syncs"]]
        lines.append(f"| {broker.name} | {spread([run['rate'] for run in mine], 0)} "
                     f"| {spread([run['cpu'] for run in mine], 2)} "
                     f"| {spread(syncs, 4) if syncs else '–'} | {times([run['calm'] for run in mine])} |")
    lines.append(f"| the disk alone: write of 150 bytes, fdatasync | – | – | – | {times(disks)} |")
    return lines


def measure_restart(arguments):
    sessions, messages = arguments.sessions, 10

    def work(running):
        password = running.password()
        make_sessions(arguments, password, sessions, lambda index: b"bench/%d/0" % (index % 100))
        publish(arguments, password, [b"bench/%d/0" % number for number in range(100)] * messages)
        waiting = running.metric("mqtt_queued_messages")
        if waiting != sessions * messages:
            sys.exit(f"{waiting} messages wait instead of {sessions * messages}")
        memory = running.memory("VmRSS")
        running.kill(signal.SIGKILL)
        files = sum(path.stat().st_size for path in (running.directory / "state").rglob("*.log")) / 2**20
        took, after = [], []
        for _ in range(3):
            listening = running.start()
            began = time.monotonic()
            client = socket.create_connection(("127.0.0.1", arguments.port))
            client.sendall(connect(b"kept-%d" % (sessions - 1), password))
            if receive(client, 4)[:4] != b"\x20\2\1\0":
                sys.exit("the session is not there")
            took.append(listening + time.monotonic() - began)
            client.close()
            if running.metric("mqtt_queued_messages") + running.metric("mqtt_in_flight") < sessions * messages - 200:
                sys.exit("messages are gone")
            after.append(running.memory("VmHWM"))
            running.kill(signal.SIGKILL)
        print(f"restart: {took}", file=sys.stderr, flush=True)
        return took, files, memory, max(after)
    took, files, memory, after = in_directory(Kept(arguments, "fsync"), arguments, work)
    return [f"{sessions:,} sessions with {messages} messages each ({files:.0f} MiB of journal), killed: from the start of "
            f"the next process to the CONNACK of a client whose session is present {spread(took, 2)} s, three times. All "
            f"sessions are in the index by then. The broker took {memory:.0f} MiB before, and "
            f"{after:.0f} MiB at most afterwards."]


def measure_drain(arguments):
    sessions, messages = 1000, 1000
    lines = ["| 1,000 sessions × 1,000 messages, all clients back at once | deliveries/s | broker CPU µs per delivery "
             "| MiB with all waiting, highest |", "|---|---|---|---|"]
    for broker in (Kept(arguments, "fsync"), Persistent(arguments)):
        def work(running):
            password = running.password()
            make_sessions(arguments, password, sessions, lambda index: TOPIC)
            publish(arguments, password, [TOPIC] * messages)
            before, waiting = running.cpu(), running.memory("VmRSS")
            seconds = drain(arguments, password, sessions, messages)
            return seconds, running.cpu() - before, waiting, running.memory("VmHWM")
        seconds, cpu, waiting, most = in_directory(broker, arguments, work)
        total = sessions * messages
        print(f"drain: {broker.name} {seconds:.1f} s, {cpu:.1f} s CPU, {waiting:.0f}, {most:.0f} MiB", file=sys.stderr,
              flush=True)
        lines.append(f"| {broker.name} | {total / seconds:,.0f} | {cpu / total * 1e6:.2f} | {waiting:.0f}, {most:.0f} |")
    return lines


def write_page(figures):
    page = PAGE.read_text()
    begin, end = "<!-- speed -->", "<!-- end of speed -->"
    before, rest = page.split(begin)
    PAGE.write_text(f"{before}{begin}\n\n{figures}\n\n{end}{rest.split(end)[1]}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--sessions", type=int, default=100000, help="of the restart")
    parser.add_argument("--port", type=int, default=18840, help="the next one is used as well")
    parser.add_argument("--broker-core", default="0")
    parser.add_argument("--loader-core", default="1")
    parser.add_argument("--directory", default="/var/tmp", help="on the disk that is meant")
    parser.add_argument("--only", choices=["publish", "restart", "drain"])
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    parser.add_argument("--bin", type=pathlib.Path, default=target / "release", help="where mqttctl and mqtt-broker are")
    parser.add_argument("--dry", action="store_true", help="print the figures and leave docs/durability.md alone")
    arguments = parser.parse_args()
    arguments.peers = None
    os.sched_setaffinity(0, {int(arguments.loader_core)})
    parts = []
    if arguments.only in (None, "publish"):
        brokers = [Kept(arguments, "fsync"), Kept(arguments, "memory"), Persistent(arguments)]
        parts.append(measure_publish(brokers, arguments))
    if arguments.only in (None, "restart"):
        parts.append(measure_restart(arguments))
    if arguments.only in (None, "drain"):
        parts.append(measure_drain(arguments))
    commit = subprocess.run(["git", "-C", ROOT, "describe", "--always", "--dirty"], capture_output=True, text=True)
    head = (f"{time.strftime('%Y-%m-%d')}, commit {commit.stdout.strip() or 'unknown'}; mosquitto "
            f"{Persistent(arguments).version()}; {machine()}. {arguments.rounds} rounds of {arguments.seconds:g} s; median "
            "(lowest–highest).")
    figures = "\n\n".join([head, *("\n".join(lines) for lines in parts)])
    print(figures)
    if not arguments.dry:
        write_page(figures)


if __name__ == "__main__":
    main()
