use super::*;

const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {type: LoadBalancer, selector: {app: web}, ports: [{port: 80, targetPort: 8080}], externalTrafficPolicy: POLICY}
status: {loadBalancer: {ingress: [{ip: 192.0.2.1}]}}
";

/// What is found of a Service with these policies, each a spec.
fn of(policy: &str, specs: &[&str]) -> Vec<NewClients> {
    let pool = "apiVersion: metallb.io/v1beta1\nkind: IPAddressPool\nmetadata: {name: a, namespace: metallb-system}\n\
                spec: {addresses: [192.0.2.0/28]}\n";
    let mut text = format!("{}---\n{pool}", SERVICE.replace("POLICY", policy));
    for (i, spec) in specs.iter().enumerate() {
        text += &format!(
            "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: p{i}, namespace: shop}}\nspec: {spec}\n"
        );
    }
    new_clients(&Installation::of_files(&[("a.yaml".to_owned(), text.into_bytes())].into(), "metallb-system"))
}

#[test]
fn only_what_keeps_clients_out_is_named() {
    let is_open = |specs: &[&str]| of("Cluster", specs).is_empty();
    assert!(is_open(&[]));
    let nobody = "{podSelector: {}}";
    assert!(!is_open(&[nobody]));
    assert!(is_open(&["{podSelector: {matchLabels: {app: db}}}"]), "it is of other pods");
    assert!(is_open(&["{podSelector: {}, policyTypes: [Egress]}"]), "it is of what goes out");
    assert!(!is_open(&["{podSelector: {}, ingress: [{from: [{podSelector: {}}]}]}"]));
    assert!(!is_open(&["{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 192.0.2.0/24}}]}]}"]));
    assert!(is_open(&["{podSelector: {}, ingress: [{}]}"]));
    assert!(is_open(&["{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 0.0.0.0/0}}]}]}"]));
    assert!(
        !is_open(&["{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: '::/0'}}]}]}"]),
        "another family"
    );
    let but = "{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 0.0.0.0/0, except: [10.0.0.0/8]}}]}]}";
    assert!(!is_open(&[but]));
    // One that lets clients in is enough, if it is certain that it is of these pods, and of this port.
    assert!(is_open(&[
        nobody,
        "{podSelector: {matchLabels: {app: web}}, ingress: [{ports: [{port: 8080}]}]}"
    ]));
    assert!(is_open(&[nobody, "{podSelector: {}, ingress: [{ports: [{port: 8000, endPort: 8100}]}]}"]));
    assert!(
        !is_open(&[nobody, "{podSelector: {}, ingress: [{ports: [{port: 80}]}]}"]),
        "pods have another port"
    );
    assert!(!is_open(&[nobody, "{podSelector: {}, ingress: [{ports: [{port: 8080, protocol: UDP}]}]}"]));
    assert!(!is_open(&[nobody, "{podSelector: {matchLabels: {tier: front}}, ingress: [{}]}"]));
}

#[test]
fn pods_of_a_local_service_see_clients_already() {
    assert_eq!(of("Local", &["{podSelector: {}}"]), []);
}

#[test]
fn what_is_to_be_added_lets_the_clients_in() {
    let nobody = "{podSelector: {matchLabels: {app: web, tier: front}}}";
    let found = of("Cluster", &[nobody]);
    let [found] = found.as_slice() else { panic!("{found:?}") };
    assert!(!found.is_certain);
    let added = format!("{{podSelector: {{matchLabels: {{app: web}}}}, ingress: [{}]}}", found.add);
    assert_eq!(of("Cluster", &[nobody, &added]), []);
}
