//! `drain`: asks the agent of this machine to leave, and shows how far it has come.

use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use lb_core::{drain::Reason, model::NodeName};
use tokio::time::interval;

use super::status::{StatusError, is_alive, read_status};
use crate::{
    output::{self, DrainRequest, DrainRequests, DrainStatus, NodeStatus, timestamp},
    source::{self, Watch},
};

/// Why a node cannot be asked, or not be waited for.
#[derive(Debug, thiserror::Error)]
pub enum DrainError {
    /// There is no agent, or none that has said anything.
    #[error(transparent)]
    Status(#[from] StatusError),
    /// The file by which the agent is asked cannot be written or removed.
    #[error(transparent)]
    Request(#[from] output::Error),
    /// The status cannot be watched.
    #[error(transparent)]
    Watch(#[from] source::Error),
    /// The deadline is none.
    #[error("the deadline is too far away")]
    Deadline,
    /// Somebody else says that the node stays.
    #[error("node {node} stays: the drain was taken back by somebody else")]
    TakenBack {
        /// The node.
        node: NodeName,
    },
}

/// What came of waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waited {
    /// Nobody would notice if the node were gone.
    Drained,
    /// The deadline has passed before.
    Overdue,
}

/// A node to drain.
#[derive(Clone, Debug)]
pub struct Drain {
    output: PathBuf,
    node: NodeName,
    requests: DrainRequests,
}

/// So often it is looked whether the agent lives and the deadline has passed.
const LOOK: Duration = Duration::from_secs(1);

impl Drain {
    /// The node whose agent writes to this directory.
    ///
    /// # Errors
    /// There is no status in it, or that of several nodes.
    pub fn of(output: &Path, node: Option<&str>) -> Result<Self, DrainError> {
        let object = read_status(output, node)?;
        let node = NodeName(object.metadata.get("name").map_or("", String::as_str).into());
        Ok(Self { requests: DrainRequests::of(output, &node), output: output.to_owned(), node })
    }

    /// Asks, perhaps again and with another deadline.
    ///
    /// # Errors
    /// The agent cannot be asked.
    pub fn ask(&self, within: Option<Duration>) -> Result<DrainRequest, DrainError> {
        let now = SystemTime::now();
        let deadline =
            within.map(|within| now.checked_add(within).ok_or(DrainError::Deadline)).transpose()?;
        let request = DrainRequest { asked: timestamp(now), deadline: deadline.map(timestamp) };
        self.requests.write(&request)?;
        Ok(request)
    }

    /// What is said to who does not wait.
    pub fn asked(&self) -> String {
        let node = &self.node;
        match self.status() {
            Ok(status) if is_alive(&status) => {
                format!(
                    "node {node} leaves: `lb-agent status` shows how far it has come, `lb-agent drain --undo` takes it back"
                )
            }
            Ok(_) | Err(_) => format!("node {node} {NO_AGENT}"),
        }
    }

    /// Takes it back, and says what follows.
    ///
    /// # Errors
    /// The file cannot be removed.
    pub fn undo(&self) -> Result<String, DrainError> {
        let node = &self.node;
        let was_asked = self.requests.remove()?;
        let drain = self.status().ok().and_then(|status| status.drain);
        let command = Reason::Command.to_string();
        let others: Vec<String> =
            drain.into_iter().flat_map(|drain| drain.reasons).filter(|reason| *reason != command).collect();
        let others = others.join(", ");
        Ok(match (was_asked, others.is_empty()) {
            (true, true) => format!("node {node} stays: it owns again when it has been quiet for a while"),
            (true, false) => format!("taken back; node {node} leaves nevertheless: {others}"),
            (false, true) => format!("nothing to take back: node {node} was not asked to leave"),
            (false, false) => format!("nothing to take back: node {node} leaves because of: {others}"),
        })
    }

    /// Waits until the node is drained or the deadline has passed, and says each change.
    ///
    /// # Errors
    /// The drain was taken back, or the status cannot be read.
    pub async fn wait(
        &self,
        request: &DrainRequest,
        mut say: impl FnMut(&str),
    ) -> Result<Waited, DrainError> {
        let mut watch = Watch::new(&self.output.join("NodeStatus"))?;
        let mut look = interval(LOOK);
        let mut said = String::new();
        loop {
            let view = View::of(self.requests.read()?.is_some(), &self.status()?);
            let line = match &view {
                View::NotAsked => return Err(DrainError::TakenBack { node: self.node.clone() }),
                View::NoAgent => format!("node {} {NO_AGENT}", self.node),
                View::NotHeard => format!("node {} is asked to leave", self.node),
                View::Leaves(drain) => drain.line(),
            };
            if line != said {
                say(&line);
                said = line;
            }
            if matches!(&view, View::Leaves(drain) if drain.drained) {
                return Ok(Waited::Drained);
            }
            if request.deadline.is_some_and(|deadline| deadline <= timestamp(SystemTime::now())) {
                return Ok(Waited::Overdue);
            }
            tokio::select! {
                () = watch.changed() => {}
                _ = look.tick() => {}
            }
        }
    }

    fn status(&self) -> Result<NodeStatus, StatusError> {
        Ok(read_status(&self.output, Some(&self.node.0))?.status)
    }
}

const NO_AGENT: &str =
    "leaves as soon as an agent runs: none does now, and the data path goes on as the last one has left it";

/// What is known of a drain that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum View {
    /// It is not asked for any more.
    NotAsked,
    /// Nobody is there to hear of it.
    NoAgent,
    /// The agent has not said yet that it has heard.
    NotHeard,
    /// How far it has come.
    Leaves(DrainStatus),
}

impl View {
    fn of(is_asked: bool, status: &NodeStatus) -> Self {
        let command = Reason::Command.to_string();
        match &status.drain {
            _ if !is_asked => Self::NotAsked,
            _ if !is_alive(status) => Self::NoAgent,
            Some(drain) if drain.reasons.contains(&command) => Self::Leaves(drain.clone()),
            Some(_) | None => Self::NotHeard,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::output::{FlowsStatus, to_yaml};

    type Done = Result<(), Box<dyn std::error::Error>>;

    fn write(output: &Path, status: NodeStatus) -> Done {
        fs::create_dir_all(output.join("NodeStatus"))?;
        Ok(fs::write(output.join("NodeStatus/n1.yaml"), to_yaml(&status.object("n1"))?)?)
    }

    fn leaves(reasons: &[Reason]) -> NodeStatus {
        let reasons = reasons.iter().map(ToString::to_string).collect();
        NodeStatus { drain: Some(DrainStatus { reasons, ..DrainStatus::default() }), ..NodeStatus::default() }
    }

    #[test]
    fn what_is_taken_back_and_what_keeps_the_node_leaving_is_said() -> Done {
        let output = tempfile::tempdir()?;
        assert!(Drain::of(output.path(), None).is_err(), "no agent has ever run");
        write(output.path(), leaves(&[Reason::Command]))?;
        let drain = Drain::of(output.path(), None)?;
        drain.ask(Some(Duration::from_secs(60)))?;
        assert!(drain.asked().contains("as soon as an agent runs"));
        assert!(drain.undo()?.starts_with("node n1 stays"));
        assert!(drain.undo()?.starts_with("nothing to take back: node n1 was not asked"));
        write(output.path(), leaves(&[Reason::Autoscaler, Reason::Command]))?;
        drain.ask(None)?;
        assert!(drain.undo()?.ends_with("nevertheless: taint ToBeDeletedByClusterAutoscaler"));
        assert!(drain.ask(Some(Duration::MAX)).is_err());
        Ok(())
    }

    #[tokio::test]
    async fn who_waits_hears_that_it_is_over_or_taken_back() -> Done {
        let output = tempfile::tempdir()?;
        write(output.path(), leaves(&[Reason::Command]))?;
        let drain = Drain::of(output.path(), None)?;
        let mut said = Vec::new();
        let request = drain.ask(Some(Duration::ZERO))?;
        let waited = drain.wait(&request, |line| said.push(line.to_owned())).await?;
        assert_eq!(waited, Waited::Overdue);
        assert!(said.len() == 1 && said[0].contains("as soon as an agent runs"), "{said:?}");
        let request = drain.ask(None)?;
        drain.undo()?;
        let waited = drain.wait(&request, |_| {}).await;
        assert!(matches!(waited, Err(DrainError::TakenBack { .. })));
        Ok(())
    }

    #[test]
    fn a_drain_of_an_agent_that_is_gone_is_not_believed() {
        let mut status = leaves(&[Reason::Command]);
        if let Some(drain) = &mut status.drain {
            (drain.drained, drain.flows) = (true, Some(FlowsStatus::default()));
        }
        assert_eq!(View::of(true, &status), View::NoAgent);
        assert_eq!(View::of(false, &status), View::NotAsked);
    }
}
