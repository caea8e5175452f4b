"""device.py HOST PORT CLIENT-ID TOPIC PROTOCOL FIRST COUNT

A thermometer: publishes the readings FIRST to FIRST + COUNT - 1 at QoS 1 and ends. PROTOCOL is 3 (3.1), 4 (3.1.1) or 5.
User name and password are those of the environment, DEVICE_USERNAME and DEVICE_PASSWORD, or none. Prints one line of JSON,
`{"connack": CODE, "pubacks": [CODE, ...]}`. Works with paho-mqtt 1.6 and 2; codes of publications need 2 and protocol 5.
"""

import json
import os
import sys
import threading

import paho.mqtt.client as mqtt

DEADLINE = 20

host, port, client_id, topic, protocol, first, count = sys.argv[1:]
port, protocol, first, count = int(port), int(protocol), int(first), int(count)

options = {"client_id": client_id, "protocol": protocol}
if hasattr(mqtt, "CallbackAPIVersion"):
    # Version 1 hands out the code of 3.1.1 as it was sent, version 2 the one of 5 with the properties of a publication.
    api = mqtt.CallbackAPIVersion
    options["callback_api_version"] = api.VERSION2 if protocol == 5 else api.VERSION1
client = mqtt.Client(**options)
if "DEVICE_PASSWORD" in os.environ:
    client.username_pw_set(os.environ.get("DEVICE_USERNAME"), os.environ["DEVICE_PASSWORD"])

answered = threading.Event()
acknowledged = threading.Event()
result = {"connack": None, "pubacks": []}


def number(code):
    return getattr(code, "value", code)


def on_connect(client, userdata, flags, code, properties=None):
    result["connack"] = number(code)
    answered.set()


def on_publish(client, userdata, packet_id, code=0, properties=None):
    result["pubacks"].append(number(code))
    if len(result["pubacks"]) == count:
        acknowledged.set()


client.on_connect = on_connect
client.on_publish = on_publish
client.connect(host, port, keepalive=30)
client.loop_start()
if not answered.wait(DEADLINE):
    sys.exit("no CONNACK")
if result["connack"] == 0:
    for reading in range(first, first + count):
        payload = {"temperature": 20 + reading / 10, "unit": "C", "reading": reading}
        client.publish(topic, json.dumps(payload), qos=1)
    if count and not acknowledged.wait(DEADLINE):
        sys.exit(f"{len(result['pubacks'])} of {count} publications were acknowledged")
    client.disconnect()
client.loop_stop()
print(json.dumps(result))
