//! The Secret with which nodes prove to each other that they belong together: made where it is missing, and never changed.

use std::{fmt::Write, time::Duration};

use aws_lc_rs::error::Unspecified;
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};

use crate::chain::chain;

/// MetalLB's name for it.
const NAME: &str = "memberlist";
/// Where in it the secret is.
const KEY: &str = "secretkey";
/// Random bytes in it.
const LENGTH: usize = 64;
/// It is looked for again, in case somebody has deleted it: nodes that begin then would find nobody.
const EVERY: Duration = Duration::from_secs(60);
/// After a failure.
const AGAIN: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Refused(#[from] kube::Error),
    #[error("no random numbers are to be had")]
    Random,
}

impl From<Unspecified> for Error {
    fn from(_: Unspecified) -> Self {
        Self::Random
    }
}

/// Sees to it that there is one, for ever. Two who do it at once do no harm: the API server takes the first.
pub(super) async fn keep(client: Client, namespace: String) {
    let secrets: Api<Secret> = Api::namespaced(client, &namespace);
    let mut is_failing = false;
    loop {
        let pause = match make_if_missing(&secrets).await {
            Ok(is_new) => {
                if is_new {
                    tracing::info!(
                        secret = NAME,
                        namespace,
                        "made: with it nodes prove that they belong together"
                    );
                }
                is_failing = false;
                EVERY
            }
            Err(error) => {
                if !is_failing {
                    tracing::warn!(
                        secret = NAME,
                        namespace,
                        error = %chain(&error),
                        "neither found nor made: without it nodes take each other to be well; it is tried again"
                    );
                }
                is_failing = true;
                AGAIN
            }
        };
        tokio::time::sleep(pause).await;
    }
}

async fn make_if_missing(secrets: &Api<Secret>) -> Result<bool, Error> {
    if secrets.get_metadata_opt(NAME).await?.is_some() {
        return Ok(false);
    }
    let mut random = [0; LENGTH];
    aws_lc_rs::rand::fill(&mut random)?;
    let text = random.iter().fold(String::new(), |mut text, byte| {
        // A string takes everything.
        let _ = write!(text, "{byte:02x}");
        text
    });
    let secret = Secret {
        metadata: ObjectMeta { name: Some(NAME.to_owned()), ..ObjectMeta::default() },
        string_data: Some([(KEY.to_owned(), text)].into()),
        ..Secret::default()
    };
    match secrets.create(&PostParams::default(), &secret).await {
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        created => Ok(created.map(|_| true)?),
    }
}
