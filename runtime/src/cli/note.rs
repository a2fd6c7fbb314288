//! Telling of what a command did, for `events`.

use std::collections::BTreeMap;

use super::Context;
use crate::container::Container;
use crate::events::{self, Event};

/// The attributes of a container's events: its labels, image and name, and what is added.
pub fn attributes(container: &Container, more: &[(&str, &str)]) -> BTreeMap<String, String> {
    crate::monitor::attributes(container, more)
}

/// Tells of something that was done to a container.
pub fn container(context: &Context, action: &str, container: &Container, more: &[(&str, &str)]) {
    let attributes = attributes(container, more);
    let event = Event::now("container", action, container.config.id.as_str(), attributes);
    // What was done is done, whether it can be told or not.
    events::record(&context.root, &event).ok();
}
