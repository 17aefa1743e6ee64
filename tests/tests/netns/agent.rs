//! The agent's life: bad input, ends, restarts.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lb_agent::{
    dataplane::{Dataplane, EgressMode, Options, unload},
    output::NodeStatus,
};
use lb_common::Reason;
use lb_core::maps::Sizes;
use magnetite_tests::{
    lab::{Lab, WEB, frontend, pass_on},
    scenarios::restart,
};

/// Names, and what they do with a lab of their own.
pub const TESTS: &[(&str, Test)] = &[
    ("bad_input_costs_only_itself", bad_input_costs_only_itself),
    ("a_restart_keeps_what_a_broken_file_said", a_restart_keeps_what_a_broken_file_said),
    ("a_service_that_grows_keeps_its_flows", a_service_that_grows_keeps_its_flows),
    ("the_only_node_of_a_service_is_used_whatever_it_says", the_only_node_of_a_service_is_used),
    ("sigterm_leaves_the_data_path", sigterm_leaves_the_data_path),
    ("an_agent_that_is_away_for_a_minute_costs_nothing", away_for_a_minute),
    ("unload_leaves_a_clean_machine", unload_leaves_a_clean_machine),
    ("what_is_unloaded_is_off_at_once", what_is_unloaded_is_off_at_once),
    ("a_second_agent_is_refused", a_second_agent_is_refused),
    ("once_makes_one_pass", once_makes_one_pass),
    ("jumbo_frames_are_served", jumbo_frames_are_served),
    ("pods_of_a_node_without_an_agent_are_left_to_the_kernel", pods_of_a_node_without_an_agent),
    ("a_link_that_carries_no_programs_is_left_to_others", a_link_that_carries_no_programs),
    ("clsact_serves_where_tcx_is_missing", clsact_serves_where_tcx_is_missing),
];

/// It gets a lab of its own.
pub type Test = fn(&mut Lab) -> Result<()>;

fn away_for_a_minute(lab: &mut Lab) -> Result<()> {
    let outcome = restart::killed_for(lab, Duration::from_secs(60), 200)?;
    ensure!(outcome.has_passed(), "{}", outcome.happened());
    Ok(())
}

/// Somebody else's program is on the owner's NIC when its agent begins.
fn a_link_that_carries_no_programs(lab: &mut Lab) -> Result<()> {
    let without = lab.owner(WEB)?;
    let node = lab.node_mut(&without)?;
    node.stop()?;
    node.namespace.run(|| Ok(unload(&node.pins)?))?;
    let foreign = pass_on(&node.namespace, ["eth0"].into_iter())?;
    node.spawn()?;
    let says =
        |status: &NodeStatus| status.problems.iter().any(|what| what.contains("link eth0 is not served"));
    let status = node.wait("the link to be left out", |status| says(status) && status.links.is_empty())?;
    let owned: Vec<&String> = status
        .vips
        .iter()
        .filter(|(_, vip)| vip.owner.as_ref() == Some(&without))
        .map(|(vip, _)| vip)
        .collect();
    ensure!(owned.is_empty(), "{without} says that it owns {owned:?}");
    let is_owned_by_others = |status: &NodeStatus| {
        status.vips.get(&WEB.to_string()).is_some_and(|vip| vip.owner.as_ref() != Some(&without))
    };
    for node in lab.nodes.iter_mut().filter(|node| node.name != without) {
        node.wait("another owner", is_owned_by_others)?;
    }
    ensure!(!lab.answers(&without, WEB)?, "{without} answers");
    lab.clients()[0].forget(WEB)?;
    lab.clients()[0].connect(frontend(WEB))?.ask("who")?;

    drop(foreign);
    let node = lab.node_mut(&without)?;
    // Anything that is new leads to a pass.
    node.namespace.ip("addr add 198.18.0.1/32 dev eth0")?;
    node.wait("the link to be served", |status| {
        status.problems.is_empty() && status.links.get("eth0").is_some_and(|link| link.mode != "none")
    })?;
    Ok(())
}

/// Two agents that begin on a cluster in which the third node never had one: its pods are used all the same, in kube-proxy's way.
fn pods_of_a_node_without_an_agent(lab: &mut Lab) -> Result<()> {
    for node in &mut lab.nodes {
        node.stop()?;
        node.namespace.run(|| Ok(unload(&node.pins)?))?;
    }
    let pod = lab.web().iter().find(|pod| lab.node_of(pod) == "n3").cloned().context("n3 has a pod")?;
    let address = lab.endpoint(&pod, false);
    for node in &mut lab.nodes[..2] {
        node.namespace.nft(&format!(
            "table inet kube-proxy-of-web {{
                chain translate {{
                    type nat hook prerouting priority dstnat;
                    ip daddr {WEB} tcp dport 80 dnat ip to {address}
                }}
                chain hide {{ type nat hook postrouting priority srcnat; ct status dnat masquerade; }}
            }}"
        ))?;
        node.spawn()?;
    }
    for node in &mut lab.nodes[..2] {
        node.wait("n3 to be known to have no agent", |status| {
            let service = status.services.get(&format!("{}/TCP", frontend(WEB)));
            let endpoints = service.map(|service| service.endpoints.values()).into_iter().flatten();
            let mut of_n3 = endpoints.filter(|endpoint| endpoint.node.as_deref() == Some("n3"));
            let says_why = |why: &Option<String>| why.as_deref() == Some("its node n3 runs no agent");
            status.nodes["n3"].conditions.values().any(|condition| condition == "absent")
                && of_n3.all(|endpoint| says_why(&endpoint.kernel))
                && status.vips.get(&WEB.to_string()).is_some_and(|vip| vip.owner.as_deref() != Some("n3"))
        })?;
    }
    let client = &lab.clients()[0];
    client.forget(WEB)?;
    let connections = client.connect_many(frontend(WEB), 60)?;
    let (by_kernel, direct): (Vec<_>, Vec<_>) =
        connections.iter().partition(|connection| lab.node_of(&connection.pod) == "n3");
    ensure!(by_kernel.len() >= 8 && direct.len() >= 20, "{} and {}", by_kernel.len(), direct.len());
    ensure!(by_kernel.iter().all(|connection| connection.seen != client.v4), "the kernel hides the client");
    ensure!(direct.iter().all(|connection| connection.seen == client.v4), "XDP does not");
    Ok(())
}

fn bad_input_costs_only_itself(lab: &mut Lab) -> Result<()> {
    let slice = "endpointslice-web-ipv4.json";
    let good = std::fs::read_to_string(lab.objects.path(slice))?;
    let mut connection = lab.clients()[0].connect(frontend(WEB))?;
    lab.objects.write("broken.yaml", "kind: [\n")?;
    lab.objects.write(slice, &good.replacen("\"ready\": true", "\"ready\": \"perhaps\"", 1))?;
    let says = |problems: &[String], file: &str| problems.iter().any(|problem| problem.contains(file));
    lab.wait_all("both problems", |status| {
        says(&status.problems, "broken.yaml") && says(&status.problems, slice)
    })?;
    let status = lab.nodes[0].status()?;
    let problem = status.problems.iter().find(|problem| problem.contains(slice)).cloned().unwrap_or_default();
    ensure!(problem.contains("conditions.ready"), "the field is not named: {problem}");
    ensure!(connection.ask("still")?.pod == connection.pod);
    let pods: std::collections::BTreeSet<String> = lab.clients()[0]
        .connect_many(frontend(WEB), 60)?
        .into_iter()
        .map(|connection| connection.pod)
        .collect();
    ensure!(pods.len() == 6, "the last good endpoints serve: {pods:?}");
    // Another object's change is taken meanwhile.
    lab.set_member("n3", false)?;
    lab.set_member("n3", true)?;
    lab.objects.write("broken.yaml", "")?;
    lab.objects.write(slice, &good)?;
    lab.wait_all("all is well", |status| status.problems.is_empty())
}

/// An agent that begins has never seen the file whole, and the maps that it adopts serve what stood in it.
fn a_restart_keeps_what_a_broken_file_said(lab: &mut Lab) -> Result<()> {
    let file = "service-web.json";
    let good = std::fs::read_to_string(lab.objects.path(file))?;
    let mut connection = lab.clients()[0].connect(frontend(WEB))?;
    lab.objects.write(file, &good[..good.len() / 2])?;
    let owner = lab.owner(WEB)?;
    let node = lab.node_mut(&owner)?;
    node.stop()?;
    node.start()?;
    let status = node.status()?;
    ensure!(status.problems.iter().any(|problem| problem.contains(file)), "{:?}", status.problems);
    ensure!(status.vips.contains_key(&WEB.to_string()), "the VIP was withdrawn");
    lab.clients()[1].forget(WEB)?;
    lab.clients()[1].connect(frontend(WEB))?;
    ensure!(connection.ask("still")?.pod == connection.pod);
    lab.objects.write(file, &good)?;
    lab.wait_all("all is well", |status| status.problems.is_empty())?;

    // Nothing at all can be read at the start.
    let dangling = lab.objects.path("dangling.yaml");
    std::os::unix::fs::symlink("nowhere.yaml", &dangling)?;
    let node = lab.node_mut(&owner)?;
    node.stop()?;
    node.spawn()?;
    node.wait_for_log("the source cannot be read")?;
    lab.clients()[1].forget(WEB)?;
    lab.clients()[1].connect(frontend(WEB))?;
    ensure!(connection.ask("still")?.pod == connection.pod);
    std::fs::remove_file(&dangling)?;
    lab.node_mut(&owner)?.wait_for_pass()
}

/// All pods of a service are on a node that yields; of the same service's other family two thirds are elsewhere.
fn the_only_node_of_a_service_is_used(lab: &mut Lab) -> Result<()> {
    const ALONE: &str = "n2";
    let slice = "endpointslice-web-ipv4.json";
    let mut there: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(lab.objects.path(slice))?)?;
    there["endpoints"].as_array_mut().context("a slice has endpoints")?.retain(|e| e["nodeName"] == ALONE);
    lab.objects.write(slice, &there.to_string())?;
    lab.wait_all("the endpoints of one node", |status| {
        let tcp = status.services.get(&format!("{}/TCP", frontend(WEB)));
        tcp.is_some_and(|service| service.endpoints.values().all(|e| e.node.as_deref() == Some(ALONE)))
    })?;
    ensure!(lab.nodes[0].tables()?.kept()?.is_empty(), "something is kept while all are well");

    lab.node(ALONE)?.freeze(true)?;
    let is_yielding = |status: &NodeStatus| status.nodes.get(ALONE).is_some_and(|node| !node.is_present());
    lab.nodes[0].wait("a node that yields", is_yielding)?;
    let tables = lab.nodes[0].tables()?;
    let (kept, backends) = (tables.kept()?, tables.read()?.backends);
    let kept: Vec<String> =
        kept.keys().map(|place| backends[*place as usize].address.to_ip().to_string()).collect();
    // TCP and UDP of two pods.
    ensure!(kept.len() == 4 && kept.iter().all(|pod| pod.starts_with("10.244.2.")), "kept is {kept:?}");
    lab.clients()[0].forget(WEB)?;
    lab.clients()[0].connect(frontend(WEB))?;

    lab.node(ALONE)?.freeze(false)?;
    lab.nodes[0].wait("the node to be back", |status| !is_yielding(status))?;
    let kept = lab.nodes[0].tables()?.kept()?;
    ensure!(kept.is_empty(), "{kept:?} is kept although all are well");
    Ok(())
}

/// Thirty endpoints come that are not ready: the service needs a larger place in the maps, and nothing that is served may notice.
fn a_service_that_grows_keeps_its_flows(lab: &mut Lab) -> Result<()> {
    let client = lab.clients()[0].clone();
    let mut flows = Vec::new();
    for _ in 0..60 {
        let socket = client.udp(frontend(WEB))?;
        let pod = ask_udp(&socket)?;
        flows.push((socket, pod));
    }
    let before = lab.reasons()?[&Reason::NoReadyCandidate];
    let slice = "endpointslice-web-ipv4.json";
    let good = std::fs::read_to_string(lab.objects.path(slice))?;
    let mut grown: serde_json::Value = serde_json::from_str(&good)?;
    let endpoints = grown["endpoints"].as_array_mut().context("a slice has endpoints")?;
    for number in 0..30 {
        endpoints.push(serde_json::json!({
            "addresses": [format!("10.244.1.{}", 100 + number)],
            "conditions": { "ready": false },
            "nodeName": "n1",
        }));
    }
    lab.objects.write(slice, &grown.to_string())?;
    lab.wait_all("the new endpoints", |status| {
        status
            .services
            .get(&format!("{}/UDP", frontend(WEB)))
            .is_some_and(|service| service.endpoints.len() == 36)
    })?;
    let moved = flows.iter().filter(|(socket, pod)| ask_udp(socket).ok().as_ref() != Some(pod)).count();
    ensure!(moved == 0, "{moved} of {} flows have another pod, or none", flows.len());
    for _ in 0..60 {
        client.exchange(frontend(WEB), "new")?;
    }
    let left = lab.reasons()?[&Reason::NoReadyCandidate] - before;
    ensure!(left == 0, "{left} packets found nobody who was ready");
    Ok(())
}

fn ask_udp(socket: &std::net::UdpSocket) -> Result<String> {
    socket.send(b"who")?;
    let mut buffer = [0; 256];
    let length = socket.recv(&mut buffer)?;
    let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
    Ok(text.split(' ').next().unwrap_or_default().to_owned())
}

fn sigterm_leaves_the_data_path(lab: &mut Lab) -> Result<()> {
    let mut connections = lab.clients()[0].connect_many(frontend(WEB), 20)?;
    for node in &mut lab.nodes {
        node.stop()?;
        ensure!(node.log().contains("lb-agent unload --pin-dir"), "the log does not say how to remove it");
    }
    connections.extend(lab.clients()[1].connect_many(frontend(WEB), 20)?);
    for connection in &mut connections {
        ensure!(connection.ask("still")?.pod == connection.pod);
    }
    Ok(())
}

fn unload_leaves_a_clean_machine(lab: &mut Lab) -> Result<()> {
    for node in &mut lab.nodes {
        let has_program = |link: &serde_json::Value| link[0]["xdp"].is_object();
        ensure!(has_program(&node.namespace.ip_json("link show dev eth0")?), "nothing was attached");
        node.stop()?;
        let pins = node.pins.display().to_string();
        node.ask(&["unload", "--pin-dir", &pins])?;
        ensure!(!node.pins.exists(), "pins are left: {pins}");
        ensure!(!has_program(&node.namespace.ip_json("link show dev eth0")?), "XDP is left");
        let tc = node.namespace.command("bpftool", &["-j", "net", "show"])?;
        let tc = String::from_utf8_lossy(&tc.stdout).into_owned();
        ensure!(!tc.contains("eth0"), "something is left: {tc}");
        ensure!(node.ask(&["unload", "--pin-dir", &pins]).is_err(), "there is nothing left to unload");
    }
    // And from nothing again.
    for node in &mut lab.nodes {
        node.start()?;
    }
    lab.wait_for_nodes()?;
    lab.clients()[0].connect(frontend(WEB)).map(drop)
}

/// Whoever waits for the place finds it free as soon as `unload` is done.
fn what_is_unloaded_is_off_at_once(lab: &mut Lab) -> Result<()> {
    let node = &mut lab.nodes[0];
    node.stop()?;
    let ifindex = node.namespace.ip_json("link show dev eth0")?[0]["ifindex"].as_u64().context("an index")?;
    let ifindex = u32::try_from(ifindex)?;
    let mut pin_dir = node.pins.clone().into_os_string();
    pin_dir.push("-next");
    let options = Options { pin_dir: pin_dir.into(), sizes: Sizes::default(), egress: EgressMode::Tcx };
    node.namespace.run(|| {
        let mut next = Dataplane::open(&options)?;
        ensure!(next.attach(ifindex, 1500).is_err(), "the place was free");
        unload(&node.pins)?;
        next.attach(ifindex, 1500).context("the place is not free")?;
        Ok(())
    })
}

fn a_second_agent_is_refused(lab: &mut Lab) -> Result<()> {
    let node = &lab.nodes[0];
    let refused = node.serve_once("n1").err().map(|error| error.to_string()).unwrap_or_default();
    ensure!(refused.contains("another agent"), "expected to be refused: {refused}");
    Ok(())
}

fn once_makes_one_pass(lab: &mut Lab) -> Result<()> {
    let mut connection = lab.clients()[0].connect(frontend(WEB))?;
    for node in &mut lab.nodes {
        node.stop()?;
    }
    let mut web = lab.web().to_vec();
    web.truncate(1);
    let pod = web[0].clone();
    lab.put_web(web)?;
    for node in &lab.nodes {
        node.serve_once(&node.name)?;
        let status = node.status()?;
        let ready = status.services[&format!("{}/TCP", frontend(WEB))].endpoints.len();
        ensure!(ready == 1, "the pass has not been made: {ready} endpoints");
    }
    let pods = lab.clients()[0].connect_many(frontend(WEB), 20)?;
    ensure!(pods.iter().all(|connection| connection.pod == pod));
    ensure!(connection.ask("still")?.pod == connection.pod);
    // Whoever asks for one pass is told if nobody can know of it.
    let node = &lab.nodes[0];
    let statuses = node.output.join("NodeStatus");
    std::fs::rename(&statuses, node.output.join("aside"))?;
    std::fs::write(&statuses, "in the way")?;
    let failed = node.serve_once(&node.name).err().map(|error| error.to_string()).unwrap_or_default();
    ensure!(failed.contains("NodeStatus"), "expected to fail: {failed}");
    Ok(())
}

fn jumbo_frames_are_served(lab: &mut Lab) -> Result<()> {
    for node in &mut lab.nodes {
        node.stop()?;
        node.ask(&["unload", "--pin-dir", &node.pins.display().to_string()])?;
    }
    let machines = lab.nodes.iter().map(|node| (&*node.name, &node.namespace));
    let clients = lab.clients().iter().take(2).map(|client| (&*client.name, &client.namespace));
    for (name, namespace) in machines.chain(clients) {
        lab.lan().ip(&format!("link set {name} mtu 9000"))?;
        namespace.ip("link set eth0 mtu 9000")?;
    }
    for pod in lab.pods.values() {
        pod.set_mtu(9000)?;
    }
    for node in &lab.nodes {
        for link in node.namespace.ip_json("link show master cni0")?.as_array().into_iter().flatten() {
            node.namespace
                .ip(&format!("link set {} mtu 9000", link["ifname"].as_str().unwrap_or_default()))?;
        }
    }
    for node in &mut lab.nodes {
        node.start()?;
    }
    lab.wait_all("programs for packets of several buffers", |status| {
        status.links.get("eth0").is_some_and(|link| link.mode == "native-frags")
    })?;
    lab.wait_for_nodes()?;
    let text = "x".repeat(60_000);
    for mut connection in lab.clients()[0].connect_many(frontend(WEB), 12)? {
        ensure!(
            connection.ask(&text)?.text == text,
            "60,000 bytes did not come back from {}",
            connection.pod
        );
    }
    Ok(())
}

/// The agents' programs give way to those of a data plane that does as on an older kernel, twice, as after a restart.
fn clsact_serves_where_tcx_is_missing(lab: &mut Lab) -> Result<()> {
    let mut connection = lab.clients()[0].connect(frontend(WEB))?;
    for node in &mut lab.nodes {
        node.stop()?;
        let ifindex =
            node.namespace.ip_json("link show dev eth0")?[0]["ifindex"].as_u64().unwrap_or_default();
        let ifindex = u32::try_from(ifindex)?;
        let options =
            Options { pin_dir: node.pins.clone(), sizes: Sizes::default(), egress: EgressMode::Clsact };
        let filters = || -> Result<usize> {
            let output = node.namespace.command("tc", &["filter", "show", "dev", "eth0", "egress"])?;
            Ok(String::from_utf8_lossy(&output.stdout).matches("magnetite_egress").count())
        };
        for round in 0..2 {
            node.namespace.run(|| {
                let mut dataplane = Dataplane::open(&options)?;
                ensure!(dataplane.adopted(), "the maps are the agent's");
                if round == 0 {
                    dataplane.detach(ifindex)?;
                }
                dataplane.attach(ifindex, 1500)?;
                Ok(())
            })?;
            ensure!(filters()? == 1, "{} filters after round {round}", filters()?);
        }
    }
    ensure!(connection.ask("still")?.pod == connection.pod);
    for mut connection in lab.clients()[1].connect_many(frontend(WEB), 20)? {
        connection.ask("new")?;
    }
    for node in &lab.nodes {
        node.namespace.run(|| Ok(unload(&node.pins)?))?;
        let output = node.namespace.command("tc", &["filter", "show", "dev", "eth0", "egress"])?;
        ensure!(output.stdout.is_empty(), "a filter is left: {}", String::from_utf8_lossy(&output.stdout));
    }
    Ok(())
}
