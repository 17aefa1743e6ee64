//! Limits of the process. In a program of its own: what is set here holds for all of it.

use std::error::Error;

use lb_agent::node::raise_open_files;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

#[test]
fn as_many_files_may_be_open_as_the_kernel_allows() -> Result<(), Box<dyn Error>> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(64), maximum })?;
    assert_eq!(raise_open_files()?, maximum);
    assert_eq!(getrlimit(Resource::Nofile), Rlimit { current: maximum, maximum });
    Ok(())
}
