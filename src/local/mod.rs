//! `mqttctl up`: the same object on one machine, without Kubernetes: plan, then broker and bridge in this process.
