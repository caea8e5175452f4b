// What MQTT.js sees of a broker, in Node and in a browser: the same code, given the library and the settings.
//
// settings: url, version (3 for 3.1, 4 for 3.1.1, 5), username, password, token, wrong (a password), prefix (of topics and
// client ids), tls (options of the connection). Returns what happened.

"use strict";

const DEADLINE = 30000;

// Resolves with what `look` returns, as soon as that is something.
function until(what, look, changed) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error(`no ${what} within ${DEADLINE} ms`)), DEADLINE);
    let done = false;
    const check = () => {
      const found = done ? undefined : look();
      if (found === undefined) return;
      done = true;
      clearTimeout(timer);
      resolve(found);
    };
    changed(check);
    check();
  });
}

async function exchange(mqtt, settings) {
  const { prefix, version } = settings;
  const five = version === 5;
  const topic = (name) => `t/${prefix}/${name}`;

  // A connection and everything that it receives.
  async function connect(name, options = {}) {
    const client = mqtt.connect(settings.url, {
      clientId: `${prefix}-${name}`,
      protocolVersion: version,
      protocolId: version === 3 ? "MQIsdp" : "MQTT",
      username: settings.username,
      password: settings.token,
      reconnectPeriod: 0,
      connectTimeout: DEADLINE,
      ...settings.tls,
      ...options,
    });
    const inbox = [];
    const watchers = [];
    client.on("message", (on, payload, packet) => {
      inbox.push({ topic: on, text: payload.toString(), payload, qos: packet.qos, retain: packet.retain, packet });
      watchers.forEach((watcher) => watcher());
    });
    const connack = await new Promise((resolve, reject) => {
      client.once("connect", resolve);
      client.once("error", reject);
      client.once("close", () => reject(new Error("closed without an answer")));
    });
    client.on("error", () => {});
    const received = (count) =>
      until(`${count} messages for ${name}, only ${inbox.length}`,
        () => (inbox.length >= count ? inbox.splice(0, count) : undefined), (check) => watchers.push(check));
    return { client, connack, inbox, received, close: () => client.endAsync() };
  }

  // How a connection is refused, in the words of the library.
  async function refusal(options) {
    try {
      await (await connect("refused", options)).close();
      return "let in";
    } catch (error) {
      return { code: error.code ?? null, message: error.message };
    }
  }

  const facts = {};

  const password = await connect("password", { password: settings.password });
  await password.close();
  facts.password = "connected";
  facts.wrong = await refusal({ password: settings.wrong });

  const speaker = await connect("speaker");
  facts.token = "connected";

  // Each quality of service, published and granted.
  facts.qos = {};
  for (const granted of [0, 1, 2]) {
    const listener = await connect(`granted${granted}`);
    const [subscription] = await listener.client.subscribeAsync(topic("qos"), { qos: granted });
    for (const published of [0, 1, 2]) {
      await speaker.client.publishAsync(topic("qos"), "quality", { qos: published });
      const [message] = await listener.received(1);
      facts.qos[`${published} to ${subscription.qos}`] = message.qos;
    }
    await listener.close();
  }

  // Retained: kept for whoever comes later, replaced, and gone after an empty one.
  await speaker.client.publishAsync(topic("retained"), "old", { qos: 1, retain: true });
  await speaker.client.publishAsync(topic("retained"), "kept", { qos: 1, retain: true });
  const late = await connect("late");
  await late.client.subscribeAsync(topic("retained"), { qos: 1 });
  const [kept] = await late.received(1);
  await speaker.client.publishAsync(topic("retained"), "", { qos: 1, retain: true });
  const [live] = await late.received(1);
  await late.close();
  const later = await connect("later");
  await later.client.subscribeAsync([topic("retained"), topic("marker")], { qos: 1 });
  await speaker.client.publishAsync(topic("marker"), "marker", { qos: 1 });
  const [first] = await later.received(1);
  await later.close();
  facts.retained = { kept: [kept.text, kept.retain], live: [live.text, live.retain], after: first.text };

  // A will of a client whose connection ends without a word.
  const heir = await connect("heir");
  await heir.client.subscribeAsync(topic("will"), { qos: 1 });
  const victim = await connect("victim", { will: { topic: topic("will"), payload: "gone", qos: 1 } });
  victim.client.stream.destroy();
  facts.will = (await heir.received(1))[0].text;
  await heir.close();

  // A session that outlives its connection.
  const lasting = { clean: false, ...(five ? { properties: { sessionExpiryInterval: 300 } } : {}) };
  const before = await connect("away", lasting);
  await before.client.subscribeAsync(topic("away"), { qos: 2 });
  await before.close();
  for (let number = 0; number < 20; number += 1) {
    await speaker.client.publishAsync(topic("away"), String(number), { qos: 1 + (number % 2) });
  }
  const after = await connect("away", lasting);
  const missed = await after.received(20);
  facts.away = {
    present: [before.connack.sessionPresent, after.connack.sessionPresent],
    // A library may hand out a message of QoS 2 when its exchange is over, after later ones of QoS 1.
    inOrder: [1, 2].every((qos) => missed.filter((message) => message.qos === qos)
      .every((message, index) => message.text === String(2 * index + qos - 1))),
  };
  await after.close();
  await (await connect("away", { clean: true })).close();

  // Both ways at once, on one connection.
  const both = await connect("both");
  await both.client.subscribeAsync(topic("large"), { qos: 2 });
  const large = new Uint8Array(1000 * 1000).map((_, index) => (index * 31 + (index >> 8)) & 0xff);
  facts.large = [];
  for (const qos of [0, 1, 2]) {
    both.client.publish(topic("large"), large, { qos });
    const [message] = await both.received(1);
    facts.large.push(message.payload.length === large.length && large.every((byte, at) => message.payload[at] === byte));
  }
  await both.close();

  // A thousand in order.
  facts.ordered = {};
  for (const qos of [0, 1, 2]) {
    const listener = await connect(`ordered${qos}`);
    await listener.client.subscribeAsync(topic(`ordered/${qos}`), { qos });
    // The library does not keep to the window that a broker gives in MQTT 5: whoever uses it has to.
    const window = speaker.connack.properties?.receiveMaximum ?? 1000;
    for (let sent = 0; sent < 1000; ) {
      const batch = [];
      for (; batch.length < window && sent < 1000; sent += 1) {
        batch.push(speaker.client.publishAsync(topic(`ordered/${qos}`), String(sent), { qos }));
      }
      await Promise.all(batch);
    }
    const messages = await listener.received(1000);
    facts.ordered[qos] = messages.filter((message, number) => message.text === String(number)).length;
    await listener.close();
  }

  // One of a group gets each message.
  const members = [];
  for (const name of ["member1", "member2"]) {
    const member = await connect(name);
    await member.client.subscribeAsync(`$share/group/${topic("shared")}`, { qos: 1 });
    members.push(member);
  }
  for (let number = 0; number < 100; number += 1) {
    await speaker.client.publishAsync(topic("shared"), String(number), { qos: 1 });
  }
  const count = () => members.reduce((sum, member) => sum + member.inbox.length, 0);
  await until("100 shared messages", () => (count() >= 100 ? true : undefined),
    (check) => members.forEach((member) => member.client.on("message", check)));
  facts.shared = {
    distinct: new Set(members.flatMap((member) => member.inbox.map((message) => message.text))).size,
    total: count(),
    bothServed: members.every((member) => member.inbox.length > 0),
  };
  for (const member of members) await member.close();

  // What no rule allows.
  facts.denied = {};
  try {
    const [answer] = await speaker.client.subscribeAsync("other/#", { qos: 1 });
    facts.denied.subscribe = answer.qos;
  } catch (error) {
    facts.denied.subscribe = error.message;
  }
  try {
    await speaker.client.publishAsync("other/a", "denied", { qos: 1 });
    facts.denied.publish = "acknowledged";
  } catch (error) {
    facts.denied.publish = error.message;
  }

  if (five) {
    const reader = await connect("reader", { properties: { receiveMaximum: 3, topicAliasMaximum: 5 } });
    const subscription = { qos: 1, properties: { subscriptionIdentifier: 7, userProperties: { from: "reader" } } };
    await reader.client.subscribeAsync(topic("properties"), subscription);
    const properties = {
      userProperties: { unit: "celsius", site: ["a", "b"] },
      contentType: "text/plain",
      responseTopic: topic("answers"),
      correlationData: new Uint8Array([1, 2, 3]),
      payloadFormatIndicator: true,
      messageExpiryInterval: 60,
    };
    await speaker.client.publishAsync(topic("properties"), "21.5", { qos: 1, properties });
    const got = (await reader.received(1))[0].packet.properties;
    facts.properties = {
      user: { ...got.userProperties },
      contentType: got.contentType,
      responseTopic: got.responseTopic,
      correlation: [...got.correlationData],
      format: got.payloadFormatIndicator,
      expiry: got.messageExpiryInterval > 50 && got.messageExpiryInterval <= 60,
      subscription: got.subscriptionIdentifier,
    };
    await reader.close();
  }
  await speaker.close();
  return facts;
}

if (typeof module !== "undefined") module.exports = { exchange };
