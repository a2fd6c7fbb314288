//! `cowl info`.

use super::{Context, Failure, print};
use crate::probe;

/// Shows what was found, one line each.
pub fn run(context: &Context) -> Result<u8, Failure> {
    let findings = probe::findings(&context.standing, &context.root);
    let text: String =
        findings.into_iter().map(|(about, sentence)| format!("{about}: {sentence}\n")).collect();
    print(text.as_bytes())?;
    Ok(0)
}
