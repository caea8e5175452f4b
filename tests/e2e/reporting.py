"""reporting.py HOST PORT CLIENT-ID TOPIC PROTOCOL USERNAME TOKEN-FILE STOP-FILE

A thermometer that reads its token from a file before each connection: it connects, publishes one reading at QoS 1,
disconnects, and does so again, until STOP-FILE is there and then once more. Prints one line of JSON, `{"connections": N,
"refused": [CODE, ...], "kids": [KEY-ID, ...]}`. Works with paho-mqtt 1.6 and 2.
"""

import base64
import json
import os
import sys
import threading

import paho.mqtt.client as mqtt

DEADLINE = 20

host, port, client_id, topic, protocol, username, token_file, stop_file = sys.argv[1:]
port, protocol = int(port), int(protocol)
result = {"connections": 0, "refused": [], "kids": []}


def number(code):
    return getattr(code, "value", code)


def key_of(token):
    header = token.split(".")[0]
    return json.loads(base64.urlsafe_b64decode(header + "=" * (-len(header) % 4)))["kid"]


def round_trip():
    options = {"client_id": client_id, "protocol": protocol}
    if hasattr(mqtt, "CallbackAPIVersion"):
        api = mqtt.CallbackAPIVersion
        options["callback_api_version"] = api.VERSION2 if protocol == 5 else api.VERSION1
    client = mqtt.Client(**options)
    with open(token_file) as file:
        token = file.read().strip()
    client.username_pw_set(username, token)
    done = threading.Event()

    def on_connect(client, userdata, flags, code, properties=None):
        result["connections"] += 1
        if number(code) == 0:
            client.publish(topic, json.dumps({"reading": result["connections"]}), qos=1)
        else:
            result["refused"].append(number(code))
            done.set()

    def on_publish(client, userdata, packet_id, code=0, properties=None):
        if number(code) >= 0x80:
            result["refused"].append(number(code))
        done.set()

    client.on_connect, client.on_publish = on_connect, on_publish
    client.connect(host, port, keepalive=30)
    client.loop_start()
    answered = done.wait(DEADLINE)
    client.disconnect()
    client.loop_stop()
    if not answered:
        sys.exit("the broker does not answer")
    kid = key_of(token)
    if kid not in result["kids"]:
        result["kids"].append(kid)


while True:
    last = os.path.exists(stop_file)
    round_trip()
    if last:
        break
print(json.dumps(result))
