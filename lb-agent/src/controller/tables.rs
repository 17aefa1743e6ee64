//! The sizes of tables, said on Services: all nodes then change to another one by the same word.

use jiff::Timestamp;
use lb_api::{Mirror, Sizer, TABLE_GROWN, TABLE_SIZE};
use lb_core::{
    model::Service,
    table_size::{Said, backends, next},
};

use crate::output::Document;

/// Adds to what is written of a Service how long its table is. What somebody else has said is left to them.
pub(super) fn add_table_size(document: &mut Document, mirror: &Mirror, now: Timestamp) {
    if document.key.kind != "Service" {
        return;
    }
    let name = document.key.object_name();
    let Some(service) = mirror.settled().snapshot.services.get(&name) else { return };
    let said = match mirror.table_sizer(&name) {
        Sizer::Others => return,
        Sizer::Nobody => None,
        Sizer::We => said(service),
    };
    let Said { size, grown } = next(said, backends(service), now.as_second());
    let text = match size.previous {
        Some(previous) => format!("{},{previous}", size.length),
        None => size.length.to_string(),
    };
    let annotations = &mut document.value["metadata"]["annotations"];
    annotations[TABLE_SIZE] = text.into();
    if let Some(time) = grown.and_then(|seconds| Timestamp::from_second(seconds).ok()) {
        annotations[TABLE_GROWN] = time.to_string().into();
    }
}

fn said(service: &Service) -> Option<Said> {
    Some(Said { size: service.table_size?, grown: service.table_grown })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{controller::CONTROLLER, output::services};

    const MANAGER: &str = "ours";

    /// A Service with so many endpoints, and an annotation and by whom it is managed.
    fn said(endpoints: u32, annotation: Option<(&str, &str)>) -> Value {
        let mut web = json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "web", "namespace": "shop"},
            "spec": {"type": "LoadBalancer", "ports": [{"port": 80}]},
            "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}},
        });
        if let Some((size, manager)) = annotation {
            web["metadata"]["annotations"] = json!({TABLE_SIZE: size});
            let fields = json!({"f:metadata": {"f:annotations": {format!("f:{TABLE_SIZE}"): {}}}});
            web["metadata"]["managedFields"] = json!([{"manager": manager, "fieldsV1": fields}]);
        }
        let addresses = (0..endpoints).map(|n| json!({"addresses": [format!("10.0.0.{n}")]}));
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": "web-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4",
            "ports": [{"port": 8080}],
            "endpoints": addresses.collect::<Vec<_>>(),
        });
        let reading = lb_api::Reading { manager: Some(MANAGER.to_owned()), ..lb_api::Reading::default() };
        let mut mirror = Mirror::new(reading);
        let pool = json!({
            "apiVersion": "metallb.io/v1beta1",
            "kind": "IPAddressPool",
            "metadata": {"name": "main", "namespace": "metallb-system"},
            "spec": {"addresses": ["192.0.2.0/28"]},
        });
        for object in [pool, web, slice] {
            mirror.insert(object);
        }
        mirror.settle(|snapshot, changed, allocation| allocation.hold(snapshot, changed));
        let document = services(CONTROLLER, &mirror.settled().allocation).next();
        document.map_or(Value::Null, |mut document| {
            add_table_size(&mut document, &mirror, Timestamp::UNIX_EPOCH);
            document.value["metadata"]["annotations"].take()
        })
    }

    #[test]
    fn sizes_are_said_unless_somebody_else_has_said_them() {
        let pool = "metallb.io/ip-allocated-from-pool";
        assert_eq!(said(2, None), json!({pool: "main", TABLE_SIZE: "1024"}));
        assert_eq!(said(20, Some(("1024", "kubectl"))), json!({pool: "main"}));
        assert_eq!(said(20, Some(("4096", MANAGER))), json!({pool: "main", TABLE_SIZE: "4096"}));
        assert_eq!(
            said(20, Some(("1024", MANAGER))),
            json!({pool: "main", TABLE_SIZE: "2048,1024", TABLE_GROWN: "1970-01-01T00:00:00Z"})
        );
    }
}
