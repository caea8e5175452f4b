"""MQTT 3.1.1 and 5 in bytes, as far as the soak needs it, and the ways to a broker: TCP, TLS, WebSocket."""

import asyncio
import base64
import os
import ssl
import struct

CONNECT, CONNACK, PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP, SUBSCRIBE, SUBACK = range(1, 10)
UNSUBSCRIBE, UNSUBACK, PINGREQ, PINGRESP, DISCONNECT, AUTH = range(10, 16)


def varint(number):
    out = bytearray()
    while True:
        number, digit = number >> 7, number & 0x7F
        out.append(digit | (0x80 if number else 0))
        if not number:
            return bytes(out)


def text(value):
    data = value if isinstance(value, bytes) else value.encode()
    return struct.pack(">H", len(data)) + data


def packet(first, body=b""):
    return bytes([first]) + varint(len(body)) + body


def connect(client_id, username=None, password=None, version=5, clean=True, keep_alive=30, expiry=0, will=None,
            properties=b""):
    """`will` is (topic, payload, qos, retain)."""
    flags = 2 * clean
    tail = b""
    if will:
        topic, payload, qos, retain = will
        flags |= 4 | qos << 3 | retain << 5
        tail += (b"\0" if version == 5 else b"") + text(topic) + text(payload)
    if username is not None:
        flags |= 0x80
        tail += text(username)
    if password is not None:
        flags |= 0x40
        tail += text(password)
    head = text("MQTT") + bytes([version, flags]) + struct.pack(">H", keep_alive)
    if version == 5:
        if expiry:
            properties += b"\x11" + struct.pack(">I", expiry)
        head += varint(len(properties)) + properties
    return packet(0x10, head + text(client_id) + tail)


def publish(topic, payload, qos=0, number=0, version=5, retain=False, dup=False, properties=b""):
    body = text(topic)
    if qos:
        body += struct.pack(">H", number)
    if version == 5:
        body += varint(len(properties)) + properties
    return packet(0x30 | dup << 3 | qos << 1 | retain, body + payload)


def subscribe(filters, number=1, version=5):
    body = struct.pack(">H", number) + (b"\0" if version == 5 else b"")
    for name, options in filters:
        body += text(name) + bytes([options])
    return packet(0x82, body)


def acknowledge(kind, number):
    return bytes([kind << 4 | (2 if kind == PUBREL else 0), 2]) + struct.pack(">H", number)


def packets(buffer):
    """The whole packets at the head of a bytearray, taken out of it: (first byte, body)."""
    found, at, end = [], 0, len(buffer)
    while at + 2 <= end:
        length, shift, head = 0, 0, at + 1
        while head < end:
            digit = buffer[head]
            length |= (digit & 0x7F) << shift
            head, shift = head + 1, shift + 7
            if digit < 0x80:
                break
        else:
            break
        if head + length > end:
            break
        found.append((buffer[at], bytes(buffer[head:head + length])))
        at = head + length
    del buffer[:at]
    return found


def frame(data, opcode=2, final=True):
    """A WebSocket frame of a client. Its masking key is 0, which leaves the data as they are."""
    size = len(data)
    if size < 126:
        length = bytes([0x80 | size])
    elif size < 65536:
        length = b"\xfe" + struct.pack(">H", size)
    else:
        length = b"\xff" + struct.pack(">Q", size)
    return bytes([(0x80 if final else 0) | opcode]) + length + b"\0\0\0\0" + data


def frames(buffer):
    """The whole frames at the head of a bytearray, taken out of it: (opcode, data)."""
    found, at = [], 0
    while at + 2 <= len(buffer):
        size, head = buffer[at + 1] & 0x7F, at + 2
        if size == 126:
            size, head = int.from_bytes(buffer[at + 2:at + 4], "big"), at + 4
        elif size == 127:
            size, head = int.from_bytes(buffer[at + 2:at + 10], "big"), at + 10
        if head + size > len(buffer):
            break
        found.append((buffer[at] & 15, bytes(buffer[head:head + size])))
        at = head + size
    del buffer[:at]
    return found


def upgrade(path="/mqtt", host="127.0.0.1"):
    key = base64.b64encode(os.urandom(16)).decode()
    return (f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n").encode()


def tls(ca):
    context = ssl.create_default_context(cafile=ca)
    context.check_hostname = False
    return context


class Way(asyncio.Protocol):
    """A connection to one listener. `received(first byte, body)` and `lost()` are what a subclass has."""

    def __init__(self, websocket):
        self.websocket = websocket
        self.raw, self.buffer = bytearray(), bytearray()
        self.transport = None
        self.open = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.transport = transport
        if self.websocket:
            transport.write(upgrade())
        else:
            self.open.set_result(None)

    def send(self, data):
        self.transport.write(frame(data) if self.websocket else data)

    def data_received(self, data):
        if not self.websocket:
            self.buffer += data
        else:
            self.raw += data
            if not self.open.done():
                if b"\r\n\r\n" not in self.raw:
                    return
                head, _, rest = bytes(self.raw).partition(b"\r\n\r\n")
                self.raw[:] = rest
                if not head.startswith(b"HTTP/1.1 101"):
                    self.transport.abort()
                    return
                self.open.set_result(None)
            for opcode, content in frames(self.raw):
                if opcode == 8:
                    self.transport.close()
                elif opcode == 9:
                    self.transport.write(frame(content, opcode=10))
                else:
                    self.buffer += content
        for first, body in packets(self.buffer):
            self.received(first, body)

    def connection_lost(self, error):
        if not self.open.done():
            self.open.set_exception(ConnectionError("closed before it was open"))
        self.lost()


async def dial(make, listener, ca, local=None):
    """Connects `make(websocket)` to a listener, {"protocol", "port"}."""
    protocol = listener["protocol"]
    secure = tls_of(ca) if protocol in ("mqtts", "wss") else None
    _, way = await asyncio.get_running_loop().create_connection(
        lambda: make(protocol in ("ws", "wss")), "127.0.0.1", listener["port"], ssl=secure,
        local_addr=(local, 0) if local else None)
    await way.open
    return way


_contexts = {}


def tls_of(ca):
    if ca not in _contexts:
        _contexts[ca] = tls(ca)
    return _contexts[ca]
