"""One exchange with paho-mqtt, 1.6 or 2.x: what a subscriber without credentials gets of what mqtt_user publishes.

Arguments: host, port, protocol (3.1, 3.1.1 or 5), password. Prints what happened as JSON.
"""

import json
import sys
import threading

import paho.mqtt.client as mqtt

DEADLINE = 30
HOST, PORT, PROTOCOL, PASSWORD = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
VERSION = {"3.1": mqtt.MQTTv31, "3.1.1": mqtt.MQTTv311, "5": mqtt.MQTTv5}[PROTOCOL]


def code(reason):
    """The number of a reason code, which is an object in some callbacks."""
    return getattr(reason, "value", reason)


def client(name):
    if hasattr(mqtt, "CallbackAPIVersion"):
        made = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, name, protocol=VERSION)
    else:
        made = mqtt.Client(name, protocol=VERSION)
    made.answer, made.subscribed, made.answered = None, threading.Event(), threading.Event()

    def on_connect(it, userdata, flags, reason, properties=None):
        it.answer = code(reason)
        it.answered.set()

    made.on_connect = on_connect
    return made


def connect(made):
    made.connect(HOST, PORT, 60)
    made.loop_start()
    assert made.answered.wait(DEADLINE), "no CONNACK"
    return made.answer


received, complete = [], threading.Event()
topics = {"test/terminal/0": 0, "test/terminal/1": 1, "test/terminal/2": 2}


def on_message(it, userdata, message):
    received.append([message.topic, message.payload.decode(), message.qos])
    if len(received) == len(topics):
        complete.set()


listener = client("listener")
listener.on_message = on_message
listener.on_subscribe = lambda it, *_: it.subscribed.set()
connect(listener)
listener.subscribe("test/#", 2)
assert listener.subscribed.wait(DEADLINE), "no SUBACK"

speaker = client("speaker")
speaker.username_pw_set("mqtt_user", PASSWORD)
answer = connect(speaker)
if answer == 0:
    for topic, qos in topics.items():
        speaker.publish(topic, "test message", qos).wait_for_publish(DEADLINE)
    assert complete.wait(DEADLINE), f"only {received}"
for it in (speaker, listener):
    it.disconnect()
    it.loop_stop()
print(json.dumps({"listener": listener.answer, "speaker": answer, "received": sorted(received)}))
