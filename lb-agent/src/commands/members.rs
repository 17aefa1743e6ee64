//! `status members`: each node as each sees it, and who owns what and why, from the files that agents write.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use serde::{Serialize, de::DeserializeOwned};

use super::{status::StatusError, table::columns};
use crate::output::{
    Knowledge, Member, Members, MembersObject, OwnerStatus, Owners, OwnersObject, from_yaml,
};

/// What a node sees: all others, and who owns what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct View {
    /// All others.
    #[serde(flatten)]
    pub members: Members,
    /// Who owns what.
    #[serde(flatten)]
    pub owners: Owners,
}

/// What nodes see, by the name of the node that sees it.
pub type Views = BTreeMap<String, View>;

/// All views below output directories; of several of the same node the newest.
///
/// # Errors
/// There is none, or one cannot be read.
pub fn read_views(outputs: &[PathBuf]) -> Result<Views, StatusError> {
    let mut views = Views::new();
    for output in outputs {
        for path in files(&output.join("NodeMembers"))? {
            let Some(MembersObject { metadata, status: members, .. }) = read(&path)? else { continue };
            // An agent that has just begun has not said it yet.
            let owners = path.file_name().map(|name| read(&output.join("NodeOwners").join(name)));
            let owners: Option<OwnersObject> = owners.transpose()?.flatten();
            let owners = owners.map(|object| object.status).unwrap_or_default();
            let node = metadata.get("name").cloned().unwrap_or_default();
            if views.get(&node).is_none_or(|known| known.members.at < members.at) {
                views.insert(node, View { members, owners });
            }
        }
    }
    Ok(views)
}

/// Nothing if there is no such file.
fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, StatusError> {
    let text = match fs::read_to_string(path) {
        Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
        text => text.map_err(|source| StatusError::Read { path: path.to_owned(), source })?,
    };
    let decoded = from_yaml(&text);
    decoded.map(Some).map_err(|message| StatusError::Decode { path: path.to_owned(), message })
}

fn files(dir: &Path) -> Result<Vec<PathBuf>, StatusError> {
    let none = || StatusError::None { dir: dir.to_owned() };
    let entries = fs::read_dir(dir).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => none(),
        _ => StatusError::Read { path: dir.to_owned(), source },
    })?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    paths.sort();
    if paths.is_empty() { Err(none()) } else { Ok(paths) }
}

/// What views do not agree on, a line each.
pub fn disagreements(views: &Views) -> Vec<String> {
    let merged = Merged::of(views);
    let legs = merged.legs.iter().filter_map(|(place, seen)| {
        let said = said(seen, |member| member.condition.clone())?;
        Some(format!("{} on {}: {said}", place.node, merged.segment(place.segment)))
    });
    let owners = merged.owners.iter().filter_map(|((address, segment), seen)| {
        let said = said(seen, |status| status.owner.clone().unwrap_or("nobody".to_owned()))?;
        Some(format!("{address} on {}: {said}", merged.segment(*segment)))
    });
    legs.chain(owners).collect()
}

/// Who says what, if not all say the same.
fn said<T>(seen: &BTreeMap<&str, &T>, what: impl Fn(&T) -> String) -> Option<String> {
    let mut by: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for (viewer, value) in seen {
        by.entry(what(value)).or_default().push(viewer);
    }
    let says = by.iter().map(|(what, viewers)| {
        format!("{} {} {what}", viewers.join(", "), if viewers.len() == 1 { "says" } else { "say" })
    });
    (by.len() > 1).then(|| says.collect::<Vec<_>>().join("; "))
}

/// For scripts.
///
/// # Errors
/// A value has no form in JSON.
pub fn members_json(views: &Views) -> serde_json::Result<String> {
    #[derive(Serialize)]
    struct Answer<'a> {
        views: &'a Views,
        disagreements: Vec<String>,
    }
    serde_json::to_string_pretty(&Answer { views, disagreements: disagreements(views) })
}

/// For people.
pub fn members_table(views: &Views, now: Timestamp) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write_table(&mut text, views, now);
    text
}

/// After this, a view is so old that its node is not to be asked.
const STALE: SignedDuration = SignedDuration::from_secs(30);

fn write_table(out: &mut String, views: &Views, now: Timestamp) -> std::fmt::Result {
    for (node, view) in views {
        let age = now.duration_since(view.members.at);
        let stale = if age > STALE { ": its agent has ended, or is stopped" } else { "" };
        writeln!(out, "As seen by {node} {} ago{stale}", elapsed(age))?;
        if !view.members.probing {
            writeln!(
                out,
                "{node} probes nobody and takes all to be well: there is no Secret memberlist, or nobody else"
            )?;
        }
    }
    let merged = Merged::of(views);
    let since = |times: &mut dyn Iterator<Item = Option<Timestamp>>| {
        let latest = times.flatten().max();
        latest.map_or_else(String::new, |since| elapsed(now.duration_since(since)))
    };
    let legs = merged.legs.iter().map(|(place, seen)| {
        let any = seen.values().next();
        [
            place.node.to_owned(),
            merged.segment(place.segment).to_owned(),
            any.map_or_else(String::new, |member| member.address.to_string()),
            seen.values().find_map(|member| member.mac.clone()).unwrap_or_default(),
            one_or_all(seen, |member| member.condition.clone()),
            since(&mut seen.values().map(|member| member.since)),
            known(seen),
            any.map_or_else(String::new, |member| member.observers.join(", ")),
        ]
    });
    let titles =
        ["NODE", "SEGMENT", "ADDRESS", "MAC", "CONDITION", "SINCE", "LAST ANSWER BEFORE", "OBSERVERS"];
    columns(out, titles, legs)?;
    let owners = merged.owners.iter().map(|((address, segment), seen)| {
        [
            (*address).to_owned(),
            merged.segment(*segment).to_owned(),
            seen.values().next().map_or_else(String::new, |status| status.services.join(", ")),
            one_or_all(seen, |status| status.owner.clone().unwrap_or("none".to_owned())),
            since(&mut seen.values().map(|status| status.since)),
            one_or_all(seen, |status| status.why.clone()),
        ]
    });
    columns(out, ["VIP", "SEGMENT", "SERVICE", "OWNER", "SINCE", "WHY"], owners)?;
    let left_out = merged.owners.iter().flat_map(|((address, segment), seen)| {
        // All that have a segment leave out the same.
        let rules = seen.values().next().into_iter().flat_map(|status| &status.left_out);
        rules.map(|rule| {
            let more = if rule.others == 0 { String::new() } else { format!(" and {} more", rule.others) };
            [
                (*address).to_owned(),
                merged.segment(*segment).to_owned(),
                rule.reason.clone(),
                format!("{}{more}", rule.nodes.join(", ")),
            ]
        })
    });
    let left_out: Vec<_> = left_out.collect();
    if !left_out.is_empty() {
        columns(out, ["VIP", "SEGMENT", "LEFT OUT BY", "NODES"], left_out.into_iter())?;
    }
    let disagreements = disagreements(views);
    if !disagreements.is_empty() {
        writeln!(out)?;
    }
    for line in disagreements {
        writeln!(out, "NOT AGREED: {line}")?;
    }
    Ok(())
}

/// What is said, or everything that is.
fn one_or_all<T>(seen: &BTreeMap<&str, &T>, what: impl Fn(&T) -> String) -> String {
    let all: BTreeSet<String> = seen.values().map(|value| what(value)).collect();
    all.into_iter().collect::<Vec<_>>().join(" | ")
}

/// How long before a view the node last answered, by those that probe it.
fn known(seen: &BTreeMap<&str, &Member>) -> String {
    let answers =
        seen.iter().filter(|(_, member)| member.known == Knowledge::Probed).map(|(viewer, member)| {
            match member.last_answer_ms {
                Some(ago) => format!("{viewer} {}", elapsed(short(Duration::from_millis(ago)))),
                None => format!("{viewer} never"),
            }
        });
    let answers: Vec<String> = answers.collect();
    if !answers.is_empty() {
        return answers.join(", ");
    }
    let knows = seen.values().map(|member| member.known);
    // Its own view says nothing of how others see it.
    let how = knows.min_by_key(|known| match known {
        Knowledge::Probed | Knowledge::Told => 0,
        Knowledge::Assumed => 1,
        Knowledge::Own => 2,
    });
    match how {
        Some(Knowledge::Told) => "told by others",
        Some(Knowledge::Assumed) => "not probed",
        Some(Knowledge::Own) => "itself",
        Some(Knowledge::Probed) | None => "",
    }
    .to_owned()
}

fn short(duration: Duration) -> SignedDuration {
    SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX)
}

/// As `kubectl` shows ages; milliseconds below a second.
fn elapsed(age: SignedDuration) -> String {
    let seconds = age.as_secs().max(0);
    match seconds {
        0 => format!("{} ms", age.as_millis().max(0)),
        1..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m{}s", seconds / 60, seconds % 60),
        7_200..172_800 => format!("{}h{}m", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{}d{}h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

/// Views side by side. Nodes have names of their own for a segment: what stands for it is the lowest address of a node in it.
#[derive(Default)]
struct Merged<'a> {
    segments: BTreeMap<IpAddr, &'a str>,
    legs: BTreeMap<Place<'a>, BTreeMap<&'a str, &'a Member>>,
    owners: BTreeMap<(&'a str, IpAddr), BTreeMap<&'a str, &'a OwnerStatus>>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place<'a> {
    node: &'a str,
    segment: IpAddr,
}

impl<'a> Merged<'a> {
    fn of(views: &'a Views) -> Self {
        let mut merged = Self::default();
        for (viewer, view) in views {
            let mut lowest: BTreeMap<&str, IpAddr> = BTreeMap::new();
            for (segment, member) in view.members.nodes.values().flatten() {
                let known = lowest.entry(segment).or_insert(member.address);
                *known = (*known).min(member.address);
            }
            for (segment, address) in &lowest {
                merged.segments.entry(*address).or_insert(segment);
            }
            for (node, segments) in &view.members.nodes {
                for (segment, member) in segments {
                    let Some(segment) = lowest.get(segment.as_str()).copied() else { continue };
                    merged.legs.entry(Place { node, segment }).or_default().insert(viewer, member);
                }
            }
            for (address, segments) in &view.owners.vips {
                for (segment, status) in segments {
                    let Some(segment) = lowest.get(segment.as_str()).copied() else { continue };
                    merged.owners.entry((address, segment)).or_default().insert(viewer, status);
                }
            }
        }
        merged
    }

    fn segment(&self, segment: IpAddr) -> &str {
        self.segments.get(&segment).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Done = Result<(), Box<dyn std::error::Error>>;

    /// As `n1` or `n2` sees two nodes; their names for the segment differ.
    fn view(viewer: &str, segment: &str, n2_is: &str, owner: &str) -> String {
        let [known1, known2] = if viewer == "n1" {
            ["own", "probed\n        lastAnswerMs: 12\n        observers: [n1]"]
        } else {
            ["probed\n        lastAnswerMs: 40\n        observers: [n2]", "own"]
        };
        format!(
            "apiVersion: magnetite.io/v1alpha1
kind: NodeMembers
metadata: {{name: {viewer}}}
status:
  at: 2026-11-21T10:00:00Z
  probing: true
  nodes:
    n1:
      {segment}:
        address: 192.0.2.11
        mac: 02:00:00:00:00:01
        condition: answering
        known: {known1}
    n2:
      {segment}:
        address: 192.0.2.12
        mac: 02:00:00:00:00:02
        condition: {n2_is}
        since: 2026-11-21T09:58:00Z
        known: {known2}
---
apiVersion: magnetite.io/v1alpha1
kind: NodeOwners
metadata: {{name: {viewer}}}
status:
  vips:
    192.0.2.200:
      {segment}:
        services: [shop/web]
        owner: {owner}
        since: 2026-11-21T09:59:30Z
        why: best-ranked of 2
        leftOut: [{{reason: nodeLeaving, nodes: [n3, n4], others: 2}}]
"
        )
    }

    fn read(texts: &[(&str, String)]) -> Result<(tempfile::TempDir, Result<Views, StatusError>), io::Error> {
        let output = tempfile::tempdir()?;
        for (node, text) in texts {
            for (kind, text) in ["NodeMembers", "NodeOwners"].into_iter().zip(text.split("---\n")) {
                fs::create_dir_all(output.path().join(kind))?;
                fs::write(output.path().join(format!("{kind}/{node}.yaml")), text)?;
            }
        }
        let views = read_views(&[output.path().to_owned()]);
        Ok((output, views))
    }

    #[test]
    fn views_are_laid_side_by_side_and_differences_are_said() -> Done {
        let (_dir, views) = read(&[
            ("n1", view("n1", "eth0", "silent", "n1")),
            ("n2", view("n2", "ens3", "answering", "n2")),
        ])?;
        let views = views?;
        let table = members_table(&views, "2026-11-21T10:00:02Z".parse()?);
        let expected = "\
As seen by n1 2s ago
As seen by n2 2s ago

NODE  SEGMENT  ADDRESS     MAC                CONDITION           SINCE  LAST ANSWER BEFORE  OBSERVERS
n1    eth0     192.0.2.11  02:00:00:00:00:01  answering                  n2 40 ms
n2    eth0     192.0.2.12  02:00:00:00:00:02  answering | silent  2m2s   n1 12 ms            n1

VIP          SEGMENT  SERVICE   OWNER    SINCE  WHY
192.0.2.200  eth0     shop/web  n1 | n2  32s    best-ranked of 2

VIP          SEGMENT  LEFT OUT BY  NODES
192.0.2.200  eth0     nodeLeaving  n3, n4 and 2 more

NOT AGREED: n2 on eth0: n2 says answering; n1 says silent
NOT AGREED: 192.0.2.200 on eth0: n1 says n1; n2 says n2
";
        assert_eq!(table, expected, "{table}");
        assert!(members_json(&views)?.contains("\"disagreements\": [\n    \"n2 on eth0"));
        Ok(())
    }

    #[test]
    fn one_view_alone_agrees_with_itself_and_tells_when_it_is_old() -> Done {
        let (_dir, views) = read(&[("n1", view("n1", "eth0", "answering", "n2"))])?;
        let views = views?;
        assert_eq!(disagreements(&views), Vec::<String>::new());
        let table = members_table(&views, "2026-11-21T13:00:00Z".parse()?);
        assert!(table.starts_with("As seen by n1 3h0m ago: its agent has ended, or is stopped\n"), "{table}");
        Ok(())
    }

    #[test]
    fn what_is_not_there_or_broken_is_said_with_its_place() -> Done {
        let (dir, views) = read(&[])?;
        assert!(matches!(views, Err(StatusError::None { .. })));
        assert!(matches!(read_views(&[dir.path().join("nowhere")]), Err(StatusError::None { .. })));
        let (_dir, views) = read(&[("n1", "status: 7\n".to_owned())])?;
        assert!(views.is_err_and(|error| error.to_string().contains("NodeMembers/n1.yaml")));
        Ok(())
    }
}
