//! Patterns for image names: `*`, `?` and `[a-z]`, none of which match a slash.

/// Bytes of pattern and text that are compared; names are shorter.
const MAX: usize = 512;

/// Whether `pattern` matches the whole of `text`. A malformed pattern matches nothing.
pub fn matches(pattern: &str, text: &str) -> bool {
    if pattern.len() > MAX || text.len() > MAX {
        return false;
    }
    let pattern: Vec<char> = pattern.chars().collect();
    let text: Vec<char> = text.chars().collect();
    let (mut p, mut t) = (0, 0);
    // Where to go on when the last star has to take one more character.
    let mut star: Option<(usize, usize)> = None;
    loop {
        let step = match (pattern.get(p), text.get(t)) {
            (None, None) => return true,
            (Some('*'), _) => {
                star = Some((p + 1, t));
                p += 1;
                continue;
            }
            (Some(_), Some(c)) => one(pattern.get(p..).unwrap_or_default(), *c),
            _ => None,
        };
        match (step, star) {
            (Some(length), _) => {
                p += length;
                t += 1;
            }
            (None, Some((after, from))) if text.get(from).is_some_and(|c| *c != '/') => {
                star = Some((after, from + 1));
                (p, t) = (after, from + 1);
            }
            (None, _) => return false,
        }
    }
}

/// How much of the pattern's start matches the character `c`.
fn one(pattern: &[char], c: char) -> Option<usize> {
    match pattern {
        ['?', ..] => (c != '/').then_some(1),
        ['\\', wanted, ..] => (*wanted == c).then_some(2),
        ['[', class @ ..] => {
            let (negated, mut class) = match class {
                ['^', rest @ ..] => (true, rest),
                _ => (false, class),
            };
            let mut found = false;
            let mut first = true;
            loop {
                match class {
                    [']', rest @ ..] if !first => {
                        let length = pattern.len() - rest.len();
                        return (found != negated && c != '/').then_some(length);
                    }
                    [low, '-', high, rest @ ..] if *high != ']' => {
                        found |= (*low..=*high).contains(&c);
                        class = rest;
                    }
                    [single, rest @ ..] => {
                        found |= *single == c;
                        class = rest;
                    }
                    [] => return None,
                }
                first = false;
            }
        }
        [wanted, ..] => (*wanted == c).then_some(1),
        [] => None,
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns() {
        for (pattern, text, expected) in [
            ("debian", "debian", true),
            ("deb*", "debian", true),
            ("*", "a/b", false),
            ("*/*", "a/b", true),
            ("*:1.?", "app:1.2", true),
            ("*an*", "debian:12", true),
            ("[a-d]ebian", "debian", true),
            ("[^a-d]ebian", "debian", false),
            ("a[", "a[", false),
            ("a\\*", "a*", true),
            ("", "", true),
            ("", "a", false),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXbYbZ", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }
}
