//! Joins the listings of a directory on both sides by name, in little memory.

use std::cmp::Ordering;

use crate::fs::tree::{ListedKind, Listing};

/// The index for a side that has no such name.
const NONE: u32 = u32::MAX;

/// Two listings and, in the order of the names, the indices of each name in both.
#[derive(Default)]
pub(super) struct Joined {
    source: Listing,
    replica: Listing,
    places: Vec<(u32, u32)>,
}

/// A name, and its kind as listed on each side; `None` if a side lacks it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct ListedPair<'a> {
    pub name: &'a [u8],
    pub source: Option<ListedKind>,
    pub replica: Option<ListedKind>,
}

impl Joined {
    pub fn new(source: Listing, replica: Listing) -> Self {
        let mut places = Vec::with_capacity(source.len().max(replica.len()));
        let (mut ours, mut theirs) = (0, 0);
        while ours < source.len() || theirs < replica.len() {
            let order = match (source.get(ours), replica.get(theirs)) {
                (Some((ours, _)), Some((theirs, _))) => ours.cmp(theirs),
                (Some(_), None) => Ordering::Less,
                (None, _) => Ordering::Greater,
            };
            let place = |at: usize| u32::try_from(at).unwrap_or(NONE);
            places.push((
                if order.is_le() { place(ours) } else { NONE },
                if order.is_ge() { place(theirs) } else { NONE },
            ));
            ours += usize::from(order.is_le());
            theirs += usize::from(order.is_ge());
        }
        Self { source, replica, places }
    }

    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Returns the pairs of a range of indices.
    pub fn pairs(&self, range: std::ops::Range<usize>) -> impl Iterator<Item = ListedPair<'_>> {
        self.places[range].iter().filter_map(|(ours, theirs)| {
            let (ours, theirs) =
                (self.source.get(*ours as usize), self.replica.get(*theirs as usize));
            let (name, _) = ours.or(theirs)?;
            Some(ListedPair {
                name,
                source: ours.map(|(_, hint)| hint),
                replica: theirs.map(|(_, hint)| hint),
            })
        })
    }

    /// Returns the reserved names of both sides (I7).
    pub fn reserved(&self) -> impl Iterator<Item = &[u8]> {
        self.replica.reserved().chain(self.source.reserved())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::tree::Root;
    use crate::model::error::Side;

    fn listing(names: &[&str]) -> Listing {
        let dir = tempfile::tempdir().unwrap();
        for name in names {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        let root = Root::new(dir.path(), Side::Source);
        root.open_source().unwrap().0.list().unwrap()
    }

    #[test]
    fn each_name_comes_once_with_the_sides_that_have_it() {
        let reserved = ".twindir.0123456789abcdef.tmp";
        let joined = Joined::new(listing(&["a", "c", "d"]), listing(&["b", "c", reserved, "z"]));
        let seen: Vec<_> = joined
            .pairs(0..joined.len())
            .map(|pair| {
                (
                    std::str::from_utf8(pair.name).unwrap(),
                    pair.source.is_some(),
                    pair.replica.is_some(),
                )
            })
            .collect();
        let wanted = [
            ("a", true, false),
            ("b", false, true),
            ("c", true, true),
            ("d", true, false),
            ("z", false, true),
        ];
        assert_eq!(seen, wanted);
        assert_eq!(joined.reserved().collect::<Vec<_>>(), [reserved.as_bytes()]);
    }
}
