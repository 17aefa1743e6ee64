//! How long the tables of Services are. A table that grows at once on all nodes loses what is in no cache of flows; so somebody says when
//! it does, and what it was before, for as long as connections may live that began then.

use crate::{
    model::{Family, Service, TableSize},
    rows::ladder,
};

/// For so many seconds the length before is named: a day.
pub const NAMED: i64 = 24 * 60 * 60;

/// What is said of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Said {
    /// Its size.
    pub size: TableSize,
    /// When it has grown, in seconds since 1970, as long as the length before is named.
    pub grown: Option<i64>,
}

/// What is to be said of a table from now on, in seconds since 1970, of a Service with so many backends. A table does not shrink: by that
/// alone flows would be lost.
pub fn next(said: Option<Said>, backends: usize, now: i64) -> Said {
    let wanted = ladder(backends);
    let Some(said) = said else { return Said { size: wanted, grown: None } };
    let TableSize { length, previous } = said.size;
    if wanted.length > length {
        return Said { size: TableSize { length: wanted.length, previous: Some(length) }, grown: Some(now) };
    }
    match (previous, said.grown) {
        (Some(_), Some(grown)) if now.saturating_sub(grown) < NAMED => said,
        // Since when is not known: it begins now.
        (Some(_), None) => Said { grown: Some(now), ..said },
        (Some(_) | None, _) => Said { size: TableSize { length, previous: None }, grown: None },
    }
}

/// Backends of a Service, behind the port and of the family that has most of them.
pub fn backends(service: &Service) -> usize {
    let of = |family: Family| {
        let ports = service.endpoints.iter();
        ports.map(move |all| all.iter().filter(|endpoint| Family::of(&endpoint.address) == family).count())
    };
    of(Family::V4).chain(of(Family::V6)).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(length: u32, previous: Option<u32>, grown: Option<i64>) -> Said {
        Said { size: TableSize { length, previous }, grown }
    }

    #[test]
    fn a_table_grows_with_its_backends_and_names_for_a_day_what_it_was() {
        assert_eq!(next(None, 0, 7), said(1024, None, None));
        assert_eq!(next(None, 100, 7), said(8192, None, None));
        let small = Some(said(1024, None, None));
        assert_eq!(next(small, 16, 7), said(1024, None, None));
        let grown = said(2048, Some(1024), Some(7));
        assert_eq!(next(small, 17, 7), grown);
        assert_eq!(next(Some(grown), 17, 6 + NAMED), grown);
        assert_eq!(next(Some(grown), 17, 7 + NAMED), said(2048, None, None));
        assert_eq!(next(Some(grown), 40, 100), said(4096, Some(2048), Some(100)), "before the day is over");
    }

    #[test]
    fn a_table_never_shrinks() {
        assert_eq!(next(Some(said(8192, None, None)), 0, 7), said(8192, None, None));
    }

    #[test]
    fn what_is_not_known_begins_now() {
        assert_eq!(next(Some(said(2048, Some(1024), None)), 1, 7), said(2048, Some(1024), Some(7)));
    }
}
