//! Good objects: the least of each kind, and such as have all fields between them.

use serde_json::{Value, json};

/// An object with nothing that could be left out.
pub fn good(of: &str) -> Value {
    let spec = match of {
        "IPAddressPool.v1beta1" => json!({"addresses": ["192.0.2.0/24"]}),
        "BGPPeer.v1beta1" | "BGPPeer.v1beta2" => {
            json!({"myASN": 64512, "peerASN": 64513, "peerAddress": "198.51.100.1"})
        }
        "ConfigurationState.v1beta1" => return json!({}),
        _ => json!({}),
    };
    json!({ "spec": spec })
}

/// Objects as people have them; none of their fields may be lost.
pub fn complete() -> Vec<(&'static str, Value)> {
    let selectors = json!([
        {"matchLabels": {"a": "b", "example.com/tier": ""}},
        {"matchExpressions": [
            {"key": "kubernetes.io/hostname", "operator": "In", "values": ["n1", "n2"]},
            {"key": "zone", "operator": "Exists"},
        ]},
        {},
    ]);
    vec![
        (
            "IPAddressPool.v1beta1",
            json!({"spec": {
                "addresses": [
                    "192.0.2.0/24", "192.0.2.1/32", "0.0.0.0/0", "192.0.2.0/024", "192.0.2.9-192.0.2.10", " 192.0.2.9  -192.0.2.9\t",
                    "2001:db8::/64", "2001:DB8::1-2001:db8::f", "::/0", "::1/128", "1:2:3:4:5:6:7:8/128", "1:2:3:4:5:6:7::/112",
                    "2001:db8:1:2:3:4:5:6 - 2001:db8:1:2:3:4:5:ffff", "64:ff9b::192.0.2.0/120", "::ffff:192.0.2.1-::ffff:192.0.2.2",
                ],
                "autoAssign": false,
                "avoidBuggyIPs": true,
                "serviceAllocation": {
                    "priority": 50,
                    "namespaces": ["a", "b"],
                    "namespaceSelectors": selectors,
                    "serviceSelectors": selectors,
                },
            }}),
        ),
        (
            "L2Advertisement.v1beta1",
            json!({"spec": {
                "ipAddressPools": ["first", "second"],
                "ipAddressPoolSelectors": selectors,
                "nodeSelectors": selectors,
                "interfaces": ["eth0", "bond0.100"],
                "serviceSelectors": selectors,
                "preferredNodeSelectors": [
                    {"weight": 100, "preference": selectors[0]}, {"weight": 1, "preference": selectors[1]},
                ],
            }}),
        ),
        (
            "BGPAdvertisement.v1beta1",
            json!({"spec": {
                "aggregationLength": 24,
                "aggregationLengthV6": 64,
                "localPref": 100,
                "communities": ["64512:100", "0:65535", "large:4294967295:0:1", "no-advertise", "0064512:1"],
                "ipAddressPools": ["first"],
                "ipAddressPoolSelectors": selectors,
                "nodeSelectors": selectors,
                "peers": ["tor-1", "tor-2"],
            }}),
        ),
        (
            "BGPAdvertisement.v1beta1",
            json!({"spec": {"aggregationLength": 32, "aggregationLengthV6": 128, "serviceSelectors": selectors}}),
        ),
        // It is for pools without IPv6 only, and there it means nothing.
        ("BGPAdvertisement.v1beta1", json!({"spec": {"aggregationLengthV6": 0}})),
        (
            "Community.v1beta1",
            json!({"spec": {"communities": [
                {"name": "no-advertise", "value": "65535:65282"}, {"name": "ours", "value": "large:64512:1:2"}, {"value": "1:1"},
            ]}}),
        ),
        (
            "BFDProfile.v1beta1",
            json!({"spec": {
                "receiveInterval": 380,
                "transmitInterval": 270,
                "detectMultiplier": 5,
                "echoInterval": 62,
                "echoMode": true,
                "passiveMode": false,
                "minimumTtl": 254,
            }}),
        ),
        (
            "BGPPeer.v1beta1",
            json!({"spec": {
                "myASN": 64512,
                "peerASN": 4_294_967_295_u32,
                "peerAddress": "198.51.100.1",
                "sourceAddress": "198.51.100.2",
                "peerPort": 0,
                "holdTime": "90s",
                "keepaliveTime": "0s",
                "routerID": "198.51.100.2",
                "nodeSelectors": [
                    {"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "zone", "operator": "NotIn", "values": ["c"]}]},
                ],
                "password": "secret",
                "bfdProfile": "fast",
                "ebgpMultiHop": true,
            }}),
        ),
        (
            "BGPPeer.v1beta2",
            json!({"spec": {
                "myASN": 64512,
                "localASN": 64600,
                "peerASN": 64513,
                "peerAddress": "2001:db8::1",
                "interface": "",
                "sourceAddress": "2001:db8::2",
                "peerPort": 16384,
                "holdTime": "1m30.5s",
                "keepaliveTime": "30s",
                "connectTime": "10s",
                "routerID": "198.51.100.2",
                "nodeSelectors": selectors,
                "passwordSecret": {"name": "tor-1", "namespace": "metallb-system"},
                "bfdProfile": "fast",
                "enableGracefulRestart": true,
                "ebgpMultiHop": true,
                "vrf": "red",
                "disableMP": false,
                "dualStackAddressFamily": true,
            }}),
        ),
        (
            "BGPPeer.v1beta2",
            json!({"spec": {
                "myASN": 64512,
                "dynamicASN": "internal",
                "interface": "eth0",
                "password": "secret",
                "passwordSecret": {},
                "ebgpMultiHop": true,
                "keepaliveTime": "1s",
            }}),
        ),
        (
            "BGPPeer.v1beta2",
            json!({"spec": {"myASN": 64512, "peerASN": 64512, "peerAddress": "::ffff:198.51.100.1", "holdTime": "0s"}}),
        ),
    ]
}
