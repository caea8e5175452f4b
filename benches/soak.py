#!/usr/bin/env python3
"""Half an hour of good and hostile clients on one broker, and the page docs/soak.md about it.

The broker is a release build in a process of its own, with a listener of each kind and the limits that it has by default.
Good clients run all the time: at first alone, which is the baseline, then beside hostile ones of every kind in rotation.
The machine should have nothing else to do. Exits with 1 when a promise is broken, and then leaves the page alone unless
--write is given.

  cargo build --release --bins
  benches/soak.py                 30 minutes, the figures of the page
  benches/soak.py --minutes 2     a short one; prints its page
"""

import argparse
import base64
import hashlib
import hmac
import json
import os
import pathlib
import platform
import re
import resource
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "soak.md"
PARTS = ROOT / "benches" / "soak"
WINDOW = 5

# Decided before the first run.
MEMORY_GROWTH = 1.05
LATENCY_FACTOR, LATENCY_SLACK = 1.5, 1000

# What a broker has in a pod whose memory is limited to 170 MiB. Hostile clients leave sessions behind that queue whatever
# is published; this decides how much of it is kept.
MEMORY = 128 * 2**20

PASSWORD = "soak password"
# Of that password; the parameters are those that the operator uses.
HASH = "$argon2id$v=19$m=19456,t=2,p=1$o8ES+DV//9jIPxvmXuPNLw$XLX0nuviQQKeWXVRdTthpquBR49tuqsdVmByW1N7HWY"

# Counters of /metrics that say what the broker made of it.
SHOWN = re.compile(r"^mqtt_(\w+?)(\{[^}]*\})? ([0-9.e+]+)$")


def base64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def token(secret, subject, rules):
    now = int(time.time())
    header = {"alg": "HS256", "typ": "JWT", "kid": "soak"}
    claims = {"iss": "soak", "aud": "soak", "sub": subject, "iat": now, "exp": now + 86400, "acl": rules}
    signed = ".".join(base64url(json.dumps(part).encode()) for part in (header, claims))
    return f"{signed}.{base64url(hmac.new(secret, signed.encode(), hashlib.sha256).digest())}"


def allow(action, topic):
    return {"permission": "allow", "action": action, "topic": topic}


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


class Broker:
    """Ours, as a process, in a directory that is removed with it."""

    def __init__(self, arguments):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="soak-"))
        etc, secret = self.directory / "etc", os.urandom(32)
        *ports, self.admin = free_ports(6)
        names = ["mqtt", "mqtts", "ws", "wss", "proxied"]
        self.listeners = [{"name": name, "protocol": "mqtt" if name == "proxied" else name, "address": "127.0.0.1",
                           "port": port} for name, port in zip(names, ports)]
        self.listeners[-1]["proxies"] = ["127.0.0.0/8"]
        limits = {"maxConnectionsPerAddress": 500, "maxMemory": MEMORY}
        documents = {
            "config/broker.json": {
                "format": 1, "namespace": "soak", "name": "soak", "admin": f"127.0.0.1:{self.admin}",
                "listeners": self.listeners, "limits": limits,
                "auth": {
                    "jwt": {"issuer": "soak", "audience": "soak", "maxTokenTtl": 86400, "aclClaim": "acl"},
                    "users": [{"name": "good", "acl": [allow("all", "good/#")]}],
                },
            },
            "jwks/jwks.json": {"keys": [{"kty": "oct", "alg": "HS256", "kid": "soak", "k": base64url(secret)}]},
            "users/users.json": {"format": 1, "users": [{"name": "good", "hash": HASH}]},
        }
        for name, document in documents.items():
            path = etc / name
            path.parent.mkdir(parents=True)
            path.write_text(json.dumps(document))
        certificates = self.directory / "certificates"
        subprocess.run([ROOT / "tests/lab/certs", "server", certificates, "127.0.0.1"], check=True)
        self.ca = certificates / "ca.crt"
        for name in ("mqtts", "wss"):
            directory = etc / "tls" / name
            directory.mkdir(parents=True)
            shutil.copy(certificates / "server.crt", directory / "tls.crt")
            shutil.copy(certificates / "server.key", directory / "tls.key")
        self.token = token(secret, "good", [allow("all", "good/#")])
        # A hostile client may listen to the good ones, and has a corner of its own.
        self.hostile_token = token(secret, "mallory", [allow("all", "hostile/#"), allow("subscribe", "good/#")])
        self.log = self.directory / "log"
        with self.log.open("w") as output:
            self.process = subprocess.Popen([arguments.bin / "mqtt-broker", "--etc", etc], stdout=output, stderr=output)
        self.await_ready()

    def await_ready(self):
        until = time.monotonic() + 15
        while time.monotonic() < until:
            if self.process.poll() is not None:
                sys.exit(f"the broker ended:\n{self.log.read_text()[-3000:]}")
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/readyz", timeout=1):
                    return
            except OSError:
                time.sleep(0.05)
        sys.exit(f"the broker is not ready:\n{self.log.read_text()[-3000:]}")

    def metrics(self):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/metrics", timeout=10) as answer:
                text = answer.read().decode()
        except OSError as error:
            return {"error": str(error)}
        found = (SHOWN.match(line) for line in text.splitlines())
        return {match[1] + (match[2] or ""): float(match[3]) for match in found if match}

    def usage(self):
        """Resident bytes, descriptors, seconds of CPU."""
        directory = pathlib.Path("/proc") / str(self.process.pid)
        pages = int((directory / "statm").read_text().split()[1])
        fields = (directory / "stat").read_text().rpartition(")")[2].split()
        ticks = int(fields[11]) + int(fields[12])
        return pages * resource.getpagesize(), len(os.listdir(directory / "fd")), ticks / os.sysconf("SC_CLK_TCK")

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = "killed: it did not end within 20 s"
        return code


class Clients:
    """A process of clients that prints a line a window."""

    def __init__(self, script, settings, log):
        self.lines, self.errors = [], log.open("w")
        self.process = subprocess.Popen([sys.executable, PARTS / script, json.dumps(settings)], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=self.errors, text=True,
                                        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})
        threading.Thread(target=self.read, daemon=True).start()
        self.log = log

    def read(self):
        for line in self.process.stdout:
            self.lines.append((time.monotonic(), json.loads(line)))

    def await_ready(self):
        until = time.monotonic() + 60
        while not self.lines:
            if self.process.poll() is not None or time.monotonic() > until:
                sys.exit(f"{self.log.name}: {self.log.read_text()[-3000:]}")
            time.sleep(0.05)
        self.lines.clear()

    def finish(self):
        self.process.stdin.close()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def cpu(self):
        try:
            fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def machine_cpu():
    """Seconds that all processors together were busy, and idle."""
    fields = [int(field) for field in pathlib.Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
    idle = fields[3] + fields[4]
    return (sum(fields) - idle) / os.sysconf("SC_CLK_TCK"), idle / os.sysconf("SC_CLK_TCK")


def percentile(histogram, share):
    total = sum(histogram.values())
    at, wanted = 0, share * total
    for value in sorted(histogram):
        at += histogram[value]
        if at >= wanted:
            return value
    return 0


def merged(windows):
    found = {}
    for window in windows:
        for value, count in window["histogram"].items():
            found[int(value)] = found.get(int(value), 0) + count
    return found


def run(arguments):
    broker = Broker(arguments)
    settings = {
        "listeners": broker.listeners, "ca": str(broker.ca), "window": WINDOW, "rate": arguments.rate,
        "token": broker.token, "hostile_token": broker.hostile_token, "password": PASSWORD, "admin": broker.admin,
        "only": arguments.only.split(",") if arguments.only else None, "at_a_time": arguments.at_a_time,
        "seed": arguments.seed,
    }
    samples, hostile, hostile_from = [], None, None
    good = Clients("good.py", settings, broker.directory / "good.log")
    try:
        good.await_ready()
        started = time.monotonic()
        first, before = broker.metrics(), None
        while (at := time.monotonic() - started) < arguments.minutes * 60:
            if hostile is None and at >= arguments.baseline * 60:
                hostile = Clients("hostile.py", settings, broker.directory / "hostile.log")
                hostile_from = time.monotonic()
            time.sleep(WINDOW - at % WINDOW)
            if broker.process.poll() is not None:
                break
            memory, descriptors, cpu = broker.usage()
            now = {"cpu": cpu, "good": good.cpu(), "hostile": hostile.cpu() if hostile else 0, "machine": machine_cpu(),
                   "at": time.monotonic()}
            metrics = broker.metrics()
            if before:
                span = now["at"] - before["at"]
                sample = {"at": now["at"] - started, "hostile": hostile is not None, "memory": memory, "fds": descriptors}
                for name in ("cpu", "good", "hostile"):
                    sample[f"{name}_cpu"] = (now[name] - before[name]) / span
                sample["machine_cpu"] = (now["machine"][0] - before["machine"][0]) / span
                sample["metrics"] = metrics
                samples.append(sample)
                progress(sample, good)
            before = now
        else:
            if hostile:
                hostile.finish()
            good.finish()
        last = broker.metrics() if broker.process.poll() is None else {}
    finally:
        for clients in (good, hostile):
            if clients and clients.process.poll() is None:
                clients.process.kill()
        ended = broker.process.poll()
        code = broker.stop() if ended is None else f"{ended}, before it was told to end"
    windows = [(at - started, line) for at, line in good.lines if "end" not in line]
    result = {
        "samples": samples, "windows": windows, "end": next((line for _, line in good.lines if "end" in line), None),
        "hostile_from": hostile_from - started if hostile_from else None,
        "hostile": hostile.lines[-1][1] if hostile and hostile.lines else {"kinds": {}, "problems": []},
        "first": first, "last": last, "exit": code, "good_stderr": (broker.directory / "good.log").read_text()[-2000:],
        "hostile_stderr": (broker.directory / "hostile.log").read_text()[-2000:] if hostile else "",
        "panics": len(re.findall(r"panic", broker.log.read_text())),
        "log_lines": broker.log.read_text().count("\n"), "log_bytes": broker.log.stat().st_size,
    }
    if arguments.keep:
        pathlib.Path(arguments.keep).write_text(json.dumps(result))
        shutil.copy(broker.log, f"{arguments.keep}.log")
    shutil.rmtree(broker.directory)
    return result


def progress(sample, good):
    line = good.lines[-1][1] if good.lines else {}
    bad = "".join(f"  {name} {line[name]}" for name in ("lost", "lost_qos0", "duplicates", "disconnects", "errors", "late")
                  if line.get(name))
    print(f"{sample['at']:6.0f} s {'hostile' if sample['hostile'] else 'alone':<8} {sample['memory'] / 2**20:7.1f} MiB "
          f"{sample['fds']:5} fds  CPU broker {sample['cpu_cpu']:4.0%} good {sample['good_cpu']:4.0%} "
          f"hostile {sample['hostile_cpu']:4.0%} machine {sample['machine_cpu']:4.0%}  {line.get('delivered', 0) / WINDOW:6.0f}/s "
          f"p50 {line.get('p50')} p99 {line.get('p99')} p99.9 {line.get('p999')} max {line.get('max')} µs{bad}",
          file=sys.stderr, flush=True)


def judge(result, arguments):
    """What was promised, what was seen, and whether it holds."""
    samples, windows, verdicts = result["samples"], [line for _, line in result["windows"]], []

    def verdict(what, seen, holds):
        verdicts.append((what, seen, holds))

    split = result["hostile_from"] or float("inf")
    alone = [line for at, line in result["windows"] if at <= split]
    beside = [line for at, line in result["windows"] if at > split + WINDOW]
    rest = [sample for sample in samples if sample["at"] > split]
    warm = split + min(300, 0.2 * (arguments.minutes * 60 - split))
    rest = [sample for sample in rest if sample["at"] > warm]
    third = len(rest) // 3
    if third:
        first = statistics.median(sample["memory"] for sample in rest[:third])
        last = statistics.median(sample["memory"] for sample in rest[-third:])
        verdict(f"memory flat: median of the last third ≤ that of the first, after {warm - split:.0f} s of warming up, + 5 %",
                f"{first / 2**20:.1f} → {last / 2**20:.1f} MiB ({last / first - 1:+.1%})", last <= first * MEMORY_GROWTH)
        first = statistics.median(sample["fds"] for sample in rest[:third])
        last = statistics.median(sample["fds"] for sample in rest[-third:])
        verdict("descriptors flat: the same, + 10 % or 50", f"{first:.0f} → {last:.0f}", last <= max(first * 1.1, first + 50))
    base, now = merged(alone), merged(beside)
    if base and now:
        before, after = percentile(base, 0.99), percentile(now, 0.99)
        allowed = LATENCY_FACTOR * before + LATENCY_SLACK
        verdict("p99 of good clients beside hostile ones ≤ 1.5 × baseline + 1 ms",
                f"{before / 1000:.2f} → {after / 1000:.2f} ms (allowed: {allowed / 1000:.2f})", after <= allowed)
    end = result["end"] or {"lost": 0, "lost_qos0": 0}
    total = lambda name: sum(line[name] for line in windows)
    lost = total("lost") + end["lost"]
    verdict("no message of QoS 1 or 2 lost", f"{lost} of {total('sent'):,}", lost == 0 and result["end"] is not None)
    verdict("no message of QoS 0 lost: no good client is slow", str(total("lost_qos0") + end["lost_qos0"]),
            total("lost_qos0") + end["lost_qos0"] == 0)
    verdict("nothing came twice, but at QoS 1, marked, after a connection ended", str(total("duplicates")), total("duplicates") == 0)
    gone = [name for line in windows for name in line["disconnects"]]
    verdict("no good client disconnected", str(len(gone)), not gone)
    refused = [error for line in windows for error in line["errors"] if "refused" in error]
    verdict("no good client refused", str(len(refused)), not refused)
    verdict("the broker ends when it is told to, with 0, and nothing has panicked",
            f"exit {result['exit']}, {result['panics']} panics", result["exit"] == 0 and not result["panics"])
    problems = result["hostile"]["problems"]
    verdict("what has to close a connection closes it", f"{len(problems)} exceptions", not problems)
    return verdicts


def milliseconds(value):
    return f"{value / 1000:.2f}"


def timeline(result, minutes):
    step = 180 if minutes > 10 else 30
    lines = ["| minute | hostile | memory MiB | fds | broker CPU | deliveries/s | p50 ms | p99 ms | p99.9 ms | lost | twice | marked again |",
             "|---" * 12 + "|"]
    for begin in range(0, int(minutes * 60), step):
        samples = [sample for sample in result["samples"] if begin < sample["at"] <= begin + step]
        windows = [line for at, line in result["windows"] if begin < at <= begin + step]
        if not samples or not windows:
            continue
        values = merged(windows)
        middle = lambda name: statistics.median(sample[name] for sample in samples)
        total = lambda name: sum(window[name] for window in windows)
        lines.append(
            f"| {begin / 60:g}–{(begin + step) / 60:g} | {'yes' if samples[-1]['hostile'] else 'no'} | {middle('memory') / 2**20:.1f} "
            f"| {middle('fds'):.0f} | {statistics.mean(s['cpu_cpu'] for s in samples):.0%} "
            f"| {total('delivered') / len(windows) / WINDOW:,.0f} "
            f"| {milliseconds(percentile(values, 0.5))} | {milliseconds(percentile(values, 0.99))} "
            f"| {milliseconds(percentile(values, 0.999))} | {total('lost') + total('lost_qos0')} | {total('duplicates')} "
            f"| {total('redelivered')} |")
    return lines


def page(result, verdicts, arguments):
    commit = subprocess.run(["git", "-C", ROOT, "describe", "--always", "--dirty"], capture_output=True, text=True)
    samples = result["samples"]
    hostile = [sample for sample in samples if sample["hostile"]] or samples
    mean = lambda name: statistics.mean(sample[name] for sample in hostile)
    lines = [
        f"{time.strftime('%Y-%m-%d')}, commit {commit.stdout.strip() or 'unknown'}; {machine()}. {arguments.minutes:g} minutes, "
        f"the first {arguments.baseline:g} without hostile clients; good clients publish about {arguments.rate * 0.9:,.0f} messages a second.", "",
        f"Processors while hostile clients run: broker {mean('cpu_cpu'):.0%}, good clients {mean('good_cpu'):.0%}, hostile clients "
        f"{mean('hostile_cpu'):.0%}, the whole machine {mean('machine_cpu'):.0%} of {os.cpu_count() * 100} %. The hostile ones are bounded so "
        "that there is time left: a machine without any says nothing about the broker.", "",
        "| promise | seen | holds |", "|---|---|---|",
        *[f"| {what} | {seen} | {'yes' if holds else '**no**'} |" for what, seen, holds in verdicts], "",
        *timeline(result, arguments.minutes), "",
        "| hostile kind | bursts | connections | MiB sent | closed by the broker |", "|---|---|---|---|---|",
    ]
    for name, kind in sorted(result["hostile"]["kinds"].items()):
        lines.append(f"| {name} | {kind['bursts']} | {kind['connections']:,} | {kind['bytes'] / 2**20:.1f} | {kind['closed']:,} |")
    lines += ["", "What the broker counted (`/metrics`):", "", "| metric | in all |", "|---|---|"]
    for name, value in sorted(result["last"].items()):
        if isinstance(value, float) and value and "_total" in name and not name.startswith("protocol_violations"):
            lines.append(f"| `mqtt_{name}` | {value:,.0f} |")
    broken = [(int(value), re.search('id="([^"]*)"', name)[1]) for name, value in result["last"].items()
              if name.startswith("protocol_violations_total{") and value]
    lines += ["", "Statements that were broken, and how often: " + ", ".join(
        f"{name} {count:,}" for count, name in sorted(broken, reverse=True)) + "."]
    lines += ["", f"Its log has {result['log_lines']:,} lines, {result['log_bytes'] / 2**20:.1f} MiB."]
    wrong = sorted(set(result["hostile"]["problems"])) + [
        error for _, line in result["windows"] for error in line["errors"]][:30]
    if wrong:
        lines += ["", "Out of the ordinary:", "", *[f"* {line}" for line in wrong]]
    return "\n".join(lines)


def machine():
    try:
        model = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text()).group(1)
    except (OSError, AttributeError):
        model = platform.machine()
    return f"{model}, {os.cpu_count()} CPUs, Linux {platform.release()}"


def write_page(text):
    begin, end = "<!-- figures -->", "<!-- end of figures -->"
    before, rest = PAGE.read_text().split(begin)
    _, after = rest.split(end)
    PAGE.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}")


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--baseline", type=float, help="minutes without hostile clients; a tenth unless given")
    parser.add_argument("--rate", type=float, default=1000, help="deliveries a second to good clients, about")
    parser.add_argument("--only", help="hostile kinds, by the names of their functions in benches/soak/hostile.py")
    parser.add_argument("--at-a-time", type=int, default=4, help="hostile kinds side by side")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--bin", type=pathlib.Path, default=target / "release", help="where mqtt-broker is")
    parser.add_argument("--write", action="store_true", help="write docs/soak.md even after a short or a failed run")
    parser.add_argument("--dry", action="store_true", help="leave docs/soak.md alone")
    parser.add_argument("--keep", help="a file for all that was measured; the broker's log goes beside it")
    arguments = parser.parse_args()
    if arguments.baseline is None:
        arguments.baseline = arguments.minutes / 10
    if not (arguments.bin / "mqtt-broker").exists():
        sys.exit(f"{arguments.bin}/mqtt-broker is missing: cargo build --release --bins, or --bin DIR")
    return arguments


def main():
    arguments = parse_arguments()
    result = run(arguments)
    verdicts = judge(result, arguments)
    text = page(result, verdicts, arguments)
    print(text)
    for what in ("good_stderr", "hostile_stderr"):
        if result[what]:
            print(f"{what}: {result[what]}", file=sys.stderr)
    held = all(holds for _, _, holds in verdicts)
    if not arguments.dry and (arguments.write or (held and arguments.minutes >= 30)):
        write_page(text)
    sys.exit(0 if held else 1)


if __name__ == "__main__":
    main()
