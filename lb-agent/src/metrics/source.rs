//! What both roles say of the API server (MetalLB: `internal/k8s/controllers/stats.go`).

use std::{collections::BTreeMap, fmt};

use super::out::Out;

/// How objects are heard of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceFacts {
    /// Changes of objects that were looked at.
    pub updates: u64,
    /// Failures of the API server to tell of changes.
    pub errors: u64,
    /// Whether everything there is has been read, and something by which we are configured is there.
    pub is_loaded: bool,
    /// Whether it is otherwise than what is gone by: something is wrong with it, or changes are not heard of.
    pub is_stale: bool,
    /// Whether changes are heard of, by kind; nothing where objects come from files.
    pub heard: BTreeMap<&'static str, bool>,
}

impl SourceFacts {
    pub(super) fn encode(&self, out: &mut Out) -> fmt::Result {
        let alone = |value: u64| [([], value)];
        out.counters(
            "metallb_k8s_client_updates",
            "Number of k8s object updates that have been processed.",
            alone(self.updates),
        )?;
        out.counters(
            "metallb_k8s_client_update_errors",
            "Number of k8s object updates that failed for some reason.",
            alone(self.errors),
        )?;
        out.gauge(
            "metallb_k8s_client_config_loaded_bool",
            "1 if the MetalLB configuration was successfully loaded at least once.",
            f64::from(u8::from(self.is_loaded)),
        )?;
        out.gauge(
            "metallb_k8s_client_config_stale_bool",
            "1 if running on a stale configuration, because the latest config failed to load.",
            f64::from(u8::from(self.is_stale)),
        )?;
        out.gauges(
            "magnetite_source_heard",
            "1 if changes of objects of a kind are heard of from the API server; 0 while what is known of them holds without.",
            self.heard.iter().map(|(kind, is_heard)| ([("kind", *kind)], f64::from(u8::from(*is_heard)))),
        )
    }
}
