//! Owner ids: how those of the layers are shown, and those asked for are stored.
//!
//! Options of fuse-overlayfs: `uidmapping`/`gidmapping` (a list of inside:outside:length as in
//! user_namespaces(7)), `squash_to_root`, `squash_to_uid`, `squash_to_gid`. The same mapping is used
//! in every reply (defect D9).

/// One range: ids `inside..inside+len` of the mount are `outside..outside+len` in the layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// First id as users of the mount see it.
    pub inside: u32,
    /// First id as the layers store it.
    pub outside: u32,
    /// Number of ids.
    pub len: u32,
}

/// The id shown for one that no range maps (Linux's default overflow id).
const UNMAPPED: u32 = 65534;

/// The mapping of one mount.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdMap {
    /// Ranges of user ids; empty: identity.
    pub uids: Vec<Range>,
    /// Ranges of group ids; empty: identity.
    pub gids: Vec<Range>,
    /// Every file is shown with this owner.
    pub squash_uid: Option<u32>,
    /// Every file is shown with this group.
    pub squash_gid: Option<u32>,
}

fn shown(ranges: &[Range], id: u32) -> u32 {
    if ranges.is_empty() {
        return id;
    }
    ranges
        .iter()
        .find(|r| id >= r.outside && id - r.outside < r.len)
        .map_or(UNMAPPED, |r| r.inside + (id - r.outside))
}

fn stored(ranges: &[Range], id: u32) -> Option<u32> {
    if ranges.is_empty() {
        return Some(id);
    }
    ranges
        .iter()
        .find(|r| id >= r.inside && id - r.inside < r.len)
        .map(|r| r.outside + (id - r.inside))
}

/// The ids that a user namespace maps (`/proc/self/uid_map`, `gid_map`; user_namespaces(7)).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mapped {
    uids: Vec<(u32, u32)>,
    gids: Vec<(u32, u32)>,
}

impl Mapped {
    /// From the text of the two files: lines of first id inside, first id outside, length.
    pub fn parse(uids: &str, gids: &str) -> Mapped {
        let ranges = |text: &str| {
            text.lines()
                .filter_map(|line| {
                    let mut words = line.split_ascii_whitespace();
                    let first = words.next()?.parse().ok()?;
                    Some((first, words.nth(1)?.parse().ok()?))
                })
                .collect()
        };
        Mapped { uids: ranges(uids), gids: ranges(gids) }
    }

    /// The owner, with root in place of ids that are not mapped.
    pub fn or_root(&self, uid: u32, gid: u32) -> (u32, u32) {
        let keep = |ranges: &[(u32, u32)], id: u32| {
            let mapped = ranges.iter().any(|&(first, len)| id >= first && id - first < len);
            if mapped { id } else { 0 }
        };
        (keep(&self.uids, uid), keep(&self.gids, gid))
    }
}

impl IdMap {
    /// The owner to show for a stored one.
    pub fn show(&self, uid: u32, gid: u32) -> (u32, u32) {
        (
            self.squash_uid.unwrap_or_else(|| shown(&self.uids, uid)),
            self.squash_gid.unwrap_or_else(|| shown(&self.gids, gid)),
        )
    }

    /// The user id to store; `None` when no range holds it.
    pub fn store_uid(&self, uid: u32) -> Option<u32> {
        stored(&self.uids, uid)
    }

    /// The group id to store; `None` when no range holds it.
    pub fn store_gid(&self, gid: u32) -> Option<u32> {
        stored(&self.gids, gid)
    }

    /// Reads `inside:outside:length[:inside:outside:length…]`, fuse-overlayfs's form.
    pub fn parse_ranges(text: &str) -> Option<Vec<Range>> {
        let numbers: Vec<u32> = text.split(':').map(str::parse).collect::<Result<_, _>>().ok()?;
        if numbers.is_empty() || !numbers.len().is_multiple_of(3) {
            return None;
        }
        let mut out = Vec::new();
        for triple in numbers.chunks_exact(3) {
            let &[inside, outside, len] = triple else { return None };
            inside.checked_add(len)?;
            outside.checked_add(len)?;
            out.push(Range { inside, outside, len });
        }
        Some(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_map_both_ways() {
        let m = IdMap {
            uids: IdMap::parse_ranges("0:1000:1:1:100000:65536").unwrap(),
            ..IdMap::default()
        };
        assert_eq!(m.show(1000, 7), (0, 7));
        assert_eq!(m.show(100_000, 7), (1, 7));
        assert_eq!(m.show(5, 5), (UNMAPPED, 5));
        assert_eq!(m.store_uid(0), Some(1000));
        assert_eq!(m.store_uid(70_000), None);
    }

    #[test]
    fn what_is_not_mapped_is_shown_as_root() {
        let m = Mapped::parse("         0       1000          1\n", "0 1000 1\n1 100000 10\n");
        assert_eq!(m.or_root(0, 5), (0, 5));
        assert_eq!(m.or_root(42, 11), (0, 0));
    }

    #[test]
    fn malformed_ranges_are_refused() {
        for bad in ["", "1", "1:2", "a:b:c", "0:4294967295:2"] {
            assert_eq!(IdMap::parse_ranges(bad), None, "{bad}");
        }
    }
}
