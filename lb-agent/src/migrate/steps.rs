//! What is to be done, in which order, so that nothing is lost on the way; and how far it is done.
//!
//! The order has reasons. What Helm deletes stands in its own record, so the definitions have to be out of that before anybody uninstalls
//! MetalLB; to get them out Helm renders the chart once more, and makes webhooks anew, so they go after it. MetalLB's controller does not
//! get ready without the conversion by its webhook when it starts again, so it goes soon after that. It owns the Secret by which nodes
//! know each other: that has to be set free before. Its place is ours before speakers go, for nobody else gives addresses meanwhile.

use serde::Serialize;
use serde_json::{Value, json};

use super::{
    action::{Action, Object, Resource},
    addresses::{ServiceAddresses, is_taken_over},
    helm::{self, KEEP, Record, Release},
    installation::{Installation, Part, Whose, annotation},
    report::Circumstances,
};

/// A step.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// Its name.
    pub name: &'static str,
    /// What is done.
    pub what: String,
    /// Why.
    pub why: &'static str,
    /// What happens without it.
    pub without: &'static str,
    /// How to go back.
    pub undo: String,
    /// Who does it.
    pub by: By,
    /// How far it is.
    pub state: State,
    /// What is left of it, for a shell.
    pub commands: Vec<String>,
    /// What is left of it.
    #[serde(skip)]
    pub actions: Vec<Action>,
}

/// Who does a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum By {
    /// `migrate --apply`.
    Apply,
    /// Whoever runs the cluster.
    Operator,
}

/// How far a step is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum State {
    /// There is nothing to do, or nothing any more.
    Done,
    /// It is to be done.
    Todo,
    /// It was begun, and this is what is waited for.
    Waiting(String),
    /// It must not be done yet, for this.
    Blocked(String),
    /// It can wait; what is there is this.
    Whenever(String),
}

impl Step {
    /// Whether the next step may follow.
    pub const fn is_over(&self) -> bool {
        matches!(self.state, State::Done | State::Whenever(_))
    }
}

/// All steps, in their order.
pub fn steps(
    installation: &Installation,
    circumstances: &Circumstances,
    addresses: &[ServiceAddresses],
) -> Vec<Step> {
    let plan = Plan { installation, circumstances, addresses, release: helm::release(installation) };
    vec![
        plan.backup(),
        plan.operator(),
        plan.keep(),
        plan.release(),
        plan.conversion(),
        plan.webhooks(),
        plan.forwarding(),
        plan.secret(),
        plan.controller(),
        plan.our_controller(),
        plan.speakers(),
        plan.our_nodes(),
        plan.switch(),
        plan.rest(),
    ]
}

/// What a step is made of that [`Plan`] does not know.
struct Parts {
    name: &'static str,
    what: String,
    why: &'static str,
    without: &'static str,
    undo: String,
}

struct Plan<'a> {
    installation: &'a Installation,
    circumstances: &'a Circumstances,
    addresses: &'a [ServiceAddresses],
    release: Option<Release>,
}

/// Where nodes find what they prove to each other that they belong together with.
const SECRET: &str = "memberlist";
/// The Service that MetalLB's webhooks are behind.
const WEBHOOK_SERVICE: &str = "metallb-webhook-service";

impl Plan<'_> {
    fn backup(&self) -> Step {
        let backup = &self.circumstances.backup;
        let is_needed = !self.circumstances.has_backup && self.runs_metallb();
        let parts = Parts {
            name: "backup",
            what: format!(
                "save MetalLB's objects, what runs it, and the addresses of all Services in {backup}"
            ),
            why: "each of the next steps can then be taken back. Passwords of BGPPeers are in it, Secrets are not",
            without: "what is deleted by mistake is gone",
            undo: String::new(),
        };
        let kinds = self.installation.definitions().map(|(key, _)| key.name.clone()).collect();
        self.by_apply(parts, is_needed.then_some(Action::Backup { kinds }).into_iter().collect())
    }

    fn operator(&self) -> Step {
        let namespace = &self.installation.namespace;
        let operator = self.installation.own("Deployment", "metallb-operator-controller-manager");
        let runs = operator.is_some_and(|operator| operator["spec"]["replicas"] != 0);
        let parts = Parts {
            name: "operator",
            what: "stop MetalLB's operator".to_owned(),
            why: "it makes anew what is taken away",
            without: "the next steps do not last",
            undo: format!(
                "kubectl -n {namespace} scale deployment metallb-operator-controller-manager --replicas=1"
            ),
        };
        let commands = vec![
            format!("kubectl -n {namespace} scale deployment metallb-operator-controller-manager --replicas=0"),
            "# where OLM installed it, OLM scales it up again: set replicas to 0 in its ClusterServiceVersion".to_owned(),
        ];
        self.by_operator(parts, if runs { State::Todo } else { State::Done }, commands)
    }

    fn keep(&self) -> Step {
        let is_kept = |object: &Value| annotation(object, KEEP.0) == Some(KEEP.1);
        let left = self.installation.definitions().filter(|(_, object)| !is_kept(object));
        let patch = json!({"metadata": {"annotations": {KEEP.0: KEEP.1}}});
        let actions = left.map(|(key, _)| patch_of(Resource::Definition, "", &key.name, &patch)).collect();
        let parts = Parts {
            name: "keep",
            what:
                "tell Helm to leave the definitions of MetalLB's kinds alone when an upgrade leaves them out"
                    .to_owned(),
            why: "a definition that is deleted takes all objects of its kind with it: every pool and advertisement",
            without: "the next step deletes them",
            undo: String::new(),
        };
        self.by_apply(parts, actions)
    }

    /// Helm looks at an object's annotation when an upgrade leaves the object out (`pkg/kube/client.go`), and at nothing but its record when
    /// it uninstalls (`pkg/action/uninstall.go`).
    fn release(&self) -> Step {
        let parts = |undo| Parts {
            name: "release",
            what: "take the definitions out of what Helm has recorded of MetalLB's release".to_owned(),
            why: "`helm uninstall` deletes what stands in the record of the release, whatever is annotated in the cluster",
            without: "whoever uninstalls MetalLB's chart some day deletes every pool and advertisement",
            undo,
        };
        let has_definitions = self.installation.definitions().next().is_some();
        let Some(release) = self.release.as_ref().filter(|_| has_definitions) else {
            return self.by_operator(parts(String::new()), State::Done, Vec::new());
        };
        let Release { name, namespace, chart, record } = release;
        let version = chart.rsplit_once('-').map_or("VERSION", |(_, version)| version);
        let commands = vec![
            format!(
                "helm upgrade {name} metallb --repo https://metallb.github.io/metallb --version {version} --namespace {namespace} \
                 --reuse-values --set crds.enabled=false"
            ),
            "# if MetalLB's chart is part of another: set crds.enabled below its name there, and upgrade that".to_owned(),
        ];
        let state = match record {
            Record::None | Record::WithoutDefinitions => State::Done,
            Record::WithDefinitions | Record::Unseen => State::Todo,
        };
        self.by_operator(parts(format!("helm rollback {name} --namespace {namespace}")), state, commands)
    }

    fn conversion(&self) -> Step {
        let by_webhook = self.installation.definitions();
        let by_webhook =
            by_webhook.filter(|(_, object)| object["spec"]["conversion"]["strategy"] == "Webhook");
        let patch = json!({"spec": {"conversion": {"strategy": "None", "webhook": null}}});
        let actions =
            by_webhook.map(|(key, _)| patch_of(Resource::Definition, "", &key.name, &patch)).collect();
        let parts = Parts {
            name: "conversion",
            what: "let the API server convert BGPPeers by itself".to_owned(),
            why: "it asks MetalLB's controller, which will be gone; the versions have the same fields, as far as both have them",
            without: "BGPPeers of another version than is stored cannot be read or written, and their namespace cannot be deleted",
            undo:
                "apply the definition of bgppeers.metallb.io of MetalLB's version, while its controller runs"
                    .to_owned(),
        };
        self.by_apply(parts, actions)
    }

    fn webhooks(&self) -> Step {
        let delete = |name: &str| Action::Delete(object(Resource::Webhooks, "", name));
        let actions = self.installation.webhooks().map(|(key, _)| delete(&key.name)).collect();
        let parts = Parts {
            name: "webhooks",
            what: "delete MetalLB's webhook configurations".to_owned(),
            why: "they refuse every change when nobody answers them; what they check is checked by the definitions and the controller",
            without: "no pool or advertisement can be changed any more",
            undo: self.restored("validatingwebhookconfiguration-*.yaml"),
        };
        self.by_apply(parts, actions)
    }

    /// Only of what was served by MetalLB: a Service that its owner has switched stays switched.
    fn forwarding(&self) -> Step {
        let is_early = self.runs_part(Part::Speaker) || !self.has_our_nodes();
        let services = self.installation.of_kind("Service").filter(|(key, object)| {
            is_early
                && is_taken_over(self.installation, key, object)
                && annotation(object, lb_api::FORWARDING).is_none()
        });
        let patch = json!({"metadata": {"annotations": {lb_api::FORWARDING: "kernel"}}});
        let actions =
            services.map(|(key, _)| patch_of(Resource::Service, &key.namespace, &key.name, &patch)).collect();
        let parts = Parts {
            name: "forwarding",
            what: "leave the Services that have an address to kube-proxy".to_owned(),
            why: "their pods then see what they have seen so far, and connections go on; each is switched when its owner wants it",
            without: "all of them are forwarded by the data path at once, and pods see clients where they have seen nodes",
            undo: "nothing: MetalLB does not read it".to_owned(),
        };
        self.by_apply(parts, actions)
    }

    fn secret(&self) -> Step {
        let namespace = &self.installation.namespace;
        let one = object(Resource::Secret, namespace, SECRET);
        let actions = match self.installation.own("Secret", SECRET) {
            None => vec![Action::MakeSecret(one)],
            Some(secret) if is_owned(secret) => {
                let patch = json!({"metadata": {"ownerReferences": null}});
                vec![Action::Patch { object: one, patch }]
            }
            Some(_) => Vec::new(),
        };
        let parts = Parts {
            name: "secret",
            what: format!("have Secret {namespace}/{SECRET}, and have it belong to nobody"),
            why: "by it nodes prove to each other that they belong together. MetalLB's belongs to its controller, and goes with it; its \
                  chart gives it another name",
            without: "nodes do not talk to each other, and a VIP stays with a node that is dead",
            undo: "nothing: MetalLB takes it as it is".to_owned(),
        };
        self.by_apply(parts, actions)
    }

    fn controller(&self) -> Step {
        let parts = Parts {
            name: "controller",
            what: "take MetalLB's controller away".to_owned(),
            why: "of two controllers one would take back what the other gives. Addresses stay as they are meanwhile",
            without: "two controllers write to the same Services",
            undo: self.restored("deployment-*.yaml"),
        };
        self.delete(parts, Part::Controller)
    }

    fn our_controller(&self) -> Step {
        let parts = Parts {
            name: "our-controller",
            what: "install the definitions, the rights and the controller of Magnetite".to_owned(),
            why: "it takes all addresses from the status of Services, and gives new ones. Have the image on all nodes by now",
            without: "new Services get no address",
            undo: format!("kubectl -n {} delete deployment controller", self.installation.namespace),
        };
        // Only the controller's: MetalLB's own manifest gives its speakers rights by the same names as ours, and they still run.
        let commands = [
            "kubectl apply --server-side --force-conflicts -k manifests/crds",
            "kubectl apply -f manifests/base/rbac/controller.yaml -f manifests/base/controller.yaml",
        ];
        let ours = self.installation.running("Deployment", Whose::Ours, Part::Controller);
        let states = ours.map(|(key, object)| match number(object, "availableReplicas") {
            0 => State::Waiting(format!("{key} is not available yet")),
            _ => State::Done,
        });
        self.by_operator(parts, best(states), commands.map(str::to_owned).into())
    }

    fn speakers(&self) -> Step {
        let parts = Parts {
            name: "speakers",
            what: "take MetalLB's speakers away".to_owned(),
            why: "they must not run beside our agents: each takes the other for a stranger that has its addresses. From here until the next \
                  step is done nobody answers ARP and NDP: clients and routers that know an address go on for as long as they remember \
                  it, often half a minute; others wait",
            without: "our agents find all addresses in use, and use none",
            undo: self.restored("daemonset-*.yaml"),
        };
        self.delete(parts, Part::Speaker)
    }

    fn our_nodes(&self) -> Step {
        let namespace = &self.installation.namespace;
        let parts = Parts {
            name: "our-nodes",
            what: "install Magnetite's agents, at once".to_owned(),
            why: "they answer ARP and NDP for all addresses, and tell the network so",
            without: "nobody answers for any address",
            undo: format!(
                "kubectl -n {namespace} delete daemonset speaker; then `lb-agent unload` on every node, for the data path stays when \
                 the agent goes"
            ),
        };
        let ours = self.installation.running("DaemonSet", Whose::Ours, Part::Speaker);
        let states = ours.map(|(key, object)| {
            let (wanted, ready) = (number(object, "desiredNumberScheduled"), number(object, "numberReady"));
            if wanted > 0 && ready >= wanted {
                State::Done
            } else {
                State::Waiting(format!("{key} is ready on {ready} of {wanted} nodes"))
            }
        });
        self.by_operator(parts, best(states), vec!["kubectl apply -k manifests/base".to_owned()])
    }

    fn switch(&self) -> Step {
        let left: Vec<_> = self
            .installation
            .of_kind("Service")
            .filter(|(key, object)| {
                is_taken_over(self.installation, key, object)
                    && annotation(object, lb_api::FORWARDING) == Some("kernel")
            })
            .map(|(key, _)| format!("kubectl -n {} annotate service {}", key.namespace, key.name))
            .collect();
        let parts = Parts {
            name: "switch",
            what: "switch Services to the data path, one by one".to_owned(),
            why: "their clients then reach every pod by the shortest way, with their own addresses; see above for policies",
            without: "they go on as with MetalLB",
            undo: "the same with =kernel: connections of before that time may break, new ones work"
                .to_owned(),
        };
        let state = match left.len() {
            0 => State::Done,
            count => self.afterwards(format!("{count} on kube-proxy")),
        };
        let words = format!("{}=auto --overwrite", lb_api::FORWARDING);
        self.by_operator(parts, state, left.into_iter().map(|left| format!("{left} {words}")).collect())
    }

    fn rest(&self) -> Step {
        let namespace = &self.installation.namespace;
        let parts = Parts {
            name: "rest",
            what: "clear away what is left of MetalLB".to_owned(),
            why: "nobody needs it. Never `kubectl delete -f` with MetalLB's own manifest: the namespace and the definitions are in it",
            without: "nothing happens",
            undo: String::new(),
        };
        let has_record = self.release.as_ref().filter(|release| release.record != Record::None);
        let has_service = self.installation.own("Service", WEBHOOK_SERVICE).is_some();
        let (state, commands) = match (has_record, has_service) {
            (Some(release), _) => (
                self.afterwards(format!("release {} of Helm", release.name)),
                vec![format!("helm uninstall {} --namespace {}", release.name, release.namespace)],
            ),
            (None, true) => (
                self.afterwards(format!("Service {namespace}/{WEBHOOK_SERVICE}")),
                vec![
                    format!("kubectl -n {namespace} delete service {WEBHOOK_SERVICE}"),
                    format!("kubectl -n {namespace} delete secret metallb-webhook-cert --ignore-not-found"),
                    format!("kubectl -n {namespace} delete role,rolebinding pod-lister --ignore-not-found"),
                ],
            ),
            (None, false) => (State::Done, Vec::new()),
        };
        self.by_operator(parts, state, commands)
    }

    /// Takes away what runs a part of MetalLB, unless something would be lost by it.
    fn delete(&self, parts: Parts, part: Part) -> Step {
        let (kind, resource) = match part {
            Part::Controller => ("Deployment", Resource::Deployment),
            Part::Speaker => ("DaemonSet", Resource::DaemonSet),
        };
        let (going, found): (Vec<_>, Vec<_>) = self
            .installation
            .running(kind, Whose::MetalLb, part)
            .partition(|(_, found)| found["metadata"]["deletionTimestamp"].is_string());
        let actions: Vec<Action> = found
            .into_iter()
            .map(|(key, _)| Action::Delete(object(resource, &key.namespace, &key.name)))
            .collect();
        let pods = self.installation.running("Pod", Whose::MetalLb, part);
        let ending: Vec<String> = going.into_iter().chain(pods).map(|(key, _)| key.to_string()).collect();
        let mut step = self.by_apply(parts, actions);
        if step.state == State::Todo {
            if let Some(why) = self.losses() {
                step.state = State::Blocked(why);
            }
        } else if !ending.is_empty() {
            let (shown, more) = shortened(&ending);
            step.state = State::Waiting(format!("still there: {}{more}", shown.join(", ")));
        }
        step
    }

    /// What can wait once we serve, and must wait before.
    fn afterwards(&self, left: String) -> State {
        if self.runs_metallb() || !self.has_our_nodes() {
            State::Blocked("when the steps before it are done".to_owned())
        } else {
            State::Whenever(left)
        }
    }

    fn losses(&self) -> Option<String> {
        let losing = self.addresses.iter().filter(|service| service.loss.is_some());
        let losing: Vec<&str> = losing.map(|service| service.service.as_str()).collect();
        (!losing.is_empty() && !self.circumstances.accepts_losses).then(|| {
            let (shown, more) = shortened(&losing);
            format!(
                "Services would lose what they have: {}{more}. See to them, or say --accept-losses",
                shown.join(", ")
            )
        })
    }

    fn by_apply(&self, parts: Parts, actions: Vec<Action>) -> Step {
        let state = if actions.is_empty() { State::Done } else { State::Todo };
        let (namespace, backup) = (&self.installation.namespace, &self.circumstances.backup);
        let commands = actions.iter().flat_map(|action| action.commands(namespace, backup)).collect();
        step(parts, By::Apply, state, commands, actions)
    }

    fn by_operator(&self, parts: Parts, state: State, commands: Vec<String>) -> Step {
        let commands = if state == State::Done { Vec::new() } else { commands };
        step(parts, By::Operator, state, commands, Vec::new())
    }

    fn restored(&self, files: &str) -> String {
        let backup = &self.circumstances.backup;
        format!("for file in {backup}/{files}; do kubectl apply -f $file; done")
    }

    fn runs_part(&self, part: Part) -> bool {
        let of_kind = |kind| self.installation.running(kind, Whose::MetalLb, part).next().is_some();
        ["Deployment", "DaemonSet", "Pod"].into_iter().any(of_kind)
    }

    fn runs_metallb(&self) -> bool {
        self.runs_part(Part::Controller) || self.runs_part(Part::Speaker)
    }

    fn has_our_nodes(&self) -> bool {
        self.installation.running("DaemonSet", Whose::Ours, Part::Speaker).next().is_some()
    }
}

/// The first of a list that may be long, and how many more there are.
pub fn shortened<T>(list: &[T]) -> (&[T], String) {
    const SHOWN: usize = 5;
    match list.len().checked_sub(SHOWN).filter(|more| *more > 1) {
        Some(more) => (&list[..SHOWN], format!(" and {more} more")),
        None => (list, String::new()),
    }
}

fn step(parts: Parts, by: By, state: State, commands: Vec<String>, actions: Vec<Action>) -> Step {
    let Parts { name, what, why, without, undo } = parts;
    Step { name, what, why, without, undo, by, state, commands, actions }
}

/// Of several that do the same, one that is done is enough.
fn best(mut states: impl Iterator<Item = State>) -> State {
    let first = states.next();
    match (&first, states.find(|state| *state == State::Done)) {
        (_, Some(done)) => done,
        (None, None) => State::Todo,
        (Some(first), None) => first.clone(),
    }
}

fn object(resource: Resource, namespace: &str, name: &str) -> Object {
    Object { resource, namespace: namespace.to_owned(), name: name.to_owned() }
}

fn patch_of(resource: Resource, namespace: &str, name: &str, patch: &Value) -> Action {
    Action::Patch { object: object(resource, namespace, name), patch: patch.clone() }
}

fn number(object: &Value, field: &str) -> u64 {
    object["status"][field].as_u64().unwrap_or(0)
}

/// By a Deployment, with which it would go.
fn is_owned(secret: &Value) -> bool {
    let owners = secret["metadata"]["ownerReferences"].as_array();
    owners.into_iter().flatten().any(|owner| owner["kind"] == "Deployment")
}

#[cfg(test)]
mod tests;
