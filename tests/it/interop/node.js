// exchange.js in Node: NODE_PATH leads to MQTT.js, the argument is the settings as JSON.

"use strict";

const mqtt = require("mqtt");
const { exchange } = require("./exchange.js");

const settings = JSON.parse(process.argv[2]);
if (settings.ca) settings.tls = { ca: require("fs").readFileSync(settings.ca) };
// A publication on a connection that has ended is never answered.
setTimeout(() => {
  console.error("not done within two minutes");
  process.exit(1);
}, 120000).unref();
exchange(mqtt, settings).then(
  (facts) => process.stdout.write(`${JSON.stringify(facts)}\n`, () => process.exit(0)),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
