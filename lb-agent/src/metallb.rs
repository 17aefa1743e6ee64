//! What is told to MetalLB's programs and means nothing here: named, and left out, so that a pod begins with the arguments that it had.

use std::{env, ffi::OsString};

use clap::{
    Parser,
    error::{ContextKind, ContextValue, ErrorKind},
};

/// The roles, for which MetalLB has programs.
const ROLES: [&str; 2] = ["controller", "node"];

/// What MetalLB's programs read of their environment, and ours do not (`controller/main.go`, `speaker/main.go`).
const VARIABLES: [&str; 14] = [
    "METALLB_ML_SECRET_NAME",
    "METALLB_DEPLOYMENT",
    "METALLB_BGP_TYPE",
    "METALLB_HOST",
    "METALLB_ML_BIND_ADDR",
    "METALLB_ML_BIND_PORT",
    "METALLB_ML_LABELS",
    "METALLB_ML_SECRET_KEY_PATH",
    "METALLB_BGP_DEBOUNCE_TIMEOUT",
    "FRRK8S_NAMESPACE",
    "FRR_CONFIG_FILE",
    "FRR_RELOADER_PID_FILE",
    "METALLB_LOG_LEVEL",
    "METALLB_ML_WAN_CONFIG",
];

/// The arguments, and flags of a role that are not known. Everything else that is wrong ends the program.
pub fn parse<T: Parser>(arguments: impl Iterator<Item = OsString>) -> (T, Vec<String>) {
    parse_leniently(arguments.collect()).unwrap_or_else(|error| error.exit())
}

fn parse_leniently<T: Parser>(mut arguments: Vec<OsString>) -> Result<(T, Vec<String>), clap::Error> {
    let is_role = arguments.get(1).is_some_and(|role| ROLES.iter().any(|name| role == name));
    let mut ignored = Vec::new();
    loop {
        let error = match T::try_parse_from(&arguments) {
            Ok(parsed) => return Ok((parsed, ignored)),
            Err(error) => error,
        };
        let flag = match error.get(ContextKind::InvalidArg) {
            Some(ContextValue::String(flag)) if is_role && error.kind() == ErrorKind::UnknownArgument => {
                flag.clone()
            }
            _ => return Err(error),
        };
        let is_it = |argument: &OsString| {
            let text = argument.to_string_lossy();
            text == flag.as_str() || text.strip_prefix(&flag).is_some_and(|rest| rest.starts_with('='))
        };
        // Of a flag; what follows one that is left out may be its value, and goes with it.
        let Some(place) = arguments.iter().skip(2).position(is_it).map(|place| place + 2) else {
            return Err(error);
        };
        let is_flag = flag.starts_with('-');
        if !is_flag && ignored.is_empty() {
            return Err(error);
        }
        arguments.remove(place);
        if is_flag {
            ignored.push(flag);
        }
    }
}

/// Says which flags are left out.
pub fn warn_of_flags(ignored: &[String]) {
    if !ignored.is_empty() {
        tracing::warn!(flags = ignored.join(" "), "not known, and ignored: lb-agent help says which are");
    }
}

/// Says which variables of MetalLB's mean nothing.
pub fn warn_of_environment() {
    let set: Vec<&str> = VARIABLES.into_iter().filter(|name| env::var_os(name).is_some()).collect();
    if !set.is_empty() {
        tracing::warn!(variables = set.join(" "), "these mean nothing here, and are ignored");
    }
}

#[cfg(test)]
mod tests {
    use clap::Subcommand;

    use super::*;

    #[derive(Parser, Debug)]
    struct Program {
        #[command(subcommand)]
        command: Command,
    }

    #[derive(Subcommand, Debug)]
    enum Command {
        Node {
            #[arg(long)]
            port: Option<u16>,
        },
        Status,
    }

    fn parsed(line: &str) -> Result<String, ErrorKind> {
        let arguments = line.split(' ').map(OsString::from).collect();
        let parsed = parse_leniently::<Program>(arguments).map_err(|error| error.kind())?;
        let (Program { command }, ignored) = parsed;
        Ok(format!("{command:?} {}", ignored.join(" ")).trim().to_owned())
    }

    #[test]
    fn flags_that_are_not_known_are_left_out_of_roles_and_of_nothing_else() {
        for (line, expected) in [
            ("lb-agent node --port 7472", Ok("Node { port: Some(7472) }")),
            (
                "lb-agent node --tls-min-version=VersionTLS12 --port=7472 --ml-bindport 7946 --pprof",
                Ok("Node { port: Some(7472) } --tls-min-version --ml-bindport --pprof"),
            ),
            ("lb-agent node --port=x", Err(ErrorKind::ValueValidation)),
            ("lb-agent node typo", Err(ErrorKind::UnknownArgument)),
            ("lb-agent status --tls-min-version=x", Err(ErrorKind::UnknownArgument)),
        ] {
            assert_eq!(parsed(line), expected.map(str::to_owned), "{line}");
        }
    }
}
