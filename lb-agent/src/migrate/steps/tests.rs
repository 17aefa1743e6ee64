use super::{super::report::report, *};

/// Steps that are not done, by these objects.
fn left(objects: &[Value], accepts_losses: bool) -> Vec<(&'static str, State)> {
    let installation = Installation::of_objects(objects.to_vec(), "metallb-system");
    let circumstances = Circumstances { has_backup: true, accepts_losses, ..Circumstances::default() };
    let steps = report(&installation, &circumstances).steps;
    let left = steps.into_iter().filter(|step| step.state != State::Done);
    left.map(|step| (step.name, step.state)).collect()
}

fn names(objects: &[Value]) -> Vec<&'static str> {
    left(objects, false).into_iter().map(|(name, _)| name).collect()
}

fn running(kind: &str, name: &str, part: &str, image: &str, status: Value) -> Value {
    let container = json!({"name": part, "image": image});
    let spec = match kind {
        "Pod" => json!({"containers": [container]}),
        _ => json!({"template": {"spec": {"containers": [container]}}}),
    };
    json!({
        "apiVersion": "apps/v1", "kind": kind, "spec": spec, "status": status,
        // Ours have the names and labels of MetalLB's.
        "metadata": {"name": name, "namespace": "metallb-system", "labels": {"app": "metallb", "component": part}},
    })
}

const OURS: &str = "registry.example/mirror/lb-agent:0.1.0";

fn ours() -> Vec<Value> {
    vec![
        running("Deployment", "controller", "controller", OURS, json!({"availableReplicas": 1})),
        running(
            "DaemonSet",
            "speaker",
            "speaker",
            OURS,
            json!({"desiredNumberScheduled": 2, "numberReady": 2}),
        ),
    ]
}

fn theirs() -> Vec<Value> {
    vec![
        running("Deployment", "controller", "controller", "quay.io/metallb/controller:v0.15.2", json!({})),
        running("DaemonSet", "speaker", "speaker", "quay.io/metallb/speaker:v0.15.2", json!({})),
    ]
}

fn secret(owner: Option<&str>) -> Value {
    let owners: Vec<Value> =
        owner.into_iter().map(|kind| json!({"kind": kind, "name": "controller"})).collect();
    json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": "memberlist", "namespace": "metallb-system", "ownerReferences": owners},
    })
}

fn pool() -> Value {
    json!({
        "apiVersion": "metallb.io/v1beta1", "kind": "IPAddressPool",
        "metadata": {"name": "main", "namespace": "metallb-system"}, "spec": {"addresses": ["192.0.2.0/28"]},
    })
}

fn service(annotations: Value, class: Option<&str>) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "web", "namespace": "default", "annotations": annotations},
        "spec": {"type": "LoadBalancer", "loadBalancerClass": class, "ports": [{"port": 80}]},
        "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.3"}]}},
    })
}

#[test]
fn ours_are_told_from_theirs_by_what_runs() {
    let secret = secret(None);
    assert_eq!(
        names(&[theirs(), vec![secret.clone()]].concat()),
        ["controller", "our-controller", "speakers", "our-nodes"]
    );
    assert_eq!(names(&[ours(), vec![secret.clone()]].concat()), [""; 0]);
    let mut halfway = ours();
    halfway[1] = theirs().remove(1);
    halfway.push(secret);
    assert_eq!(names(&halfway), ["speakers", "our-nodes"]);
}

#[test]
fn what_ends_or_begins_is_waited_for() {
    let mut objects = ours();
    objects.push(secret(None));
    objects.push(running("Pod", "speaker-x", "speaker", "quay.io/metallb/speaker:v0.15.2", json!({})));
    objects[0]["status"] = json!({});
    objects[1]["status"] = json!({"desiredNumberScheduled": 2, "numberReady": 1});
    let waiting = |what: &str| State::Waiting(what.to_owned());
    assert_eq!(
        left(&objects, false),
        [
            ("our-controller", waiting("Deployment metallb-system/controller is not available yet")),
            ("speakers", waiting("still there: Pod metallb-system/speaker-x")),
            ("our-nodes", waiting("DaemonSet metallb-system/speaker is ready on 1 of 2 nodes")),
        ]
    );
}

#[test]
fn what_is_being_deleted_is_not_deleted_again() {
    let mut objects = theirs();
    objects[0]["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    objects.push(secret(None));
    let waiting = State::Waiting("still there: Deployment metallb-system/controller".to_owned());
    assert_eq!(left(&objects, false)[0], ("controller", waiting));
}

#[test]
fn a_secret_that_goes_with_the_controller_is_set_free_before() {
    let of = |owner| names(&[theirs(), vec![secret(owner)]].concat());
    assert_eq!(of(Some("Deployment"))[..2], ["secret", "controller"]);
    assert_eq!(of(Some("SealedSecret"))[0], "controller");
    assert_eq!(names(&theirs())[0], "secret", "there is none");
}

#[test]
fn services_stay_with_the_kernel_until_they_are_switched_for_good() {
    let common = [secret(None), pool()];
    let with = |running: Vec<Value>, service| names(&[running, common.to_vec(), vec![service]].concat());
    let is_left = |names: Vec<&str>| names.contains(&"forwarding");
    assert!(is_left(with(theirs(), service(json!({}), None))));
    assert!(!is_left(with(theirs(), service(json!({"magnetite.io/forwarding": "auto"}), None))));
    // MetalLB's speakers are gone, and ours are not there yet.
    assert!(is_left(with(ours()[..1].to_vec(), service(json!({}), None))));
    assert_eq!(with(ours(), service(json!({}), None)), [""; 0]);
    assert_eq!(with(ours(), service(json!({"magnetite.io/forwarding": "kernel"}), None)), ["switch"]);
}

#[test]
fn nothing_is_taken_away_that_somebody_would_miss() {
    let mut objects = [theirs(), vec![secret(None), pool(), service(json!({}), Some("metallb"))]].concat();
    let blocked = |objects: &[Value], accepts| {
        left(objects, accepts).into_iter().filter(|(_, state)| matches!(state, State::Blocked(_))).count()
    };
    assert_eq!(blocked(&objects, false), 0, "it is somebody else's class");
    objects[0]["spec"]["template"]["spec"]["containers"][0]["args"] = json!(["--lb-class=metallb"]);
    assert_eq!(blocked(&objects, false), 0, "ours serves it as well");
    objects[3]["spec"]["addresses"] = json!(["198.51.100.0/28"]);
    assert_eq!(blocked(&objects, false), 2, "it would get another address");
    assert_eq!(blocked(&objects, true), 0);
}

#[test]
fn nobody_is_told_to_uninstall_what_still_serves() {
    let rest = json!({
        "apiVersion": "v1", "kind": "Service", "spec": {"ports": [{"port": 443}]},
        "metadata": {"name": "metallb-webhook-service", "namespace": "metallb-system"},
    });
    let last = |running: Vec<Value>| left(&[running, vec![secret(None), rest.clone()]].concat(), false).pop();
    assert!(matches!(last(theirs()), Some(("rest", State::Blocked(_)))));
    assert!(matches!(last(ours()[..1].to_vec()), Some(("rest", State::Blocked(_)))));
    assert!(matches!(last(ours()), Some(("rest", State::Whenever(_)))));
}
