//! What happened to containers, images, networks and volumes: for `events`.
//!
//! There is no daemon that could tell; whoever does something appends a line to a file of the
//! store. The file is bounded: a full one becomes `events.json.1`, over the one before. A line
//! that cannot be written is no reason not to do what it tells of.
//!
//! Lines are Docker's JSON objects.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

/// When the file is full.
const FULL: u64 = 4 << 20;

/// Something with an id and attributes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Actor {
    /// Its id.
    #[serde(rename = "ID")]
    pub id: String,
    /// Name, image, labels, and what the action adds.
    pub attributes: BTreeMap<String, String>,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// `container`, `image`, `network`, `volume`.
    #[serde(rename = "Type")]
    pub kind: String,
    /// `create`, `start`, `die`, …
    #[serde(rename = "Action")]
    pub action: String,
    /// To what.
    #[serde(rename = "Actor")]
    pub actor: Actor,
    /// Always `local`.
    pub scope: String,
    /// Seconds since 1970.
    pub time: i64,
    /// Nanoseconds since 1970.
    #[serde(rename = "timeNano")]
    pub nanoseconds: i64,
}

impl Event {
    /// Something that happens now.
    pub fn now(kind: &str, action: &str, id: &str, attributes: BTreeMap<String, String>) -> Self {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self {
            kind: kind.to_owned(),
            action: action.to_owned(),
            actor: Actor { id: id.to_owned(), attributes },
            scope: "local".to_owned(),
            time: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
            nanoseconds: i64::try_from(since.as_nanos()).unwrap_or(i64::MAX),
        }
    }
}

fn place(root: &Path) -> PathBuf {
    root.join("events.json")
}

fn older(root: &Path) -> PathBuf {
    root.join("events.json.1")
}

/// Writes an event down in the store at `root`.
pub fn record(root: &Path, event: &Event) -> io::Result<()> {
    let mut line = serde_json::to_vec(event)?;
    line.push(b'\n');
    let path = place(root);
    let mut file = OpenOptions::new().create(true).append(true).mode(0o600).open(&path)?;
    if file.metadata()?.len() >= FULL {
        // Two at once: the second finds a small file, and its line is in one or the other.
        fs::rename(&path, older(root))?;
        file = OpenOptions::new().create(true).append(true).mode(0o600).open(&path)?;
    }
    // One write: lines of several processes do not mix.
    file.write_all(&line)
}

/// Reads events, also those to come.
#[derive(Debug)]
pub struct Reader {
    root: PathBuf,
    files: Vec<BufReader<File>>,
    begun: Vec<u8>,
}

impl Reader {
    /// From the oldest that is kept.
    pub fn open(root: &Path) -> io::Result<Self> {
        let mut files = Vec::new();
        for path in [place(root), older(root)] {
            match File::open(path) {
                Ok(file) => files.push(BufReader::new(file)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Self { root: root.to_owned(), files, begun: Vec::new() })
    }

    /// The next one; none when there is no more for now.
    pub fn next_event(&mut self) -> io::Result<Option<Event>> {
        loop {
            let Some(file) = self.files.last_mut() else {
                match File::open(place(&self.root)) {
                    Ok(file) => self.files.push(BufReader::new(file)),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                    Err(error) => return Err(error),
                }
                continue;
            };
            file.read_until(b'\n', &mut self.begun)?;
            if self.begun.ends_with(b"\n") {
                let parsed = serde_json::from_slice(&self.begun);
                self.begun.clear();
                if let Ok(event) = parsed {
                    return Ok(Some(event));
                }
                continue;
            }
            if self.files.len() == 1 && !self.replaced()? {
                return Ok(None);
            }
            // It is not written to any more; what came meanwhile is read first.
            let Some(file) = self.files.last_mut() else { continue };
            if file.fill_buf()?.is_empty() {
                self.begun.clear();
                self.files.pop();
            }
        }
    }

    /// Whether the file that is read is no longer the newest.
    fn replaced(&self) -> io::Result<bool> {
        let Some(file) = self.files.last() else { return Ok(true) };
        let ours = file.get_ref().metadata()?;
        match fs::metadata(place(&self.root)) {
            Ok(now) => Ok((now.dev(), now.ino()) != (ours.dev(), ours.ino())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(action: &str) -> Event {
        Event::now("container", action, "abc", BTreeMap::from([("name".into(), "n".into())]))
    }

    #[test]
    fn events_are_read_as_they_come() {
        let root = tempfile::tempdir().unwrap();
        let mut reader = Reader::open(root.path()).unwrap();
        assert_eq!(reader.next_event().unwrap(), None);
        record(root.path(), &event("create")).unwrap();
        record(root.path(), &event("start")).unwrap();
        assert_eq!(reader.next_event().unwrap().unwrap().action, "create");
        assert_eq!(reader.next_event().unwrap().unwrap().action, "start");
        assert_eq!(reader.next_event().unwrap(), None);
        fs::rename(place(root.path()), older(root.path())).unwrap();
        record(root.path(), &event("die")).unwrap();
        assert_eq!(reader.next_event().unwrap().unwrap().action, "die");
        assert_eq!(reader.next_event().unwrap(), None);
        let mut all = Reader::open(root.path()).unwrap();
        let mut actions = Vec::new();
        while let Some(event) = all.next_event().unwrap() {
            actions.push(event.action);
        }
        assert_eq!(actions, ["create", "start", "die"]);
    }

    #[test]
    fn the_file_is_bounded() {
        let root = tempfile::tempdir().unwrap();
        fs::write(place(root.path()), vec![b'\n'; usize::try_from(FULL).unwrap()]).unwrap();
        record(root.path(), &event("create")).unwrap();
        assert!(fs::metadata(place(root.path())).unwrap().len() < 1000);
        assert!(older(root.path()).exists());
    }
}
