//! Annotations: ours, and those of MetalLB's that stand for fields.

use std::collections::BTreeMap;

use lb_core::model::L2Mode;

use crate::problem::{ProblemKind, Report, Severity};

const PREFIX: &str = "magnetite.io/";
/// MetalLB's, the new one first.
const METALLB: [&str; 2] = ["metallb.io", "metallb.universe.tf"];
/// Who answers ARP and NDP: of a Service, and of an L2Advertisement.
pub(crate) const L2: &str = "magnetite.io/l2";
pub(crate) const L2_MODES: [(&str, L2Mode); 2] = [("owner", L2Mode::Owner), ("spread", L2Mode::Spread)];
pub(crate) const L2_EXPECTED: &str = "owner or spread";

/// Where an annotation stands, as a path.
pub(crate) fn annotation(name: &str) -> String {
    format!("metadata.annotations[{name}]")
}

/// Those of an object.
pub(crate) struct Annotations(pub BTreeMap<String, String>);

impl Annotations {
    /// Ours that the kind does not read; those of others are none of our business.
    pub fn report_unknown(&self, known: &'static [&'static str], report: &mut Report<'_>) {
        let ours = self.0.keys().filter(|name| name.starts_with(PREFIX));
        for name in ours.filter(|name| !known.contains(&name.as_str())) {
            report.add(Severity::Warning, annotation(name), ProblemKind::UnknownAnnotation { known });
        }
    }

    /// MetalLB's by the old prefix: they still mean something.
    pub fn report_old(&self, report: &mut Report<'_>) {
        let [new, old] = METALLB;
        for key in self.0.keys() {
            if let Some(name) = key.strip_prefix(old).and_then(|rest| rest.strip_prefix('/')) {
                let kind = ProblemKind::OldPrefix { annotation: key.clone(), new: format!("{new}/{name}") };
                report.add(Severity::Warning, annotation(key), kind);
            }
        }
    }

    /// MetalLB's, by the new prefix or the old: its field and its value.
    pub fn metallb(&self, name: &str) -> Option<(String, &String)> {
        METALLB.iter().find_map(|prefix| {
            let key = format!("{prefix}/{name}");
            Some((annotation(&key), self.0.get(&key)?))
        })
    }

    /// `None` if the value is none of these; `Some(None)` if the annotation is not there.
    pub fn one_of<T: Copy>(
        &self,
        name: &str,
        values: &[(&str, T)],
        expected: &'static str,
        report: &mut Report<'_>,
    ) -> Option<Option<T>> {
        let Some(text) = self.0.get(name) else { return Some(None) };
        match values.iter().find(|(value, _)| value == text) {
            Some((_, value)) => Some(Some(*value)),
            None => {
                report.bad_value(annotation(name), text, expected);
                None
            }
        }
    }
}
