//! `--filter KEY=VALUE`, as every list and prune command of Docker has it.
//!
//! A key may be given several times. Values of one key are alternatives, except for labels, which
//! must all be there. A key that the command does not know is an error, and so is a value that is
//! no truth value or no point in time where one is wanted.

pub mod glob;
pub mod point;

use std::collections::BTreeMap;

use regex_lite::Regex;

/// Why filters cannot be used, in Docker's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// There is no `=`.
    #[error(
        "invalid argument \"{0}\" for \"-f, --filter\" flag: bad format of filter (expected name=value)"
    )]
    Format(String),
    /// The command has no such filter.
    #[error("invalid filter '{0}'")]
    Unknown(String),
    /// The value does not fit.
    #[error("invalid filter '{key}=[{value}]'")]
    Value {
        /// The filter.
        key: String,
        /// What was given.
        value: String,
    },
}

/// All the filters of one command.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filters {
    values: BTreeMap<String, Vec<String>>,
}

impl Filters {
    /// Reads what was given on the command line; `known` are the filters that the command has.
    ///
    /// # Errors
    /// When one is malformed or unknown.
    pub fn parse(given: &[String], known: &[&str]) -> Result<Filters, FilterError> {
        let mut values: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for text in given {
            let (key, value) =
                text.split_once('=').ok_or_else(|| FilterError::Format(text.clone()))?;
            // `label!=x` is the filter `label!`.
            let key = key.trim().to_lowercase();
            if !known.contains(&key.as_str()) {
                return Err(FilterError::Unknown(key));
            }
            values.entry(key).or_default().push(value.trim().to_owned());
        }
        Ok(Filters { values })
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// What was given for a key.
    pub fn values(&self, key: &str) -> &[String] {
        self.values.get(key).map_or(&[], Vec::as_slice)
    }

    /// Whether a key was given.
    pub fn has(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    /// Whether `text` is one of the values; true when the key was not given.
    pub fn is(&self, key: &str, text: &str) -> bool {
        self.passes(key, |value| value == text)
    }

    /// Whether `text` begins with one of the values; true when the key was not given.
    pub fn is_prefix(&self, key: &str, text: &str) -> bool {
        self.passes(key, |value| text.starts_with(value))
    }

    /// Whether one of the values, taken as a regular expression, occurs in `text`; true when the
    /// key was not given. What is no regular expression is compared as it is.
    pub fn matches(&self, key: &str, text: &str) -> bool {
        self.passes(key, |value| match Regex::new(value) {
            Ok(pattern) => pattern.is_match(text),
            Err(_) => value == text,
        })
    }

    /// Whether `test` holds for one of the values; true when the key was not given.
    pub fn passes(&self, key: &str, test: impl Fn(&str) -> bool) -> bool {
        let values = self.values(key);
        values.is_empty() || values.iter().any(|value| test(value))
    }

    /// Whether all filters `label` (and none of `label!`) hold for an object with these labels.
    pub fn labels<'a, F>(&self, label: F) -> bool
    where
        F: Fn(&str) -> Option<&'a str>,
    {
        let holds = |wanted: &String| match wanted.split_once('=') {
            Some((key, value)) => label(key) == Some(value),
            None => label(wanted).is_some(),
        };
        self.values("label").iter().all(holds) && !self.values("label!").iter().any(holds)
    }

    /// The truth value of a key.
    ///
    /// # Errors
    /// When it is none, or several contradict each other.
    pub fn truth(&self, key: &str) -> Result<Option<bool>, FilterError> {
        let mut found = None;
        for value in self.values(key) {
            let truth = match value.as_str() {
                "1" | "t" | "T" | "true" | "TRUE" | "True" => true,
                "0" | "f" | "F" | "false" | "FALSE" | "False" => false,
                _ => return Err(self.wrong(key, value)),
            };
            if found.is_some_and(|found| found != truth) {
                return Err(self.wrong(key, &self.values(key).join(" ")));
            }
            found = Some(truth);
        }
        Ok(found)
    }

    /// The point in time of a key, in nanoseconds since 1970; `now` is where spans count from.
    ///
    /// # Errors
    /// When it is none, or there are several.
    pub fn point(&self, key: &str, now: i128) -> Result<Option<i128>, FilterError> {
        match self.values(key) {
            [] => Ok(None),
            [value] => point::parse(value, now).map(Some).ok_or_else(|| self.wrong(key, value)),
            several => Err(self.wrong(key, &several.join(" "))),
        }
    }

    /// The error for a value that does not fit.
    pub fn wrong(&self, key: &str, value: &str) -> FilterError {
        FilterError::Value { key: key.to_owned(), value: value.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(given: &[&str]) -> Result<Filters, FilterError> {
        let given: Vec<String> = given.iter().map(|text| (*text).to_owned()).collect();
        Filters::parse(&given, &["name", "label", "label!", "dangling", "until"])
    }

    #[test]
    fn values_are_alternatives_and_labels_are_not() {
        let filters = parse(&["name=web", "name=^db$", "label=a", "label=b=2"]).unwrap();
        assert!(filters.matches("name", "my-web-1") && filters.matches("name", "db"));
        assert!(!filters.matches("name", "db1"));
        assert!(filters.is("name", "web") && !filters.is("name", "we"));
        assert!(filters.is_prefix("name", "webs") && filters.is("other", "anything"));
        let labels = |pairs: &'static [(&str, &str)]| {
            move |key: &str| pairs.iter().find(|(k, _)| *k == key).map(|(_, v)| *v)
        };
        assert!(filters.labels(labels(&[("a", ""), ("b", "2")])));
        assert!(!filters.labels(labels(&[("a", ""), ("b", "3")])));
        assert!(!filters.labels(labels(&[("b", "2")])));
        let without = parse(&["label!=a"]).unwrap();
        assert!(without.labels(labels(&[("b", "")])) && !without.labels(labels(&[("a", "x")])));
        // Not an expression: taken as it is.
        assert!(parse(&["name=a("]).unwrap().matches("name", "a("));
    }

    #[test]
    fn mistakes_in_dockers_words() {
        assert_eq!(
            parse(&["name"]).unwrap_err().to_string(),
            "invalid argument \"name\" for \"-f, --filter\" flag: bad format of filter (expected name=value)"
        );
        assert_eq!(parse(&["x=1"]).unwrap_err().to_string(), "invalid filter 'x'");
        let wrong = parse(&["dangling=maybe"]).unwrap().truth("dangling").unwrap_err();
        assert_eq!(wrong.to_string(), "invalid filter 'dangling=[maybe]'");
        assert_eq!(parse(&["dangling=1"]).unwrap().truth("dangling"), Ok(Some(true)));
        assert!(parse(&["dangling=1", "dangling=false"]).unwrap().truth("dangling").is_err());
        assert_eq!(
            parse(&["until=10s"]).unwrap().point("until", 20_000_000_000),
            Ok(Some(10_000_000_000))
        );
        assert!(parse(&["until=soon"]).unwrap().point("until", 0).is_err());
        assert_eq!(parse(&[]).unwrap().point("until", 0), Ok(None));
    }
}
