//! Objects as users write them, and what is made of them.

use super::*;
use crate::api::manifest;

/// The plan of an object with this `spec`, past the checks of an API server, as an object that is older than a rule.
fn plan_of(spec: &str) -> Result<Plan, Invalid> {
    let spec: MqttBrokerSpec = serde_saphyr::from_str(spec).unwrap();
    let mut object = MqttBroker::new("home", spec);
    object.metadata.namespace = Some("shop".into());
    plan(&object)
}

fn refused(spec: &str) -> String {
    plan_of(spec).unwrap_err().to_string()
}

#[test]
fn empty_spec_is_one_closed_broker() {
    let plan = plan_of("{}").unwrap();
    assert_eq!((plan.replicas, plan.bridge.as_ref()), (1, None));
    assert_eq!(plan.listeners().len(), 1);
    assert_eq!((plan.listeners()[0].name.as_str(), plan.listeners()[0].port), ("mqtt", 1883));
    assert_eq!(plan.broker.auth.jwt.issuer, "mqttbroker/shop/home");
    assert_eq!(plan.broker.auth.jwt.audience, "mqtt://shop/home");
    assert_eq!(plan.broker.auth.jwt.max_token_ttl, 8760 * 3600);
    assert_eq!(plan.broker.auth.jwt.acl_claim, "acl");
    assert_eq!(plan.broker.auth.anonymous, None);
    assert_eq!(plan.broker.bridge, None);
    // The default container may use 512Mi.
    let limits = broker::Limits { max_memory: Some(384 << 20), ..broker::Limits::default() };
    assert_eq!(plan.broker.limits, limits);
    assert_eq!(plan.broker.storage, Some(broker::Storage { durability: broker::Durability::Fsync, size: 960 << 20 }));
    let claim = Claim { size: "1Gi".into(), bytes: 1 << 30, class: None, delete: false };
    assert_eq!(plan.claim, Some(claim));
    assert_eq!(plan.service.type_, api::ServiceType::LoadBalancer);
}

#[test]
fn telemetry_gives_the_bridge_a_listener_of_its_own_and_no_more_topics_than_asked() {
    let plan = plan_of(
        "telemetry: {topics: ['sensor/#'], elasticsearch: {urls: ['http://elasticsearch:9200'],
         credentialsSecretRef: {name: es}, caSecretRef: {name: ca}}}",
    )
    .unwrap();
    let bridge = plan.bridge.clone().unwrap();
    let access = plan.broker.bridge.clone().unwrap();
    assert_eq!(access.topics, ["sensor/#"]);
    assert_eq!(access.listen, bridge.broker);
    assert!(bridge.broker.ip().is_loopback());
    assert_eq!(bridge.data_stream, "logs-mqtt.home-shop");
    assert_eq!(bridge.dead_letters, "logs-mqtt.deadletter-shop");
    assert_eq!(plan.referenced_secrets().into_iter().collect::<Vec<_>>(), ["ca", "es"]);
}

#[test]
fn telemetry_does_not_go_where_its_dead_letters_go() {
    let invalid = plan_of(
        "telemetry: {topics: ['sensor/#'], elasticsearch: {urls: ['http://elasticsearch:9200'],
         dataStream: logs-mqtt.deadletter-shop}}",
    )
    .unwrap_err();
    assert_eq!(invalid.field, "spec.telemetry.elasticsearch.dataStream");
}

#[test]
fn limits_are_read_as_users_write_them() {
    let plan = plan_of("limits: {maxPacketSize: 64Ki, maxQueuedBytes: 1048576, sessionExpiry: 1h30m}").unwrap();
    assert_eq!(plan.broker.limits.max_packet_size, 65536);
    assert_eq!(plan.broker.limits.max_queued_bytes, 1_048_576);
    assert_eq!(plan.broker.limits.session_expiry, 5400);
}

#[test]
fn how_long_messages_may_wait_is_no_limit_by_default_and_changes_without_a_restart() {
    let age = |spec: &str| plan_of(spec).unwrap().broker.limits.max_queued_age;
    assert_eq!(
        [age("{}"), age("limits: {maxQueuedAge: 0s}"), age("limits: {maxQueuedAge: 1h}")],
        [None, None, Some(3600)]
    );
    for (text, message) in
        [("2000000h", "must be at most 4294967295 seconds"), ("1d", "\"1d\" is not a duration such as")]
    {
        let refused = plan_of(&format!("limits: {{maxQueuedAge: {text}}}")).unwrap_err().to_string();
        assert!(refused.starts_with(&format!("spec.limits.maxQueuedAge: {message}")), "{refused}");
    }
    let until_restart = |spec: &str| plan_of(spec).unwrap().broker.until_restart();
    assert_eq!(until_restart("{}"), until_restart("limits: {maxQueuedAge: 1s}"));
    assert_ne!(until_restart("{}"), until_restart("limits: {maxQueuedMessages: 1}"));
}

#[test]
fn rates_and_their_special_numbers_are_read_as_users_write_them() {
    let spec = "auth: {denyBudget: 5/1m}
limits: {connectRate: 0, connectRatePerAddress: 20/s, messageRate: 100/10s, byteRate: 1Mi/s, maxKeepAlive: 10m, queueFull: refuse}";
    let limits = plan_of(spec).unwrap().broker.limits;
    let rate = |amount, seconds| Some(broker::Rate { amount, seconds });
    assert_eq!(limits.deny_budget, rate(5, 60));
    assert_eq!((limits.connect_rate, limits.connect_rate_per_address), (None, rate(20, 1)));
    assert_eq!((limits.message_rate, limits.byte_rate), (rate(100, 10), rate(1 << 20, 1)));
    assert_eq!((limits.max_keep_alive, limits.queue_full), (600, broker::QueueFull::Refuse));
    assert_eq!(plan_of("auth: {denyBudget: -1}").unwrap().broker.limits.deny_budget, None);
    assert_eq!(plan_of("auth: {denyBudget: 0}").unwrap().broker.limits.deny_budget, rate(0, 1));
}

#[test]
fn storage_is_a_claim_unless_nothing_is_kept() {
    let plan = plan_of("storage: {size: 2Ti, storageClassName: fast, durability: async, onDelete: Delete}").unwrap();
    let claim = Claim { size: "2Ti".into(), bytes: 2 << 40, class: Some("fast".into()), delete: true };
    assert_eq!(plan.claim, Some(claim));
    let storage = plan.broker.storage.unwrap();
    assert_eq!((storage.durability, storage.size), (broker::Durability::Async, (2 << 40) / 16 * 15));
    let plan = plan_of("storage: {durability: memory, size: '1'}").unwrap();
    assert_eq!((plan.claim, plan.broker.durability()), (None, broker::Durability::Memory));
}

#[test]
fn what_waits_for_elasticsearch_leaves_room_for_the_rest() {
    let buffer = |storage: &str, buffer: &str| {
        let telemetry = format!("{{topics: [a], {buffer} elasticsearch: {{urls: ['http://es:9200']}}}}");
        plan_of(&format!("{{storage: {{{storage}}}, telemetry: {telemetry}}}"))
            .map(|it| it.broker.bridge.unwrap().buffer)
    };
    assert_eq!(buffer("", "").unwrap(), 512 << 20);
    assert_eq!(buffer("size: 10Gi", "").unwrap(), 1 << 30);
    assert_eq!(buffer("durability: memory", "").unwrap(), 1 << 30);
    assert_eq!(buffer("size: 10Gi", "buffer: 8Gi,").unwrap(), 8 << 30);
    let refused = buffer("", "buffer: 1Gi,").unwrap_err().to_string();
    assert!(refused.starts_with("spec.telemetry.buffer: must be less than spec.storage.size"), "{refused}");
}

#[test]
fn the_memory_ceiling_follows_the_container() {
    for (spec, ceiling) in [
        ("pod: {resources: {limits: {memory: 1Gi}}}", Some(768 << 20)),
        ("pod: {resources: {requests: {memory: 1Gi}}}", None),
        ("{limits: {maxMemory: 100Mi}, pod: {resources: {limits: {memory: 1Gi}}}}", Some(100 << 20)),
        ("limits: {maxMemory: 0}", None),
    ] {
        assert_eq!(plan_of(spec).unwrap().broker.limits.max_memory, ceiling, "{spec}");
    }
}

#[test]
fn what_cannot_be_is_refused_with_the_field() {
    for (spec, message) in [
        ("replicas: 2", "spec.replicas: must be 0 or 1"),
        ("storage: {size: 1Mi}", "spec.storage.size: must be at least 64Mi"),
        ("listeners: []", "spec.listeners: must have at least 1 item"),
        (
            "listeners: [{name: a, protocol: mqtt, port: 1883}, {name: b, protocol: mqtt, port: 1883}]",
            "spec.listeners[1].port: 1883 is taken",
        ),
        ("listeners: [{name: a, protocol: mqtt, port: 9180}]", "spec.listeners[0].port: 9180 is taken"),
        ("listeners: [{name: admin, protocol: mqtt, port: 1883}]", "spec.listeners[0].name: \"admin\" is taken"),
        (
            "auth: {users: [{name: a, generate: true, groups: [x]}]}",
            "spec.auth.users[0].groups[0]: there is no group \"x\"",
        ),
        ("auth: {users: [{name: a, generate: true}]}", "spec.auth.users[0]: acl or groups is needed"),
        (
            "auth: {users: [{name: a, acl: []}]}",
            "spec.auth.users[0]: exactly one of passwordSecretRef, passwordHashSecretRef and generate: true is needed",
        ),
        (
            "auth: {users: [{name: a, acl: [], generate: true}, {name: a, acl: [], generate: true}]}",
            "spec.auth.users[1].name: \"a\" is taken",
        ),
        (
            "auth: {users: [{name: 'system:bridge', acl: [], generate: true}]}",
            "spec.auth.users[0].name: names that begin with 'system:' are reserved",
        ),
        (
            "auth: {deny: [{permission: deny, action: all, topic: a, qos: [1, 3]}]}",
            "spec.auth.deny[0].qos: 3 is not a level of QoS",
        ),
        (
            "auth: {anonymous: {acl: [{permission: allow, action: all, topic: 'a/#/b'}]}}",
            "spec.auth.anonymous.acl[0].topic: `#` stands only alone and as the last level",
        ),
        (
            "auth: {groups: [{name: g, acl: [{permission: allow, action: all, topic: '${user}/a'}]}]}",
            "spec.auth.groups[0].acl[0].topic: `${user}` is unknown; there are ${clientid}, ${username}, ${sub} and \
             ${claims.NAME}",
        ),
        (
            "telemetry: {topics: ['a/#', 'b+'], elasticsearch: {urls: ['http://es:9200']}}",
            "spec.telemetry.topics[1]: `+` stands only alone in its level",
        ),
        ("auth: {jwt: {algorithm: HS256}}", "spec.auth.jwt.algorithm: HS256 needs acknowledgeSharedSecret: true"),
        (
            "auth: {jwt: {maxTokenTtl: 1d}}",
            "spec.auth.jwt.maxTokenTtl: \"1d\" is not a duration such as 8760h or 1h30m",
        ),
        ("limits: {messageRate: 100}", "spec.limits.messageRate: \"100\" is not a rate such as 100/s, 3/10s or 1Mi/s"),
        ("limits: {connectTimeout: 1h}", "spec.limits.connectTimeout: must be between 1s and 300s"),
        ("limits: {maxMemory: 1Mi}", "spec.limits.maxMemory: must be at least 32Mi, or 0 for no limit"),
        (
            "pod: {resources: {limits: {memory: much}}}",
            "spec.pod.resources.limits.memory: \"much\" is not an amount such as 512Mi",
        ),
        ("limits: {maxPacketSize: 1Gi}", "spec.limits.maxPacketSize: must be between 1Ki and 268435460"),
    ] {
        assert_eq!(refused(spec), message, "{spec}");
    }
}

#[test]
fn listeners_of_every_protocol_are_planned_with_what_they_need() {
    let plan = plan_of(
        "listeners:
         - {name: mqtt, protocol: mqtt, port: 1883, proxyProtocol: {from: [10.1.2.3/8, '2001:db8::1']}}
         - {name: mqtts, protocol: mqtts, port: 8883, tls: {secretName: s, clientCa: {secretName: c}}}
         - {name: ws, protocol: ws, port: 8083}
         - {name: wss, protocol: wss, port: 8084, path: /, allowedOrigins: ['https://a.b'],
            tls: {secretName: s, clientCa: {secretName: c}, requireClientCertificate: true}}",
    )
    .unwrap();
    let [mqtt, mqtts, ws, wss] = plan.listeners() else { panic!("{:?}", plan.listeners()) };
    assert_eq!(mqtt.proxies, ["10.0.0.0/8".parse().unwrap(), "2001:db8::1/128".parse().unwrap()]);
    assert_eq!(mqtt.client_certificates, broker::ClientCertificates::Ignored);
    assert_eq!(mqtts.client_certificates, broker::ClientCertificates::Verified);
    assert_eq!(wss.client_certificates, broker::ClientCertificates::Required);
    assert_eq!((ws.path.as_str(), wss.path.as_str()), ("/mqtt", "/"));
    assert_eq!((ws.allowed_origins.len(), wss.allowed_origins.as_slice()), (0, &["https://a.b".to_owned()][..]));
    assert_eq!(plan.referenced_secrets().into_iter().collect::<Vec<_>>(), ["c", "s"]);
    let keys: Vec<_> = plan.listener_secrets[1].keys().collect();
    let field = |name: &str| format!("spec.listeners[3].tls.{name}");
    assert_eq!(
        keys,
        [
            (field("secretName"), "s", "tls.crt"),
            (field("secretName"), "s", "tls.key"),
            (field("clientCa.secretName"), "c", "ca.crt")
        ]
    );
}

#[test]
fn listeners_that_cannot_be_are_refused_even_if_they_are_older_than_the_rule() {
    for (listener, message) in [
        ("protocol: mqtts", "tls: is needed for protocols mqtts and wss, and for no other"),
        ("protocol: ws, tls: {secretName: s}", "tls: is needed for protocols mqtts and wss, and for no other"),
        ("protocol: mqtt, path: /a", "protocol: path and allowedOrigins need protocol ws or wss"),
        (
            "protocol: mqtts, tls: {secretName: s, requireClientCertificate: true}",
            "tls.requireClientCertificate: needs tls.clientCa",
        ),
        (
            "protocol: mqtt, proxyProtocol: {from: [10.0.0.0/33]}",
            "proxyProtocol.from[0]: \"10.0.0.0/33\" is no network",
        ),
    ] {
        let said = refused(&format!("listeners: [{{name: a, port: 1, {listener}}}]"));
        assert_eq!(said, format!("spec.listeners[0].{message}"), "{listener}");
    }
}

#[test]
fn samples_parse_round_trip_and_plan() {
    for sample in ["thermometer", "tutorial", "listeners"] {
        let path = format!("{}/manifests/samples/{sample}.yaml", env!("CARGO_MANIFEST_DIR"));
        let manifest = manifest::read(&std::fs::read_to_string(&path).unwrap()).unwrap();
        for object in &manifest.brokers {
            let text = serde_saphyr::to_string(&object).unwrap();
            assert_eq!(&manifest::read(&text).unwrap().brokers[0], object, "{text}");
            let plan = plan(object).unwrap();
            for user in &plan.users {
                if let Password::FromSecret { name, key } = &user.password {
                    assert!(manifest.secret_value(&plan.namespace, name, key).is_some(), "{sample}: {name}/{key}");
                }
            }
        }
        assert_eq!(manifest.brokers.len(), 1, "{sample}");
    }
}

#[test]
fn the_guard_bans_only_where_addresses_are_those_of_clients() {
    let guard = |spec: &str| plan_of(spec).unwrap().broker.auth.guard;
    assert_eq!(guard("{service: {type: ClusterIP}}"), settings::Guard::default());
    for (spec, hidden) in [
        ("{}", true),
        ("{service: {type: NodePort}}", true),
        ("{service: {externalTrafficPolicy: Cluster}}", true),
        ("{service: {externalTrafficPolicy: Local}}", false),
        ("{listeners: [{name: a, protocol: mqtt, port: 1, proxyProtocol: {from: [10.0.0.0/8]}}]}", false),
        (
            "{listeners: [{name: a, protocol: mqtt, port: 1, proxyProtocol: {from: [10.0.0.0/8]}},
              {name: b, protocol: mqtt, port: 2}]}",
            true,
        ),
        ("{auth: {guard: {addressesAreOfClients: true}}}", false),
        ("{service: {type: ClusterIP}, auth: {guard: {addressesAreOfClients: false}}}", true),
    ] {
        assert_eq!(guard(spec).addresses_hidden, hidden, "{spec}");
    }
}

#[test]
fn the_guard_has_its_numbers_from_the_object_and_can_be_switched_off() {
    let guard = |spec: &str| plan_of(&format!("{{auth: {{guard: {spec}}}}}")).map(|plan| plan.broker.auth.guard);
    let strict = guard("{failures: 3/30s, ban: 1h}").unwrap();
    assert_eq!((strict.failures, strict.within, strict.ban), (3, 30, 3600));
    assert!(guard("{failures: 0}").unwrap().is_off());
    for (wrong, expected) in [
        ("{failures: -1}", "spec.auth.guard.failures: \"-1\" is not a rate such as 100/s, 3/10s or 1Mi/s"),
        ("{failures: 1Gi/s}", "spec.auth.guard.failures: must be at most 100000 in that time"),
        ("{ban: 0s}", "spec.auth.guard.ban: must be between 1s and 24h"),
        ("{ban: 25h}", "spec.auth.guard.ban: must be between 1s and 24h"),
    ] {
        assert_eq!(guard(wrong).unwrap_err().to_string(), expected);
    }
}
