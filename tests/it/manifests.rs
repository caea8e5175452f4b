//! The chart, and what is generated from it and for it.

use std::path::PathBuf;
use std::process::Command;

use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, PostParams, ResourceExt};
use kube::{Client, api::ObjectMeta};

use crate::support::{ApiServer, kube_bin, project_file, run, with_temp_namespace};

const CRD: &str = "mqttbrokers.mqtt-operator.io";

fn chart() -> PathBuf {
    project_file("charts/mqtt-operator")
}

fn read(path: &str) -> String {
    std::fs::read_to_string(project_file(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[test]
fn install_yaml_is_what_the_chart_renders() {
    let rendered = run(Command::new(project_file("charts/install-yaml")).env("HELM", kube_bin("helm")));
    assert!(rendered == read("manifests/install.yaml"), "manifests/install.yaml is not up to date: just install-yaml");
}

#[test]
fn the_chart_carries_the_definitions_of_crds() {
    for name in ["mqttbrokers.yaml", "mqttusers.yaml"] {
        let (ours, charts) = (read(&format!("crds/{name}")), read(&format!("charts/mqtt-operator/files/crds/{name}")));
        assert!(ours == charts, "the chart's copy of {name} is not up to date: just crds");
    }
}

#[test]
fn a_value_that_the_chart_does_not_have_is_refused() {
    for (value, named) in [
        ("replcas=1", "replcas"),
        ("image.pullPolicy=Sometimes", "pullPolicy"),
        ("watchNamespaces={Shop}", "watchNamespaces"),
    ] {
        let output =
            Command::new(kube_bin("helm")).args(["template", "--set", value]).arg(chart()).output().expect("helm runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(named), "--set {value}: {said}");
    }
}

#[test]
fn every_option_renders() {
    let values = "serviceAccount.annotations.a=b,imagePullSecrets[0].name=pull,priorityClassName=high,podLabels.a=b,\
                  podAnnotations.a=b,nodeSelector.a=b,tolerations[0].key=a,affinity.nodeAffinity.a=b,\
                  topologySpreadConstraints[0].maxSkew=1,serviceMonitor.enabled=true,serviceMonitor.labels.a=b";
    let rendered = run(Command::new(kube_bin("helm")).args(["template", "--set", values]).arg(chart()));
    for kind in ["Deployment", "ServiceAccount", "PodDisruptionBudget", "ServiceMonitor", "CustomResourceDefinition"] {
        assert!(rendered.contains(&format!("\nkind: {kind}\n")), "no {kind} in\n{rendered}");
    }
    for field in ["imagePullSecrets", "priorityClassName: high", "nodeSelector", "tolerations", "affinity", "maxSkew"] {
        assert!(rendered.contains(field), "no {field} in\n{rendered}");
    }
}

#[tokio::test]
async fn definitions_and_chart_install_in_either_order() {
    let server = ApiServer::start().unwrap_or_else(|error| panic!("{error}"));
    let definitions: Api<CustomResourceDefinition> = Api::all(server.client().await);
    let helm = |verb: &str| {
        run(server.helm().args([verb, "mq"]).arg(chart()).args(["-n", "operators", "--create-namespace"]));
    };
    let apply = || run(server.kubectl().args(["apply", "-f"]).arg(project_file("crds")));
    let owner = async || {
        let definition = definitions.get(CRD).await.expect("the definition exists");
        definition.annotations().get("meta.helm.sh/release-name").cloned()
    };

    apply();
    helm("install");
    assert_eq!(owner().await, None, "a definition that somebody else installed is left alone");
    run(server.helm().args(["uninstall", "mq", "-n", "operators"]));
    run(server.kubectl().args(["delete", "crd", CRD]));

    helm("install");
    assert_eq!(owner().await.as_deref(), Some("mq"), "a definition that was absent is the chart's");
    apply();
    helm("upgrade");
    assert_eq!(owner().await.as_deref(), Some("mq"), "and stays the chart's");
    run(server.helm().args(["uninstall", "mq", "-n", "operators"]));
    assert_eq!(owner().await.as_deref(), Some("mq"), "with its objects, it outlives the release");
    helm("install");
    assert_eq!(owner().await.as_deref(), Some("mq"), "and is taken up again");
}

#[tokio::test]
async fn install_yaml_is_admitted() {
    let server = ApiServer::start().unwrap_or_else(|error| panic!("{error}"));
    run(server.kubectl().args(["apply", "-f"]).arg(project_file("manifests/install.yaml")));
    let definitions: Api<CustomResourceDefinition> = Api::all(server.client().await);
    definitions.get(CRD).await.expect("the definition is among it");
}

#[tokio::test]
async fn rights_end_where_the_watched_namespaces_end() {
    let server = ApiServer::shared();
    let client = server.client().await;
    with_temp_namespace(&client, async |watched| {
        run(server
            .helm()
            .args(["install", "narrow"])
            .arg(chart())
            .args(["-n", &watched])
            .args(["--set", &format!("crds.enabled=false,watchNamespaces={{{watched}}}")]));
        let account = format!("system:serviceaccount:{watched}:narrow");
        for (verb, group, resource, namespace, expected) in [
            ("list", "", "secrets", watched.as_str(), true),
            ("patch", "apps", "statefulsets", &watched, true),
            ("patch", "mqtt-operator.io", "mqttbrokers/status", &watched, true),
            ("patch", "", "pods", &watched, true),
            ("patch", "", "persistentvolumeclaims", &watched, true),
            ("delete", "apps", "statefulsets", &watched, true),
            ("delete", "", "persistentvolumeclaims", &watched, false),
            ("patch", "", "persistentvolumeclaims", "default", false),
            ("update", "coordination.k8s.io", "leases", &watched, true),
            ("list", "", "nodes", "", true),
            ("list", "", "secrets", "", false),
            ("get", "", "secrets", "default", false),
            ("list", "mqtt-operator.io", "mqttbrokers", "default", false),
            ("update", "mqtt-operator.io", "mqttbrokers", &watched, false),
            ("patch", "mqtt-operator.io", "mqttbrokers", &watched, false),
            ("create", "", "pods", &watched, false),
            ("create", "", "pods/exec", &watched, false),
            ("create", "", "serviceaccounts/token", &watched, false),
            ("create", "rbac.authorization.k8s.io", "rolebindings", &watched, false),
        ] {
            let allowed = may(&client, &account, verb, group, resource, namespace).await;
            assert_eq!(allowed, expected, "{verb} {resource} in namespace {namespace:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn rights_in_all_namespaces_hold_no_more_than_brokers_need() {
    let server = ApiServer::shared();
    let client = server.client().await;
    with_temp_namespace(&client, async |namespace| {
        run(server.helm().args(["install", "wide"]).arg(chart()).args([
            "-n",
            &namespace,
            "--set",
            "crds.enabled=false",
        ]));
        let account = format!("system:serviceaccount:{namespace}:wide");
        for (verb, group, resource, expected) in [
            ("list", "", "secrets", true),
            ("watch", "mqtt-operator.io", "mqttbrokers", true),
            ("update", "coordination.k8s.io", "leases", false),
            ("list", "", "nodes", true),
            ("get", "", "nodes", false),
            ("create", "", "pods", false),
            ("delete", "apps", "deployments", false),
            ("create", "rbac.authorization.k8s.io", "clusterrolebindings", false),
        ] {
            assert_eq!(may(&client, &account, verb, group, resource, "").await, expected, "{verb} {resource}");
        }
    })
    .await;
}

/// Whether the API server would let `account` do this; namespace `""` is the whole cluster.
async fn may(client: &Client, account: &str, verb: &str, group: &str, resource: &str, namespace: &str) -> bool {
    let (resource, subresource) = resource.split_once('/').map_or((resource, None), |(it, sub)| (it, Some(sub)));
    let attributes = ResourceAttributes {
        verb: Some(verb.to_owned()),
        group: Some(group.to_owned()),
        resource: Some(resource.to_owned()),
        subresource: subresource.map(str::to_owned),
        namespace: Some(namespace.to_owned()),
        ..ResourceAttributes::default()
    };
    let spec = SubjectAccessReviewSpec {
        user: Some(account.to_owned()),
        resource_attributes: Some(attributes),
        ..SubjectAccessReviewSpec::default()
    };
    let review = SubjectAccessReview { metadata: ObjectMeta::default(), spec, status: None };
    let reviews: Api<SubjectAccessReview> = Api::all(client.clone());
    let review = reviews.create(&PostParams::default(), &review).await.expect("a review");
    review.status.expect("a created review has its answer").allowed
}
