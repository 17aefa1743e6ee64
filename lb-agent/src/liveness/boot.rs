//! `<node>.boot`: the generation of this node's gossip, which grows with every start of its agent.
//!
//! Others refuse what is of an older generation than they know, so the clock alone would not do: it may have been set back, or not yet
//! be set when the agent starts.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    time::SystemTime,
};

use lb_core::model::NodeName;

use crate::output::component;

/// What goes wrong with the file.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("reading {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("writing {}: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("{} holds no generation", path.display())]
    Damaged { path: PathBuf },
}

/// No clock of Linux says more nanoseconds (`KTIME_MAX`): a file that says much more is damaged.
const LATEST_CLOCK: u64 = i64::MAX as u64;
/// Above it there would be no room for later ones.
const MOST: u64 = LATEST_CLOCK + LATEST_CLOCK / 2;

/// The generation that begins, in nanoseconds since 1970 if the clock is right; it is on the disk before it is used. Where it cannot be
/// kept, that is logged, and the clock decides.
pub(super) fn begin(dir: &Path, node: &NodeName, now: SystemTime) -> u64 {
    let path = dir.join(format!("{}.boot", component(&node.0)));
    let now = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    let now = u64::try_from(now).unwrap_or(LATEST_CLOCK).min(LATEST_CLOCK);
    let stored = read(&path).unwrap_or_else(|error| {
        tracing::warn!(
            %error,
            "the last generation of gossip is not known: if the clock is behind what it was at an earlier start, other nodes refuse what \
             this one says until it is started again with the right time"
        );
        None
    });
    let boot = next(stored, now);
    match write(&path, boot) {
        Ok(()) => boot,
        Err(error) => {
            tracing::warn!(
                %error,
                "the generation of gossip is not kept: if the clock is behind what it was at an earlier start, other nodes refuse what \
                 this one says until it is started again with the right time; --state names a directory that can be written"
            );
            // The same is not used twice, for keys are derived from it: what is not kept may be chosen again.
            now
        }
    }
}

/// Later than the one before, whatever the clock says. If that was far ahead it goes on from there: others know it, and refuse less.
fn next(stored: Option<u64>, now: u64) -> u64 {
    stored.map_or(now, |stored| now.max(stored.saturating_add(1)))
}

fn read(path: &Path) -> Result<Option<u64>, Error> {
    match fs::read_to_string(path) {
        Ok(text) => match text.trim_end().parse() {
            Ok(stored) if stored <= MOST => Ok(Some(stored)),
            Ok(_) | Err(_) => Err(Error::Damaged { path: path.to_owned() }),
        },
        Err(source) => match source.kind() {
            io::ErrorKind::NotFound => Ok(None),
            io::ErrorKind::InvalidData => Err(Error::Damaged { path: path.to_owned() }),
            _ => Err(Error::Read { path: path.to_owned(), source }),
        },
    }
}

/// The file as a whole, or as it was, also when the power fails.
fn write(path: &Path, boot: u64) -> Result<(), Error> {
    let keep = || {
        let dir = path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(dir)?;
        let next = path.with_extension("boot.next");
        let mut file = File::create(&next)?;
        file.write_all(format!("{boot}\n").as_bytes())?;
        file.sync_all()?;
        fs::rename(&next, path)?;
        File::open(dir)?.sync_all()
    };
    keep().map_err(|source| Error::Write { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    type Done = Result<(), Box<dyn std::error::Error>>;

    #[test]
    fn a_generation_is_later_than_the_one_before_whatever_the_clock_says() {
        assert_eq!(next(None, 50), 50);
        assert_eq!(next(Some(40), 50), 50);
        assert_eq!(next(Some(50), 50), 51, "two starts at once");
        assert_eq!(next(Some(60), 50), 61, "the clock was set back");
        assert_eq!(next(Some(LATEST_CLOCK), 50), LATEST_CLOCK + 1, "the clock was ahead by centuries");
    }

    #[test]
    fn it_grows_over_starts_with_a_clock_that_is_behind() -> Done {
        let dir = tempfile::tempdir()?;
        let state = dir.path().join("a/b");
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let node = NodeName("n1".into());
        let second = 1_000_000_000;
        assert_eq!(begin(&state, &node, at(100)), 100 * second);
        assert_eq!(begin(&state, &node, at(0)), 100 * second + 1);
        assert_eq!(begin(&state, &node, at(1)), 100 * second + 2);
        assert_eq!(begin(&state, &NodeName("n2".into()), at(1)), second, "another node's is another");
        assert_eq!(begin(&state, &node, at(101)), 101 * second);
        assert_eq!(fs::read_to_string(state.join("n1.boot"))?, "101000000000\n");
        assert_eq!(fs::read_dir(&state)?.count(), 2, "nothing else is left");
        Ok(())
    }

    #[test]
    fn what_cannot_be_read_or_written_leaves_it_to_the_clock() -> Done {
        let dir = tempfile::tempdir()?;
        let node = NodeName("n1".into());
        let path = dir.path().join("n1.boot");
        let now = SystemTime::UNIX_EPOCH + Duration::from_nanos(7);
        // The last would leave nothing that is later.
        let damaged: [&[u8]; 5] = [b"", b"nine\n", b"-1\n", b"\xff\xfe", b"18446744073709551615\n"];
        for text in damaged {
            fs::write(&path, text)?;
            assert!(matches!(read(&path), Err(Error::Damaged { .. })), "{text:?}");
            assert_eq!(begin(dir.path(), &node, now), 7);
            assert_eq!(read(&path)?, Some(7), "it is put right");
        }
        // A directory where a file should be, and the other way round.
        fs::remove_file(&path)?;
        fs::create_dir(&path)?;
        assert!(matches!(read(&path), Err(Error::Read { .. })));
        assert_eq!(begin(dir.path(), &node, now), 7);
        fs::write(dir.path().join("file"), "")?;
        assert_eq!(begin(&dir.path().join("file"), &node, now), 7);
        Ok(())
    }
}
