//! What a transfer tells while it goes on.

/// What happens to one layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// It will be pulled.
    Waiting,
    /// It is in the store.
    Exists,
    /// It comes: so many bytes of so many.
    Downloading(u64, u64),
    /// The connection broke; tried again after so many seconds.
    Retrying(u64),
    /// All of it is here, and is what it should be.
    Downloaded,
    /// It is put into the store.
    Extracting,
    /// It is in the store.
    Pulled,
    /// It will be pushed.
    Preparing,
    /// It is compressed.
    Compressing,
    /// It goes: so many bytes of so many.
    Pushing(u64, u64),
    /// The registry has it in this repository.
    OnRegistry,
    /// The registry took it from another repository.
    Mounted(String),
    /// The registry has it now.
    Pushed,
}

/// Who is told. Called from several threads.
pub trait Progress: Sync {
    /// A sentence about the whole.
    fn say(&self, text: &str);
    /// Something happened to a layer, named by twelve digits.
    fn step(&self, layer: &str, step: &Step);
}

/// Nobody is told.
#[derive(Debug)]
pub struct Silent;

impl Progress for Silent {
    fn say(&self, _text: &str) {}
    fn step(&self, _layer: &str, _step: &Step) {}
}
