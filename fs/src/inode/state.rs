//! The state of a node, kept small.
//!
//! Most nodes are files with one name that lie untouched in a lower, or whole in the upper. Millions
//! of them may be known at once, so for these a short form is kept: directory, name, and which of
//! the directory's lowers has the file. It stands for one [`State`] and nothing else. Whoever reads
//! or changes more than the short form answers gets a whole [`State`], made when it is asked for;
//! when the change is done the short form is taken again if it fits.

use std::cell::OnceCell;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::{Link, Node, Place, Source, State};
use crate::layer::{At, LowerRef};

/// Longest name that is kept in the short form itself: what fits beside the rest in 32 bytes.
const SHORT: usize = 20;
/// Number of a lower that says: in the upper. Layers are numbered below it.
const UPPER: u16 = u16::MAX;

enum Form {
    /// One name of at most [`SHORT`] bytes; in the upper, or in this lower of the directory.
    Short { parent: Arc<Node>, name: [u8; SHORT], len: u8, lower: u16 },
    /// The same with a longer name.
    Long { parent: Arc<Node>, name: Box<[u8]>, lower: u16 },
    /// Anything else.
    Whole(Box<State>),
    /// Out with the holder of the write lock.
    Taken,
}

/// The number of the lower of `parent` that has `place`, if place and name say nothing more.
fn number(parent: &Node, name: &[u8], place: &Place) -> Option<u16> {
    match place {
        Place::Upper => Some(UPPER),
        Place::Lower(LowerRef { layer, at: At::HostFile(dir, file) }) if **file == *name => {
            let lowers = parent.dir.as_deref()?.settled.get()?;
            let at = lowers.iter().position(|l| {
                l.layer == *layer && matches!(&l.at, At::HostDir(d) if Arc::ptr_eq(d, dir))
            })?;
            u16::try_from(at).ok().filter(|n| *n != UPPER)
        }
        Place::Lower(LowerRef { layer, at: At::Packed(file) }) => {
            let lowers = parent.dir.as_deref()?.settled.get()?;
            let at = lowers.iter().position(|l| {
                l.layer == *layer
                    && matches!(&l.at, At::Packed(d) if d.child(name).is_some_and(|c| c.same(file)))
            })?;
            u16::try_from(at).ok().filter(|n| *n != UPPER)
        }
        _ => None,
    }
}

/// The place that a short form stands for.
fn place(parent: &Node, name: &[u8], lower: u16) -> Place {
    let lowers = parent.dir.as_deref().and_then(|d| d.settled.get());
    // A number was taken from this list, which is never changed.
    match lowers.and_then(|l| l.get(usize::from(lower))) {
        Some(LowerRef { layer, at: At::HostDir(dir) }) if lower != UPPER => {
            Place::Lower(LowerRef { layer: *layer, at: At::HostFile(Arc::clone(dir), name.into()) })
        }
        Some(LowerRef { layer, at: At::Packed(dir) }) if lower != UPPER => match dir.child(name) {
            Some(file) => Place::Lower(LowerRef { layer: *layer, at: At::Packed(file) }),
            // Found there when the number was taken: the index was cut short since, and gives errors.
            None => Place::Lower(LowerRef { layer: *layer, at: At::Packed(dir.clone()) }),
        },
        _ => Place::Upper,
    }
}

impl Form {
    fn new(state: State) -> Form {
        let State { links, place, data: None, held: None, nlink: None } = &state else {
            return Form::Whole(Box::new(state));
        };
        let [Link { parent, name }] = &**links else { return Form::Whole(Box::new(state)) };
        let Some(lower) = number(parent, name, place) else {
            return Form::Whole(Box::new(state));
        };
        let mut short = [0; SHORT];
        match short.get_mut(..name.len()) {
            Some(part) => {
                part.copy_from_slice(name);
                let parent = Arc::clone(parent);
                Form::Short { parent, name: short, len: name.len() as u8, lower }
            }
            None => Form::Long { parent: Arc::clone(parent), name: name.clone(), lower },
        }
    }

    /// What the short form says: directory, name, lower.
    fn short(&self) -> Option<(&Arc<Node>, &[u8], u16)> {
        match self {
            Form::Short { parent, name, len, lower } => {
                Some((parent, name.get(..usize::from(*len)).unwrap_or_default(), *lower))
            }
            Form::Long { parent, name, lower } => Some((parent, name, *lower)),
            Form::Whole(_) | Form::Taken => None,
        }
    }

    fn whole(&self) -> State {
        let (links, place) = match self.short() {
            Some((parent, name, lower)) => {
                let link = Link { parent: Arc::clone(parent), name: name.into() };
                (vec![link], place(parent, name, lower))
            }
            None => (Vec::new(), Place::Upper),
        };
        State { links, place, data: None, held: None, nlink: None }
    }
}

/// The state of a node behind its lock.
pub struct StateCell(RwLock<Form>);

impl StateCell {
    /// A cell that holds `state`.
    pub fn new(state: State) -> StateCell {
        StateCell(RwLock::new(Form::new(state)))
    }

    /// Locks the state for reading.
    pub fn read(&self) -> Reading<'_> {
        Reading { form: self.0.read(), whole: OnceCell::new() }
    }

    /// Locks the state for a change.
    pub fn write(&self) -> Writing<'_> {
        let mut form = self.0.write();
        let state = match std::mem::replace(&mut *form, Form::Taken) {
            Form::Whole(state) => *state,
            other => other.whole(),
        };
        Writing { form, state }
    }
}

impl fmt::Debug for StateCell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        State::fmt(&self.read(), f)
    }
}

/// A state locked for reading. What the methods answer costs nothing; the fields of the whole
/// [`State`] may have to be made first.
pub struct Reading<'a> {
    form: RwLockReadGuard<'a, Form>,
    whole: OnceCell<State>,
}

impl Reading<'_> {
    /// The directory and name of a node with one name, no descriptor and no link count of its own.
    pub fn plain(&self) -> Option<(&Arc<Node>, &[u8])> {
        self.form.short().map(|(parent, name, _)| (parent, name))
    }

    /// Whether the object is in a lower.
    pub fn in_lower(&self) -> bool {
        match &*self.form {
            Form::Short { lower, .. } | Form::Long { lower, .. } => *lower != UPPER,
            Form::Whole(state) => matches!(state.place, Place::Lower(_)),
            Form::Taken => false,
        }
    }

    /// Where the object is.
    pub fn place(&self) -> Place {
        match (&*self.form, self.form.short()) {
            (Form::Whole(state), _) => state.place.clone(),
            (_, Some((parent, name, lower))) => place(parent, name, lower),
            _ => Place::Upper,
        }
    }

    /// Where data is that the object does not have itself.
    pub fn source(&self) -> Option<&Source> {
        match &*self.form {
            Form::Whole(state) => state.data.as_ref(),
            _ => None,
        }
    }

    /// One of its names.
    pub fn first(&self) -> Option<Link> {
        match self.plain() {
            Some((parent, name)) => Some(Link { parent: Arc::clone(parent), name: name.into() }),
            None => self.links.first().cloned(),
        }
    }
}

impl Deref for Reading<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        match &*self.form {
            Form::Whole(state) => state,
            short => self.whole.get_or_init(|| short.whole()),
        }
    }
}

/// A state locked for a change; when it is let go, it takes the short form again if that fits.
pub struct Writing<'a> {
    form: RwLockWriteGuard<'a, Form>,
    state: State,
}

impl Deref for Writing<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        &self.state
    }
}

impl DerefMut for Writing<'_> {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.state
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        *self.form = Form::new(std::mem::take(&mut self.state));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_of_one_name_is_small() {
        assert!(size_of::<Form>() <= 32, "{}", size_of::<Form>());
        // With the two counts of an `Arc`: what malloc(3) has room for in a chunk of 96 bytes.
        assert!(size_of::<Node>() + 16 <= 88, "{}", size_of::<Node>());
    }
}
