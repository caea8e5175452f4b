"""What paho-mqtt, 1.6 or 2, sees of a broker. The argument is the settings as JSON:

host, port, version (3, 4 or 5), username, password, token, wrong (a password), prefix (of topics and client ids), ca.
Prints what happened as JSON.
"""

import json
import sys
import threading

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

DEADLINE = 30
SETTINGS = json.loads(sys.argv[1])
FIVE = SETTINGS["version"] == 5


def topic(name):
    return f"t/{SETTINGS['prefix']}/{name}"


def code(reason):
    """The number of a reason code, which is an object in some callbacks."""
    return getattr(reason, "value", reason)


class Refused(Exception):
    pass


class Connection:
    """A connection and everything that it receives."""

    def __init__(self, name, password=None, clean=True, will=None):
        client_id = f"{SETTINGS['prefix']}-{name}"
        arguments = {"client_id": client_id, "protocol": SETTINGS["version"]}
        if not FIVE:
            arguments["clean_session"] = clean
        if hasattr(mqtt, "CallbackAPIVersion"):
            arguments["callback_api_version"] = mqtt.CallbackAPIVersion.VERSION2
        self.client = mqtt.Client(**arguments)
        self.inbox, self.changed, self.answers = [], threading.Condition(), {}
        self.client.on_connect = lambda it, data, flags, reason, properties=None: self.answer("connect", (flags, reason))
        self.client.on_subscribe = self.subscribed
        self.client.on_message = self.received
        self.client.username_pw_set(SETTINGS["username"], password or SETTINGS["token"])
        if will:
            self.client.will_set(topic(will), "gone", 1)
        if SETTINGS.get("ca"):
            self.client.tls_set(SETTINGS["ca"])
        connect = {}
        if FIVE:
            connect["clean_start"] = clean
            if not clean:
                connect["properties"] = Properties(PacketTypes.CONNECT)
                connect["properties"].SessionExpiryInterval = 300
        self.client.connect(SETTINGS["host"], SETTINGS["port"], 60, **connect)
        self.client.loop_start()
        flags, reason = self.wait("connect")
        if code(reason) != 0:
            # Without this it would connect again and again.
            self.client.disconnect()
            self.client.loop_stop()
            raise Refused(f"{code(reason)}: {reason if hasattr(reason, 'value') else mqtt.connack_string(reason)}")
        self.present = bool(flags["session present"] if isinstance(flags, dict) else flags.session_present)

    def answer(self, key, value):
        with self.changed:
            self.answers[key] = value
            self.changed.notify_all()

    def wait(self, key):
        with self.changed:
            if not self.changed.wait_for(lambda: key in self.answers, DEADLINE):
                raise TimeoutError(f"no answer to {key}")
            return self.answers.pop(key)

    def subscribed(self, it, data, number, codes, *_):
        self.answer(("subscribe", number), code(codes[0]))

    def received(self, it, data, message):
        with self.changed:
            self.inbox.append(message)
            self.changed.notify_all()

    def subscribe(self, name, qos):
        return self.wait(("subscribe", self.client.subscribe(name, qos)[1]))

    def publish(self, name, payload, qos, retain=False):
        self.client.publish(topic(name), payload, qos, retain).wait_for_publish(DEADLINE)

    def take(self, count):
        with self.changed:
            if not self.changed.wait_for(lambda: len(self.inbox) >= count, DEADLINE):
                raise TimeoutError(f"{len(self.inbox)} of {count} messages")
            taken, self.inbox = self.inbox[:count], self.inbox[count:]
            return taken

    def kill(self):
        """Ends the connection without a word."""
        self.client.socket().shutdown(2)
        self.client.loop_stop()

    def close(self):
        self.client.disconnect()
        self.client.loop_stop()


def refusal(password):
    try:
        Connection("refused", password=password).close()
    except Refused as refused:
        return str(refused)
    return "let in"


def qualities(speaker):
    found = {}
    for granted in range(3):
        listener = Connection(f"granted{granted}")
        answer = listener.subscribe(topic("qos"), granted)
        for published in range(3):
            speaker.publish("qos", "quality", published)
            found[f"{published} to {answer}"] = listener.take(1)[0].qos
        listener.close()
    return found


def shown(message):
    return [message.payload.decode(), bool(message.retain)]


def retained(speaker):
    speaker.publish("retained", "old", 1, retain=True)
    speaker.publish("retained", "kept", 1, retain=True)
    late = Connection("late")
    late.subscribe(topic("retained"), 1)
    kept = late.take(1)[0]
    speaker.publish("retained", "", 1, retain=True)
    live = late.take(1)[0]
    late.close()
    later = Connection("later")
    later.subscribe(topic("retained"), 1)
    later.subscribe(topic("marker"), 1)
    speaker.publish("marker", "marker", 1)
    first = later.take(1)[0]
    later.close()
    return {"kept": shown(kept), "live": shown(live), "after": first.payload.decode()}


def will():
    heir = Connection("heir")
    heir.subscribe(topic("will"), 1)
    Connection("victim", will="will").kill()
    text = heir.take(1)[0].payload.decode()
    heir.close()
    return text


def away(speaker):
    before = Connection("away", clean=False)
    before.subscribe(topic("away"), 2)
    before.close()
    for number in range(20):
        speaker.publish("away", str(number), 1 + number % 2)
    after = Connection("away", clean=False)
    missed = [(message.payload.decode(), message.qos) for message in after.take(20)]
    after.close()
    Connection("away").close()
    return {
        "present": [before.present, after.present],
        # The library hands out a message of QoS 2 when its exchange is over, after later ones of QoS 1.
        "inOrder": sorted(missed, key=lambda it: it[1])
        == [(str(number), qos) for qos in (1, 2) for number in range(qos - 1, 20, 2)],
    }


def large():
    both = Connection("both")
    both.subscribe(topic("large"), 2)
    payload = bytes((index * 31 + (index >> 8)) & 0xFF for index in range(1000 * 1000))
    found = []
    for qos in range(3):
        both.publish("large", payload, qos)
        found.append(both.take(1)[0].payload == payload)
    both.close()
    return found


def ordered(speaker):
    found = {}
    for qos in range(3):
        listener = Connection(f"ordered{qos}")
        listener.subscribe(topic(f"ordered/{qos}"), qos)
        sent = [speaker.client.publish(topic(f"ordered/{qos}"), str(number), qos) for number in range(1000)]
        for each in sent:
            each.wait_for_publish(DEADLINE)
        found[str(qos)] = sum(it.payload.decode() == str(number) for number, it in enumerate(listener.take(1000)))
        listener.close()
    return found


facts = {"wrong": refusal(SETTINGS["wrong"])}
Connection("password", password=SETTINGS["password"]).close()
facts["password"] = "connected"
speaker = Connection("speaker")
facts["token"] = "connected"
facts["qos"] = qualities(speaker)
facts["retained"] = retained(speaker)
facts["will"] = will()
facts["away"] = away(speaker)
facts["large"] = large()
facts["ordered"] = ordered(speaker)
facts["denied"] = {"subscribe": speaker.subscribe("other/#", 1)}
speaker.close()
print(json.dumps(facts))
