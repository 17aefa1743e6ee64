//! Draining, in files: what `lb-agent drain` asks of the agent, and what the agent says of it.

use std::{
    fmt::Write,
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    time::SystemTime,
};

use jiff::Timestamp;
use lb_core::{
    drain::{Earlier, Limit, Progress},
    model::NodeName,
};
use serde::{Deserialize, Serialize};

use super::writer::{Error, component, replace, to_yaml};

/// How far a node has come that leaves on purpose.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DrainStatus {
    /// Why it leaves.
    pub reasons: Vec<String>,
    /// Since when.
    pub since: Timestamp,
    /// When it should be drained; none if it takes as long as it takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Timestamp>,
    /// The deadline has passed, and it is not drained. Nothing was cut because of that.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub overdue: bool,
    /// It owns no VIP and carries no flow: nobody would notice if it were gone.
    pub drained: bool,
    /// How much of what it carried at the beginning has ended or goes another way.
    pub percent: u8,
    /// VIPs that it owns still: no other node can, or no other node knows.
    pub vips: usize,
    /// Flows that it carried at the beginning; none before they are counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flows_at_begin: Option<u64>,
    /// Flows that it carries; none before they are counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flows: Option<FlowsStatus>,
}

/// Flows that a node carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FlowsStatus {
    /// All.
    pub left: u64,
    /// Those that enter here, for pods elsewhere or for the kernel.
    pub entering: u64,
    /// Those to pods of this node, wherever they enter.
    pub to_pods: u64,
}

impl DrainStatus {
    /// From what is known of it.
    pub fn of(progress: &Progress) -> Self {
        Self {
            reasons: progress.reasons.iter().map(ToString::to_string).collect(),
            since: timestamp(progress.since),
            deadline: progress.deadline.map(timestamp),
            overdue: progress.is_overdue,
            drained: progress.is_drained,
            percent: progress.percent(),
            vips: progress.vips,
            flows_at_begin: progress.at_begin,
            flows: progress.left.map(|left| FlowsStatus {
                left: left.total(),
                entering: left.entering,
                to_pods: left.to_pods,
            }),
        }
    }

    /// What an agent that begins goes on with.
    pub fn earlier(&self) -> Earlier {
        Earlier { since: self.since.into(), at_begin: self.flows_at_begin }
    }

    /// `drained 97 %, 12 flows left`, and what there is to add.
    pub fn line(&self) -> String {
        let mut line = match self.flows {
            None => "what it carries is being counted".to_owned(),
            Some(FlowsStatus { left: 0, .. }) => format!("drained {} %, no flow left", self.percent),
            Some(FlowsStatus { left, entering, to_pods }) => {
                let flows = if left == 1 { "flow" } else { "flows" };
                format!(
                    "drained {} %, {left} {flows} left ({entering} that enter here, {to_pods} to pods here)",
                    self.percent
                )
            }
        };
        // Writing to a string cannot fail.
        if self.vips > 0 {
            let _ = write!(line, "; owns {} VIPs still, for no other node can or knows", self.vips);
        }
        match self.deadline {
            Some(deadline) if self.overdue => {
                let _ = write!(line, "; the deadline {deadline} has passed, and nothing was cut");
            }
            Some(deadline) if !self.drained => {
                let _ = write!(line, "; deadline {deadline}");
            }
            Some(_) | None => {}
        }
        line
    }
}

/// To the second; what is beyond year 9999 is that year.
pub fn timestamp(time: SystemTime) -> Timestamp {
    let exact = Timestamp::try_from(time).unwrap_or(Timestamp::MAX);
    Timestamp::from_second(exact.as_second()).unwrap_or(exact)
}

/// What `lb-agent drain` asks of the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainRequest {
    /// When it was asked.
    pub asked: Timestamp,
    /// When the node should be drained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Timestamp>,
}

impl DrainRequest {
    /// Until when the node should be drained.
    pub fn limit(&self) -> Limit {
        self.deadline.map_or(Limit::Unlimited, |deadline| Limit::Until(deadline.into()))
    }
}

/// Where it is asked: `.drain/<node>.yaml` below the output directory. It outlives the agent.
#[derive(Clone, Debug)]
pub struct DrainRequests {
    path: PathBuf,
}

/// Bytes of a request; what is longer is none.
const LONGEST: u64 = 4096;

impl DrainRequests {
    /// Of a node.
    pub fn of(output: &Path, node: &NodeName) -> Self {
        Self { path: output.join(".drain").join(format!("{}.yaml", component(&node.0))) }
    }

    /// The directory in which they are.
    pub fn dir(&self) -> &Path {
        self.path.parent().unwrap_or(&self.path)
    }

    /// Makes the directory.
    ///
    /// # Errors
    /// The kernel's.
    pub fn make_dir(&self) -> Result<(), Error> {
        fs::create_dir_all(self.dir()).map_err(self.failed("making the directory of"))
    }

    /// What is asked; nothing if there is no such file.
    ///
    /// # Errors
    /// It cannot be read, or says something else.
    pub fn read(&self) -> Result<Option<DrainRequest>, Error> {
        let mut text = String::new();
        match File::open(&self.path).and_then(|file| file.take(LONGEST).read_to_string(&mut text)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            result => result.map_err(self.failed("reading"))?,
        };
        serde_saphyr::from_str(&text)
            .map(Some)
            .map_err(|error| Error::Decode { path: self.path.clone(), message: error.to_string() })
    }

    /// Asks, perhaps again.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, request: &DrainRequest) -> Result<(), Error> {
        replace(&self.path, &to_yaml(request)?)
    }

    /// Takes it back; whether it was asked at all.
    ///
    /// # Errors
    /// The file cannot be removed.
    pub fn remove(&self) -> Result<bool, Error> {
        match fs::remove_file(&self.path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(self.failed("removing")(error)),
        }
    }

    fn failed(&self, action: &'static str) -> impl FnOnce(io::Error) -> Error + use<> {
        let path = self.path.clone();
        move |source| Error::File { action, path, source }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use lb_core::drain::{Drain, Flows, Reason};

    use super::*;

    type Done = Result<(), Box<dyn std::error::Error>>;

    #[test]
    fn a_request_is_read_as_it_was_written_and_taken_back_once() -> Done {
        let output = tempfile::tempdir()?;
        let requests = DrainRequests::of(output.path(), &NodeName("n1".into()));
        assert_eq!(requests.read()?, None);
        for deadline in [None, Some("2026-07-01T00:10:00Z".parse()?)] {
            let request = DrainRequest { asked: "2026-07-01T00:00:00Z".parse()?, deadline };
            requests.write(&request)?;
            assert_eq!(requests.read()?, Some(request));
        }
        let other = DrainRequests::of(output.path(), &NodeName("n2".into()));
        assert!(other.read()?.is_none() && !other.remove()?);
        fs::write(output.path().join(".drain/n1.yaml"), "asked: soon\n")?;
        assert!(matches!(requests.read(), Err(Error::Decode { .. })));
        assert!(requests.remove()? && !requests.remove()?);
        Ok(())
    }

    #[test]
    fn the_line_says_what_is_left() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let mut drain = Drain::default();
        let mut line = |vips, flows: Option<Flows>| {
            drain.ask(Reason::Command, Limit::Until(at(600)), at(0));
            drain.owns(vips);
            if let Some(flows) = flows {
                drain.count_begins();
                drain.counted(flows);
            }
            [at(599), at(600)].map(|now| {
                drain.progress(now).map(|progress| DrainStatus::of(&progress).line()).unwrap_or_default()
            })
        };
        assert_eq!(
            line(2, None)[0],
            "what it carries is being counted; owns 2 VIPs still, for no other node can or knows; deadline 1970-01-01T00:10:00Z"
        );
        line(2, Some(Flows { entering: 391, to_pods: 9 }));
        let [before, after] = line(0, Some(Flows { entering: 3, to_pods: 9 }));
        let left = "drained 97 %, 12 flows left (3 that enter here, 9 to pods here); ";
        assert_eq!(before, format!("{left}deadline 1970-01-01T00:10:00Z"));
        assert_eq!(after, format!("{left}the deadline 1970-01-01T00:10:00Z has passed, and nothing was cut"));
        assert_eq!(line(0, Some(Flows::default()))[1], "drained 100 %, no flow left");
    }
}
