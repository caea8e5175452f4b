#!/usr/bin/env python3
"""Runs our broker beside others and writes the table of docs/benchmarks.md.

Every round runs every scenario on every broker, one after the other, each on a broker that was just started: the broker
on one core, the load generator on another. A figure is CPU time of the broker per delivery; the ratio is to mosquitto in
the same round. A run with loss or duplicates is void.

Ours runs as it is shipped: clients present a token, and an access list decides each message. The others have neither.

  cargo build --profile bench --bins
  cargo build --release --manifest-path benches/peers/Cargo.toml      (only for rumqttd)
  benches/compare.py --rounds 5 --seconds 10
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
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "benchmarks.md"

# Name, arguments of `mqttctl bench`.
SCENARIOS = {
    "1→1 QoS 0": ["pairs", "--qos", "0"],
    "1→1 QoS 1": ["pairs", "--qos", "1"],
    "1→100 QoS 0": ["fan-out", "--clients", "100", "--qos", "0"],
    "1→100 QoS 1": ["fan-out", "--clients", "100", "--qos", "1"],
    "50→1 QoS 0": ["fan-in", "--clients", "50", "--qos", "0"],
    "50→1 QoS 1": ["fan-in", "--clients", "50", "--qos", "1"],
}
# Run with --all: what bursts of equal messages on one topic do not show.
MORE = {
    "1→1 QoS 0, 100 topics": ["pairs", "--qos", "0", "--topics", "100"],
    "1→1 QoS 0, 4 KiB": ["pairs", "--qos", "0", "--size", "4096"],
    "50→1 QoS 1, 5,000/s": ["fan-in", "--clients", "50", "--qos", "1", "--rate", "5000"],
    "50 pairs QoS 1, 5,000/s": ["pairs", "--clients", "50", "--qos", "1", "--rate", "5000"],
}

REFERENCE = "mosquitto"


def base64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def token(secret, now):
    """A token that may do what the scenarios do, and names it in rules."""
    header = {"alg": "HS256", "typ": "JWT", "kid": "bench"}
    claims = {
        "iss": "bench", "aud": "bench", "sub": "bench", "iat": now, "exp": now + 86400,
        "acl": [
            {"permission": "deny", "action": "publish", "topic": "bench/forbidden/#"},
            {"permission": "allow", "action": "publish", "topic": "bench/+/+"},
            {"permission": "allow", "action": "subscribe", "topic": "bench/#"},
        ],
    }
    signed = ".".join(base64url(json.dumps(part).encode()) for part in (header, claims))
    return f"{signed}.{base64url(hmac.new(secret, signed.encode(), hashlib.sha256).digest())}"


class Ours:
    name = "ours"

    def __init__(self, arguments):
        self.program = arguments.bin / "mqtt-broker"

    def command(self, directory, port, admin):
        secret = os.urandom(32)
        etc = directory / "etc"
        documents = {
            "config/broker.json": {
                "format": 1, "namespace": "bench", "name": "bench", "admin": f"127.0.0.1:{admin}",
                "listeners": [{"name": "mqtt", "protocol": "mqtt", "address": "127.0.0.1", "port": port}],
                "auth": {"jwt": {"issuer": "bench", "audience": "bench", "maxTokenTtl": 86400, "aclClaim": "acl"}},
            },
            "jwks/jwks.json": {"keys": [{"kty": "oct", "alg": "HS256", "kid": "bench", "k": base64url(secret)}]},
            "users/users.json": {"format": 1, "users": []},
        }
        for name, document in documents.items():
            path = etc / name
            path.parent.mkdir(parents=True)
            path.write_text(json.dumps(document))
        (directory / "token").write_text(token(secret, int(time.time())))
        return [self.program, "--etc", etc], ["--token-file", directory / "token"]


class Mosquitto:
    name = "mosquitto"

    def __init__(self, arguments):
        self.program = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
        if not self.program:
            sys.exit("mosquitto is missing: apt-get install mosquitto")

    def command(self, directory, port, admin):
        lines = [f"listener {port} 127.0.0.1", "allow_anonymous true", "persistence false", "log_type none",
                 "max_queued_messages 0", "max_inflight_messages 100"]
        if os.geteuid() == 0:
            lines.append("user root")
        (directory / "mosquitto.conf").write_text("\n".join(lines) + "\n")
        return [self.program, "-c", directory / "mosquitto.conf"], []

    def version(self):
        said = subprocess.run([self.program, "-h"], capture_output=True, text=True).stdout
        return said.splitlines()[0].removeprefix("mosquitto version ")


class Rumqttd:
    name = "rumqttd"

    def __init__(self, arguments):
        self.program = arguments.peers
        if not self.program.exists():
            sys.exit(f"{self.program} is missing: see --help")

    def command(self, directory, port, admin):
        return [self.program, "rumqttd", "--port", str(port)], []


BROKERS = {broker.name: broker for broker in (Mosquitto, Ours, Rumqttd)}


def await_port(port, process, log):
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if process.poll() is not None:
            sys.exit(f"the broker ended: {log.read_text()[-2000:]}")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.02)
    sys.exit(f"nothing listens on port {port}")


def measure(broker, scenario, arguments):
    """One run; the report of `mqttctl bench`, or None where it is void."""
    with tempfile.TemporaryDirectory() as name:
        directory = pathlib.Path(name)
        if os.geteuid() == 0:
            directory.chmod(0o755)
        command, credentials = broker.command(directory, arguments.port, arguments.port + 1)
        log = directory / "log"
        with log.open("w") as output:
            process = subprocess.Popen(["taskset", "-c", arguments.broker_core, *command], stdout=output, stderr=output)
        try:
            await_port(arguments.port, process, log)
            load = ["taskset", "-c", arguments.loader_core, arguments.bin / "mqttctl", "bench", *scenario,
                    "--port", str(arguments.port), "--pid", str(process.pid), "--duration", str(arguments.seconds),
                    "--threads", "1", "--quiet", "-o", "json", *credentials]
            result = subprocess.run(load, capture_output=True, text=True)
            if not result.stdout.startswith("{"):
                sys.exit(f"{broker.name}: {result.stderr.strip()}\n{log.read_text()[-2000:]}")
            return json.loads(result.stdout)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def fault(report):
    """Why a run is void."""
    for what in ("lost", "duplicates", "failed_connections"):
        if report[what]:
            return f"{report[what]} of {report['expected']} {what.replace('_', ' ')}"
    return None


def spread(values, digits):
    """Median and range."""
    if not values:
        return "void"
    middle, low, high = (f"{value:.{digits}f}" for value in (statistics.median(values), min(values), max(values)))
    return f"{middle} ({low}–{high})" if len(values) > 1 else middle


def table(results, brokers, scenarios):
    others = [broker for broker in brokers if broker != REFERENCE]
    head = [f"{broker}: CPU µs" for broker in brokers] + [f"{broker} / {REFERENCE}" for broker in others
                                                            if REFERENCE in brokers]
    lines = ["| scenario | " + " | ".join(head) + " |", "|---" * (len(head) + 1) + "|"]
    for scenario in scenarios:
        rounds = [results[(round_, scenario)] for round_ in sorted({key[0] for key in results})]
        cells = [spread([run[broker]["cpu"] for run in rounds if run.get(broker)], 2) for broker in brokers]
        if REFERENCE in brokers:
            for broker in others:
                both = [run for run in rounds if run.get(broker) and run.get(REFERENCE) and run[REFERENCE]["cpu"]]
                cells.append(spread([run[broker]["cpu"] / run[REFERENCE]["cpu"] for run in both], 2))
        lines.append(f"| {scenario} | " + " | ".join(cells) + " |")
    lines += ["", "| scenario | " + " | ".join(
        f"{broker}: deliveries/s, p50 / p99 µs, MiB" for broker in brokers) + " |", "|---" * (len(brokers) + 1) + "|"]
    for scenario in scenarios:
        rounds = [results[(round_, scenario)] for round_ in sorted({key[0] for key in results})]
        cells = []
        for broker in brokers:
            runs = [run[broker] for run in rounds if run.get(broker)]
            middle = lambda name: statistics.median(run[name] for run in runs)
            cells.append(f"{middle('rate'):,.0f}, {middle('p50'):,.0f} / {middle('p99'):,.0f}, {middle('memory'):.0f}"
                         if runs else "void")
        lines.append(f"| {scenario} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def machine():
    try:
        model = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text()).group(1)
    except (OSError, AttributeError):
        model = platform.machine()
    return f"{model}, {os.cpu_count()} CPUs, Linux {platform.release()}"


def write_page(text):
    page = PAGE.read_text()
    begin, end = "<!-- figures -->", "<!-- end of figures -->"
    before, rest = page.split(begin)
    _, after = rest.split(end)
    PAGE.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}")


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    parser.add_argument("--brokers", default="mosquitto,ours", help="of mosquitto, ours, rumqttd")
    parser.add_argument("--scenarios", help="part of their names, e.g. 'QoS 1'")
    parser.add_argument("--all", action="store_true", help="varied topics, 4 KiB and fixed rates as well")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--port", type=int, default=18830, help="the next one is used as well")
    parser.add_argument("--broker-core", default="0")
    parser.add_argument("--loader-core", default="1")
    # Cargo calls the directory of the profile `bench` like that of `release`.
    parser.add_argument("--bin", type=pathlib.Path, default=target / "release", help="where mqttctl and mqtt-broker are")
    parser.add_argument("--peers", type=pathlib.Path, default=ROOT / "benches/peers/target/release/peers")
    parser.add_argument("--dry", action="store_true", help="print the table and leave docs/benchmarks.md alone")
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    names = arguments.brokers.split(",")
    brokers = [BROKERS[name](arguments) for name in names]
    scenarios = {**SCENARIOS, **(MORE if arguments.all else {})}
    if arguments.scenarios:
        scenarios = {name: value for name, value in scenarios.items() if arguments.scenarios in name}
    results, void = {}, []
    for round_ in range(arguments.rounds):
        for scenario, flags in scenarios.items():
            run = results[(round_, scenario)] = {}
            # Who comes first changes, so that nobody always follows a warm or a cold machine.
            for broker in brokers[round_ % len(brokers):] + brokers[:round_ % len(brokers)]:
                report = measure(broker, flags, arguments)
                usage, latency = report["broker"], report["latency"] or {"p50": 0, "p99": 0}
                why = fault(report)
                print(f"round {round_ + 1}  {scenario:<24} {broker.name:<10} {usage['cpu_per_delivery']:8.3f} CPU µs  "
                      f"{report['delivered_per_second']:10,.0f}/s  p99 {latency['p99']:9,.0f} µs  "
                      f"loader {report['loader_cpu_per_delivery']:.3f}  {'VOID: ' + why if why else ''}",
                      file=sys.stderr, flush=True)
                if why:
                    void.append(f"{broker.name}, {scenario}, round {round_ + 1}: {why}")
                    continue
                run[broker.name] = {
                    "cpu": usage["cpu_per_delivery"], "rate": report["delivered_per_second"],
                    "memory": usage["peak_memory_bytes"] / 2**20, "p50": latency["p50"], "p99": latency["p99"],
                }
    commit = subprocess.run(["git", "-C", ROOT, "describe", "--always", "--dirty"], capture_output=True, text=True)
    versions = [f"mosquitto {broker.version()}" for broker in brokers if broker.name == "mosquitto"]
    text = "\n".join([
        f"{time.strftime('%Y-%m-%d')}, commit {commit.stdout.strip() or 'unknown'}; {'; '.join(versions + [machine()])}. "
        f"{arguments.rounds} rounds of {arguments.seconds:g} s; median (lowest–highest).",
        "", table(results, names, scenarios)] + (["", "Void runs:", ""] + [f"* {line}" for line in void] if void else []))
    print(text)
    if not arguments.dry:
        write_page(text)


if __name__ == "__main__":
    main()
