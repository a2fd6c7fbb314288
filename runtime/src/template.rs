//! Go's text templates, as people use them with `--format`.
//!
//! Docker hands its objects to Go's `text/template`; scripts everywhere rely on it. This room reads
//! that language and applies it to JSON values: fields and indexes, pipelines, `if`, `range`,
//! `with`, variables, comparisons, `printf`, and the functions that Docker adds (`json`, `join`,
//! `split`, `upper`, `lower`, `title`, `pad`, `truncate`). Named templates (`define`, `block`,
//! `template`) are refused by name. Errors have Go's wording, with line and column.
//!
//! JSON does not tell Go's structs from its maps, nor a nil list from a nil string. Where that
//! shows, the name of the field decides: `Labels`, `Ports` and the like are maps, in which a
//! missing key is no error; `Env`, `Cmd` and the like are lists, which print as `[]` when null.

mod ast;
mod exec;
mod functions;
mod lex;
mod parse;
mod print;
mod printf;

use serde_json::Value;

pub use print::{display, json};

/// A template that was understood.
#[derive(Debug, Clone)]
pub struct Template {
    source: String,
    nodes: Vec<ast::Node>,
}

/// Why a template cannot be used, in Go's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// It is not a template.
    #[error("template parsing error: template: :{line}: {why}")]
    Parse {
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        why: String,
    },
    /// It does not fit what it was applied to.
    #[error("template parsing error: template: :{line}:{column}: executing \"\" at <{at}>: {why}")]
    Execute {
        /// The line, from 1.
        line: usize,
        /// The byte in the line.
        column: usize,
        /// The part of the template.
        at: String,
        /// What is wrong.
        why: String,
    },
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// When it is malformed, or calls an unknown function.
    pub fn parse(source: &str) -> Result<Template, TemplateError> {
        let nodes = parse::parse(source).map_err(|wrong| TemplateError::Parse {
            line: line(source, wrong.at),
            why: wrong.why,
        })?;
        Ok(Template { source: source.to_owned(), nodes })
    }

    /// Applies it to a value.
    ///
    /// # Errors
    /// When it asks for a field that the value does not have, or calls a function wrongly.
    pub fn render(&self, value: &Value) -> Result<String, TemplateError> {
        exec::render(&self.source, &self.nodes, value, false)
    }

    /// Applies it to the titles of columns, for the first line of a table: the functions that
    /// change a value's form leave a title as it is.
    ///
    /// # Errors
    /// As [`Template::render`].
    pub fn render_titles(&self, titles: &Value) -> Result<String, TemplateError> {
        exec::render(&self.source, &self.nodes, titles, true)
    }

    /// The names of the fields of the value that it shows by themselves (`{{.ID}}`), in order.
    pub fn fields(&self) -> Vec<String> {
        let mut fields = Vec::new();
        exec::fields(&self.nodes, &mut fields);
        fields
    }
}

/// The line of a byte, from 1.
fn line(source: &str, at: usize) -> usize {
    source.as_bytes().iter().take(at).filter(|byte| **byte == b'\n').count() + 1
}

#[cfg(test)]
mod tests;
