//! `status`: what the node serves, from the file that its agent writes.

use std::{
    fmt::Write,
    fs, io,
    path::{Path, PathBuf},
};

use super::table::columns;
use crate::output::{NodeStatus, NodeStatusObject, from_yaml};

/// Why there is no status.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// The agent has written none.
    #[error("no status in {}: has an agent run with this --output?", dir.display())]
    None {
        /// Where it was looked for.
        dir: PathBuf,
    },
    /// There are several.
    #[error("{} has the status of several nodes: choose with --node-name from {known}", dir.display())]
    Several {
        /// Where it was looked for.
        dir: PathBuf,
        /// The nodes.
        known: String,
    },
    /// It cannot be read.
    #[error("reading {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is of another version.
    #[error("{}: {message}", path.display())]
    Decode {
        /// The file.
        path: PathBuf,
        /// The decoder's words.
        message: String,
    },
}

/// The status of a node, or of the only one that has written any.
///
/// # Errors
/// There is none, or not one, or it cannot be read.
pub fn read_status(output: &Path, node: Option<&str>) -> Result<NodeStatusObject, StatusError> {
    let dir = output.join("NodeStatus");
    let path = match node {
        Some(node) => dir.join(format!("{node}.yaml")),
        None => only_file(&dir)?,
    };
    let text = fs::read_to_string(&path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => StatusError::None { dir: dir.clone() },
        _ => StatusError::Read { path: path.clone(), source },
    })?;
    from_yaml(&text).map_err(|message| StatusError::Decode { path, message })
}

/// Whether the agent that has written the status still runs.
pub fn is_alive(status: &NodeStatus) -> bool {
    let name = status.agent.as_ref().map(|agent| fs::read_to_string(format!("/proc/{}/comm", agent.pid)));
    name.is_some_and(|name| name.is_ok_and(|name| name.trim() == "lb-agent"))
}

fn only_file(dir: &Path) -> Result<PathBuf, StatusError> {
    let entries = fs::read_dir(dir).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => StatusError::None { dir: dir.to_owned() },
        _ => StatusError::Read { path: dir.to_owned(), source },
    })?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    paths.sort();
    match paths.as_slice() {
        [] => Err(StatusError::None { dir: dir.to_owned() }),
        [path] => Ok(path.clone()),
        _ => {
            let names = paths.iter().filter_map(|path| path.file_stem()?.to_str());
            Err(StatusError::Several { dir: dir.to_owned(), known: names.collect::<Vec<_>>().join(", ") })
        }
    }
}

/// For people: what is served, then what is wrong.
pub fn table(node: &str, status: &NodeStatus, is_alive: bool) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write_table(&mut text, node, status, is_alive);
    text
}

fn write_table(out: &mut String, node: &str, status: &NodeStatus, is_alive: bool) -> std::fmt::Result {
    match &status.agent {
        Some(agent) if is_alive => writeln!(
            out,
            "Node {node}: agent {} (pid {}), pins {}, maps {} MiB",
            agent.version,
            agent.pid,
            agent.pin_dir,
            agent.map_bytes.div_ceil(1 << 20)
        )?,
        Some(agent) => writeln!(
            out,
            "Node {node}: NO AGENT since pid {} ended; this is what it left, and the data path goes on (pins {})",
            agent.pid, agent.pin_dir
        )?,
        None => writeln!(out, "Node {node}: dry run")?,
    }
    if status.frozen {
        writeln!(out, "FROZEN: the source has no object; everything stays as it was")?;
    }
    if is_alive && status.agent.as_ref().is_some_and(|agent| agent.lowest_algorithm.is_none()) {
        writeln!(
            out,
            "NO LIVENESS: the source has no Secret memberlist, so all nodes are taken to be well, and no VIP moves when one dies"
        )?;
    }
    if let Some(drain) = &status.drain {
        writeln!(out, "LEAVES since {} ({}): {}", drain.since, drain.reasons.join(", "), drain.line())?;
    }
    let links = status.links.iter().map(|(name, link)| {
        let index = match link.nic {
            Some(nic) => format!("{}, VLAN {} on {nic}", link.ifindex, link.vlan),
            None => link.ifindex.to_string(),
        };
        [name.clone(), index, link.mac.clone(), link.segment.clone(), link.mode.clone()]
    });
    columns(out, ["LINK", "INDEX", "MAC", "SEGMENT", "MODE"], links)?;
    let nodes = status.nodes.iter().map(|(name, node)| {
        let mut state = if node.in_source { "in source" } else { "left the source" }.to_owned();
        for (segment, condition) in &node.conditions {
            state = format!("{state}, {condition} on {segment}");
        }
        let macs: Vec<String> = node.macs.iter().map(|(segment, mac)| format!("{segment} {mac}")).collect();
        let macs = if macs.is_empty() {
            "none: its pods are left to the kernel".to_owned()
        } else {
            macs.join(", ")
        };
        [name.clone(), state, macs]
    });
    columns(out, ["NODE", "STATE", "SEGMENTS AND MACS"], nodes)?;
    let vips = status.vips.iter().map(|(address, vip)| {
        let withheld: String =
            vip.withheld.iter().map(|(segment, why)| format!("; not on {segment}: {why}")).collect();
        [
            address.clone(),
            vip.services.join(", "),
            vip.answers(),
            format!("{}{withheld}", vip.segments.join(",")),
        ]
    });
    columns(out, ["VIP", "SERVICE", "OWNER", "SEGMENTS"], vips)?;
    write_conflicts(out, status)?;
    let services = status.services.iter().map(|(frontend, service)| {
        let ready = service.endpoints.values().filter(|endpoint| endpoint.ready).count();
        [
            frontend.clone(),
            service.service.clone(),
            service.forwarding.name().to_owned(),
            format!("{ready}/{}", service.endpoints.len()),
            service.reason.clone().unwrap_or_default(),
        ]
    });
    columns(out, ["FRONTEND", "SERVICE", "FORWARDING", "READY", "WHY"], services)?;
    let endpoints = status.services.iter().flat_map(|(frontend, service)| {
        service.endpoints.iter().filter_map(move |(address, endpoint)| {
            let reason = endpoint.kernel.clone()?;
            let node = endpoint.node.clone().unwrap_or("none".to_owned());
            Some([address.clone(), frontend.clone(), node, reason])
        })
    });
    let endpoints: Vec<_> = endpoints.collect();
    if !endpoints.is_empty() {
        columns(out, ["LEFT TO THE KERNEL", "OF", "NODE", "WHY"], endpoints.into_iter())?;
    }
    for problem in &status.problems {
        writeln!(out, "{problem}")?;
    }
    Ok(())
}

/// Others who say that they have a VIP.
fn write_conflicts(out: &mut String, status: &NodeStatus) -> std::fmt::Result {
    let mut rows = Vec::new();
    for (address, segments) in &status.conflicts {
        for (segment, conflict) in segments {
            let row = |who: String, times: u64, since: String, until: String| {
                [address.clone(), segment.clone(), who, times.to_string(), since, until]
            };
            if conflict.two_owners > 0 {
                rows.push(row("another node".to_owned(), conflict.two_owners, String::new(), String::new()));
            }
            let strangers = conflict.strangers.iter();
            rows.extend(strangers.map(|(mac, stranger)| {
                row(mac.clone(), stranger.claims, stranger.first.to_string(), stranger.last.to_string())
            }));
        }
    }
    if rows.is_empty() {
        return Ok(());
    }
    columns(out, ["VIP CLAIMED TOO", "SEGMENT", "BY", "TIMES", "FIRST", "LAST"], rows.into_iter())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::{AgentStatus, LinkStatus};

    type Done = Result<(), Box<dyn std::error::Error>>;

    const OBJECT: &str = "apiVersion: magnetite.io/v1alpha1\nkind: NodeStatus\nmetadata: {name: n1}\n\
        status: {links: {}, nodes: {}, vips: {}, services: {}}\n";

    #[test]
    fn the_only_status_is_read_and_of_several_one_is_asked_for() -> Done {
        let output = tempfile::tempdir()?;
        let said = |node| read_status(output.path(), node).map(|_| ()).map_err(|error| error.to_string());
        assert!(said(None).is_err_and(|error| error.contains("has an agent run with this --output?")));

        let dir = output.path().join("NodeStatus");
        fs::create_dir(&dir)?;
        fs::write(dir.join("n1.yaml"), OBJECT)?;
        assert_eq!(said(None), Ok(()));
        fs::write(dir.join("n2.yaml"), "status: 7\n")?;
        assert!(said(None).is_err_and(|error| error.ends_with("choose with --node-name from n1, n2")));
        assert_eq!(said(Some("n1")), Ok(()));
        assert!(said(Some("n2")).is_err_and(|error| error.contains("n2.yaml")));
        assert!(said(Some("n3")).is_err());
        Ok(())
    }

    #[test]
    fn a_vlan_is_named_with_the_nic_below() {
        let nic = LinkStatus { ifindex: 7, ..LinkStatus::default() };
        let vlan = LinkStatus { ifindex: 20, nic: Some(7), vlan: 100, ..LinkStatus::default() };
        let links = [("bond0".to_owned(), nic), ("bond0.100".to_owned(), vlan)].into();
        let status = NodeStatus { links, ..NodeStatus::default() };
        let text = table("n1", &status, true);
        let words: Vec<String> =
            text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert!(words.contains(&"bond0 7".to_owned()), "{text}");
        assert!(words.contains(&"bond0.100 20, VLAN 100 on 7".to_owned()), "{text}");
    }

    #[test]
    fn an_agent_that_has_ended_is_the_first_thing_said() {
        let agent = AgentStatus { pid: 7, lowest_algorithm: Some(1), ..AgentStatus::default() };
        let status = NodeStatus {
            agent: Some(agent),
            problems: vec!["a.yaml: Service web/a: spec: wrong".to_owned()],
            ..NodeStatus::default()
        };
        assert!(table("n1", &status, false).starts_with("Node n1: NO AGENT since pid 7 ended"));
        let alive = table("n1", &status, true);
        assert!(alive.starts_with("Node n1: agent  (pid 7)"), "{alive}");
        assert!(alive.ends_with("a.yaml: Service web/a: spec: wrong\n"), "{alive}");
        assert!(!alive.contains("FROZEN") && !alive.contains("NO LIVENESS"));
        let without = AgentStatus { pid: 7, ..AgentStatus::default() };
        let without = table("n1", &NodeStatus { agent: Some(without), ..status.clone() }, true);
        assert!(without.contains("NO LIVENESS"), "{without}");
        assert!(table("n1", &NodeStatus { frozen: true, ..status }, true).contains("FROZEN"));
    }
}
