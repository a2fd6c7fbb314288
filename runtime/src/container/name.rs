//! Container names: which are allowed, and invented ones for containers that got none.

use std::io;

use super::id::random_bytes;

const ADJECTIVES: [&str; 48] = [
    "agile", "amber", "bold", "brave", "bright", "brisk", "calm", "candid", "clever", "coral",
    "crisp", "dapper", "deft", "eager", "fair", "fleet", "fond", "frank", "gentle", "glad",
    "golden", "grand", "happy", "hardy", "humble", "ivory", "jolly", "keen", "kind", "lively",
    "loyal", "lucid", "merry", "mild", "neat", "noble", "placid", "proud", "quick", "quiet",
    "rapid", "serene", "silver", "steady", "sunny", "tidy", "vivid", "witty",
];

const NOUNS: [&str; 64] = [
    "badger", "beaver", "bison", "bittern", "bunting", "condor", "crane", "curlew", "dormouse",
    "dunlin", "egret", "ermine", "falcon", "finch", "fox", "gannet", "gecko", "goshawk", "grebe",
    "grouse", "hare", "harrier", "heron", "hobby", "ibex", "ibis", "jackdaw", "jay", "kestrel",
    "kite", "lapwing", "linnet", "lynx", "magpie", "marten", "merlin", "moorhen", "newt",
    "nightjar", "nuthatch", "osprey", "otter", "owl", "petrel", "pipit", "plover", "puffin",
    "quail", "raven", "redstart", "robin", "ruff", "sable", "shrike", "siskin", "snipe", "stoat",
    "stork", "swift", "teal", "tern", "vole", "wagtail", "wren",
];

/// Whether a name has Docker's form: a letter or digit, then one or more of those, `_`, `.`, `-`.
pub fn valid(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_alphanumeric())
        && name.len() >= 2
        && bytes.all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

/// An `adjective_noun` that is not taken; with a number appended when the short ones are used up.
pub fn invent(taken: impl Fn(&str) -> bool) -> io::Result<String> {
    for attempt in 0u32.. {
        let [a, b, c, d] = random_bytes::<4>()?;
        let pick = |list: &[&'static str], byte: u8| {
            list.get(usize::from(byte) % list.len().max(1)).copied().unwrap_or("plain")
        };
        let mut name = format!("{}_{}", pick(&ADJECTIVES, a), pick(&NOUNS, b));
        if attempt >= 8 {
            name.push_str(&u16::from_be_bytes([c, d]).to_string());
        }
        if !taken(&name) {
            return Ok(name);
        }
    }
    Err(io::Error::other("every name is taken"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_dockers_form() {
        for good in ["ab", "a1", "Web-1", "a_b.c", "0x"] {
            assert!(valid(good), "{good}");
        }
        for bad in ["", "a", "-ab", ".ab", "a b", "a/b", "ä1", "ab\n"] {
            assert!(!valid(bad), "{bad}");
        }
    }

    #[test]
    fn invented_names_are_valid_and_free() {
        let name = invent(|_| false).unwrap();
        assert!(valid(&name), "{name}");
        let numbered =
            invent(|candidate| !candidate.ends_with(|c: char| c.is_ascii_digit())).unwrap();
        assert!(valid(&numbered), "{numbered}");
    }
}
